"""Where jobs run: in worker processes, of one thread each on a CPU.

On CUDA one process keeps the device busy. On a CPU there is a worker for each core, with one
thread, so that a sum's last digits do not depend on the number of cores; fewer if memory is
short.

A method may raise anything, exit, crash, never return, or change its process: that fails its job,
and the worker is replaced, as it is before it takes a task from a method that is not ours to one
of another.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from benchmark.api import UserError
from benchmark.config.registry import is_ours
from benchmark.runs.agenda import Agenda, Task
from benchmark.runs.attempt import Event, Failed, Finished, Listener, Started, Stepped, attempt
from benchmark.runs.score import one_thread
from benchmark.runs.worker_process import serve
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.files import WriteError
from benchmark.store.records import Job, Prior

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: What Linux says of the machine's memory, and of the container's (version 2 of control groups).
MEMORY, MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
_LOOK_EVERY = 0.2  # seconds between two looks at the clock and at who is alive
_PATIENCE = 20  # seconds that an idle worker has to end by itself


def worker_count(jobs: int, *, memory: int | None = None, free: int | None = None) -> int:
    """How many workers suit this machine: one on CUDA, else one a core, and no more than jobs.

    Nor more than fit into `free` bytes if each takes `memory`; None: not known.
    """
    if on_cuda():
        return 1
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    fitting = jobs if memory is None or free is None else free // memory
    return max(1, min(cores, jobs, fitting))


def on_cuda() -> bool:
    """Whether jobs run on a GPU."""
    import torch

    return torch.cuda.is_available()


def free_memory() -> int | None:
    """Bytes of main memory to be had, within a container's limit; None where Linux does not say."""
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMORY.read_text(), re.MULTILINE)
    except OSError:
        return None
    if available is None:
        return None
    free = 1024 * int(available[1])
    with suppress(OSError, ValueError):  # no such file, or no limit: "max"
        free = min(free, int(MEMORY_LIMIT.read_text()))
    return free


def execute(
    agenda: Agenda,
    workplace: Workplace,
    *,
    workers: int,
    listen: Listener,
    job_timeout: float | None = None,
) -> None:
    """Do every task of `agenda` in `workers` processes, telling `listen` what happens.

    A task that fails, or takes more than `job_timeout` seconds once it is loaded, stops only those
    that need it. KeyboardInterrupt ends the workers at once, and so does a disk on which nothing
    can be written any more: that raises UserError. With 0 workers everything is done in
    this process, for tests: no method is kept from harming it, and nothing ends in time.
    """
    if workers == 0:
        _execute_here(agenda, workplace, listen)
    else:
        _Crew(agenda, workplace, workers, listen, job_timeout).work()


def _execute_here(agenda: Agenda, workplace: Workplace, listen: Listener) -> None:
    one_thread()
    while (task := agenda.take()) is not None:
        listen(Started(task))
        _settle(attempt(task, workplace, listen), agenda, workplace, listen)


def _settle(event: Event, agenda: Agenda, workplace: Workplace, listen: Listener) -> None:
    """Pass `event` on; where it ends a task, let go or give up what waits for it."""
    listen(event)
    if isinstance(event, Finished):
        agenda.finish(event.task)
    if isinstance(event, Failed):
        if event.halt:
            raise UserError(event.halt)
        if isinstance(event.task, Job):
            keep_error(event.task, event.trace or event.error + "\n", workplace.directory)
        for lost in agenda.give_up(event.task):
            reason = f"its prior images failed: {event.error}"
            _settle(Failed(lost, reason, event.trace), agenda, workplace, listen)


def keep_error(job: Job, why: str, directory: RunDirectory) -> None:
    """Write why `job` failed beside its record; say so if that fails too, and go on."""
    try:
        directory.write_error(job.name, why)
    except WriteError as error:
        what = f"warning: why {job.label} failed could not be written"
        print(f"{what}: {error}", file=sys.stderr, flush=True)


def _outside(task: Task) -> str:
    """The method of `task` if it does not come with this package; else an empty string."""
    if isinstance(task, Prior) or is_ours("methods", task.fit.method):
        return ""
    return task.method


