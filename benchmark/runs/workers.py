"""Where jobs run: in this process, or in worker processes of one thread each.

On CUDA one process keeps the device busy. On a CPU there is a worker for each core, with one
thread, so that a sum's last digits do not depend on the number of cores; fewer if memory is
short.

A method from outside may change anything in its process: its jobs run in a worker process, which is
replaced before a task of another method.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmark.config.registry import is_ours
from benchmark.runs.agenda import Agenda, Task
from benchmark.runs.job import run_job, run_prior
from benchmark.runs.score import one_thread
from benchmark.runs.workplace import Workplace
from benchmark.store.records import Job, JobRecord, Prior, PriorRecord

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: What Linux says of the machine's memory, and of the container's (version 2 of control groups).
MEMORY, MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
_REPORT_EVERY = 0.5  # seconds between two reports of one phase's steps
_PATIENCE = 20  # seconds that an idle worker has to end by itself


@dataclass(frozen=True)
class Started:
    """A worker took the task up."""

    task: Task


@dataclass(frozen=True)
class Stepped:
    """The task is in `phase`, which has done `done` of `steps`."""

    task: Task
    phase: str
    done: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """The task's files are written."""

    task: Task
    record: JobRecord | PriorRecord
    seconds: float  #: this time, from start to end
    means: dict[str, float] = field(default_factory=dict)  #: metric -> mean; of a job
    score_seconds: float = 0.0


@dataclass(frozen=True)
class Failed:
    """The task raised something, or its worker died; `error` is the last line of why."""

    task: Task
    error: str
    trace: str = ""  #: the whole of why


Event = Started | Stepped | Finished | Failed
Listener = Callable[[Event], None]


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


def execute(agenda: Agenda, workplace: Workplace, *, workers: int, listen: Listener) -> None:
    """Do every task of `agenda`, telling `listen` what happens.

    A task that fails stops only those that need it. KeyboardInterrupt ends the workers at once.
    """
    if workers == 1 and not any(_outside(work.task) for work in agenda.waiting):
        _execute_here(agenda, workplace, listen)
    else:
        _execute_in_workers(agenda, workplace, workers, listen)


def _outside(task: Task) -> str:
    """The method of `task` if it does not come with this package; else an empty string."""
    if isinstance(task, Prior) or is_ours("methods", task.fit.method):
        return ""
    return task.method


def _execute_here(agenda: Agenda, workplace: Workplace, listen: Listener) -> None:
    one_thread()
    while (task := agenda.take()) is not None:
        listen(Started(task))
        _settle(_attempt(task, workplace, listen), agenda, workplace, listen)


def _settle(event: Event, agenda: Agenda, workplace: Workplace, listen: Listener) -> None:
    """Pass `event` on; where it ends a task, let go or give up what waits for it."""
    listen(event)
    if isinstance(event, Finished):
        agenda.finish(event.task)
    if isinstance(event, Failed):
        for lost in agenda.give_up(event.task):
            failed = Failed(lost, f"its prior images failed: {event.error}", event.trace)
            _keep_error(failed, workplace)
            listen(failed)


def _keep_error(failed: Failed, workplace: Workplace) -> None:
    if isinstance(failed.task, Job):
        text = failed.trace or failed.error + "\n"
        workplace.directory.write_error(failed.task.name, text)


def _attempt(task: Task, workplace: Workplace, listen: Listener) -> Finished | Failed:
    started = last = time.monotonic()
    shown = ""

    def tell(phase: str, done: int, steps: int) -> None:
        nonlocal last, shown
        if phase != shown or time.monotonic() - last >= _REPORT_EVERY:
            last, shown = time.monotonic(), phase
            listen(Stepped(task, phase, done, steps))

    try:
        if isinstance(task, Prior):
            record = run_prior(task, workplace, tell=tell)
            return Finished(task, record, time.monotonic() - started)
        done = run_job(task, workplace, tell=tell)
        seconds = time.monotonic() - started
        return Finished(task, done.record, seconds, done.means, done.score_seconds)
    except (Exception, SystemExit) as error:  # a plugin that exits ends no run
        failed = Failed(task, f"{type(error).__name__}: {error}", traceback.format_exc())
        _keep_error(failed, workplace)
        return failed


class _Worker:
    """A process with one task at a time, so that a death says which task it was."""

    def __init__(self, context: Any, workplace: Workplace) -> None:
        self.task: Task | None = None
        self.outside = ""  #: the method from outside that has run in it
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, workplace))
        self.process.start()
        theirs.close()

    def take(self, task: Task) -> None:
        self.task, self.outside = task, _outside(task)
        self.connection.send(task)

    def stop(self) -> None:
        """End the process whose connection is closed: by itself if it is idle, else at once."""
        if self.task is None:
            self.process.join(_PATIENCE)
        self.process.terminate()
        self.process.join()


def _execute_in_workers(
    agenda: Agenda, workplace: Workplace, workers: int, listen: Listener
) -> None:
    if workers > 1 or not on_cuda():
        # Read when a library is loaded, so they must stand before the workers start.
        os.environ.update(dict.fromkeys(_THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    crew: list[_Worker] = []
    try:
        while True:
            _hand_out(agenda, crew, workers, lambda: _Worker(context, workplace), listen)
            busy = {worker.connection: worker for worker in crew if worker.task is not None}
            if not busy:
                return
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                event = _event(worker, workplace)
                _settle(event, agenda, workplace, listen)
                if isinstance(event, Finished | Failed):
                    worker.task = None
    finally:
        for worker in crew:
            worker.connection.close()  # all of them at once: the idle ones end by themselves
        for worker in crew:
            worker.stop()


def _hand_out(
    agenda: Agenda,
    crew: list[_Worker],
    workers: int,
    hire: Callable[[], _Worker],
    listen: Listener,
) -> None:
    """Give tasks that are ready to idle workers, and to new ones while there are too few.

    What ran a method from outside takes more of that method; before another it is replaced.
    """
    crew[:] = [worker for worker in crew if worker.task or worker.process.is_alive()]
    idle = [worker for worker in crew if worker.task is None]
    while idle or len(crew) < workers:
        worker = idle.pop() if idle else None
        task = agenda.take(worker.outside if worker else "")
        if task is None:
            return
        if worker and worker.outside not in ("", _outside(task)):
            crew.remove(worker)
            worker.connection.close()
            worker.stop()
            worker = None
        if worker is None:
            worker = hire()
            crew.append(worker)
        worker.take(task)
        listen(Started(task))


def _event(worker: _Worker, workplace: Workplace) -> Event:
    assert worker.task is not None
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        error = f"its worker process died (exit code {worker.process.exitcode}); out of memory?"
        failed = Failed(worker.task, error)
        _keep_error(failed, workplace)
        return failed


def _serve(connection: Connection, workplace: Workplace) -> None:
    """A worker's life: take tasks until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; our parent sees to it
    one_thread()

    def tell(event: Event) -> None:
        try:
            connection.send(event)
        except BrokenPipeError:  # our parent is gone, and nobody waits for this task
            os._exit(1)

    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        tell(_attempt(task, workplace, tell))