class _Worker:
    """A process with one task at a time, so that a death says which task it was."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.task: Task | None = None
        self.outside = ""  #: the method from outside that has run in it
        self.connection, self._theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(self._theirs,))
        self._last: Stepped | None = None
        self._since = 0.0  # when the last report of loading came, or the first one after it

    def start(self, workplace: Workplace) -> None:
        self._process.start()
        self._theirs.close()
        self._send(workplace)

    def _send(self, what: Workplace | Task) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `hear` will say so
            self.connection.send(what)

    def take(self, task: Task) -> None:
        self.task, self.outside, self._last = task, _outside(task), None
        self._send(task)

    def alive(self) -> bool:
        return self._process.is_alive()

    def hear(self, limit: float | None) -> Event | None:
        """What it says, or that it died or has been at its task for `limit` seconds, if so."""
        assert self.task is not None
        try:
            if self.connection.poll():
                return self._heard(self.connection.recv())
        except (EOFError, ConnectionResetError):
            self._process.join(1)  # it may have closed the connection alone
            return Failed(self.task, self._death(), spoiled=True)
        if not self.alive() and not self.connection.poll():  # what it started holds the connection
            return Failed(self.task, self._death(), spoiled=True)
        if limit is not None and self._last and time.monotonic() - self._since > limit:
            at = f"{self._last.phase}, {self._last.done} of {self._last.steps}"
            error = f"it took more than {limit:g} s, the time limit of a job; it was at: {at}"
            return Failed(self.task, error, spoiled=True)
        return None

    def _heard(self, event: Event) -> Event:
        if isinstance(event, Stepped):
            if self._last is None or self._last.phase == "loading":
                self._since = time.monotonic()
            self._last = event
        return event

    def _death(self) -> str:
        code = self._process.exitcode
        if code is None:
            return "its worker process closed its connection"
        if code >= 0:
            return f"its worker process ended with exit code {code}"
        if -code == signal.SIGTERM:
            time.sleep(1)  # sent to all of us, as Slurm does, it may reach us a moment later
        hint = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"its worker process died (signal {-code}: {signal.strsignal(-code)}){hint}"

    def end(self, patience: float = 0.0) -> None:
        """End the process, in `patience` seconds if it does not by itself, and what it started."""
        self.connection.close()
        if self._process.pid is None:  # interrupted before it was started
            return
        if patience:
            self._process.join(patience)
        with suppress(ProcessLookupError, PermissionError):  # no group yet, or nobody left in it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(_PATIENCE)


@dataclass
class _Crew:
    """Workers, and the tasks that they do."""

    agenda: Agenda
    workplace: Workplace
    size: int
    listen: Listener
    limit: float | None  #: seconds for one task
    workers: list[_Worker] = field(default_factory=list)

    def work(self) -> None:
        """Do every task; then all workers have ended, as they have if this is interrupted."""
        if self.size > 1 or not on_cuda():
            # Read when a library is loaded, so they must stand before the workers start.
            os.environ.update(dict.fromkeys(_THREADS, "1"))
        patience = 0.0
        try:
            while busy := self._hand_out():
                wait([worker.connection for worker in busy], timeout=_LOOK_EVERY)
                for event in self._news(busy):
                    _settle(event, self.agenda, self.workplace, self.listen)
            patience = _PATIENCE
        finally:
            for worker in self.workers:
                worker.connection.close()  # all of them at once: the idle ones end by themselves
            for worker in self.workers:
                worker.end(patience)

    def _hand_out(self) -> list[_Worker]:
        """Give tasks that are ready to idle workers, and to new ones; the workers that are busy.

        What ran a method from outside takes more of that method; before another it is replaced.
        """
        self.workers = [worker for worker in self.workers if worker.task or worker.alive()]
        idle = [worker for worker in self.workers if worker.task is None]
        while idle or len(self.workers) < self.size:
            worker = idle.pop() if idle else None
            task = self.agenda.take(worker.outside if worker else "")
            if task is None:
                break
            if worker and worker.outside not in ("", _outside(task)):
                self._dismiss(worker, _PATIENCE)
                worker = None
            if worker is None:
                worker = _Worker()
                self.workers.append(worker)  # first, so that it ends however this is interrupted
                worker.start(self.workplace)
            worker.take(task)
            self.listen(Started(task))
        return [worker for worker in self.workers if worker.task]

    def _news(self, busy: list[_Worker]) -> Iterator[Event]:
        """What there is to hear of `busy` workers; those that are spoiled have ended by then."""
        for worker in busy:
            event = worker.hear(self.limit)
            if isinstance(event, Finished | Failed):
                worker.task = None
            if isinstance(event, Failed) and event.spoiled:
                self._dismiss(worker)
            if event is not None:
                yield event

    def _dismiss(self, worker: _Worker, patience: float = 0.0) -> None:
        self.workers.remove(worker)
        worker.end(patience)
