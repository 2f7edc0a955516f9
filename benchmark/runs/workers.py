"""Where jobs run: in this process, or in worker processes of one thread each.

On CUDA one process keeps the device busy. On a CPU there is a worker for each core, with one
thread, so that a sum's last digits do not depend on the number of cores; fewer where the memory
does not do for so many.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmark.runs.job import Workplace, run_job
from benchmark.store.records import Job, JobRecord

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: What Linux says of the machine's memory, and of the container's (version 2 of control groups).
MEMORY, MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
_REPORT_EVERY = 0.5  # seconds between two reports of a fit's steps


@dataclass(frozen=True)
class Started:
    """A worker took the job up."""

    job: Job


@dataclass(frozen=True)
class Stepped:
    """The job's fit has done `done` of `steps`."""

    job: Job
    done: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """The job's files are written."""

    job: Job
    record: JobRecord


@dataclass(frozen=True)
class Failed:
    """The job raised something, or its worker died; `error` is the last line of why."""

    job: Job
    error: str


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


def execute(jobs: Sequence[Job], workplace: Workplace, *, workers: int, listen: Listener) -> None:
    """Run every job, in about this order, telling `listen` what happens.

    A job that fails does not stop the others. KeyboardInterrupt ends the workers at once.
    """
    if workers == 1:
        _execute_here(jobs, workplace, listen)
    else:
        _execute_in_workers(jobs, workplace, workers, listen)


def _execute_here(jobs: Sequence[Job], workplace: Workplace, listen: Listener) -> None:
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    for job in jobs:
        listen(Started(job))
        listen(_attempt(job, workplace, listen))


def _attempt(job: Job, workplace: Workplace, listen: Listener) -> Finished | Failed:
    last = time.monotonic()

    def progress(done: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY:
            last = time.monotonic()
            listen(Stepped(job, done, steps))

    try:
        return Finished(job, run_job(job, workplace, progress=progress))
    except Exception as error:
        workplace.directory.write_error(job, traceback.format_exc())
        return Failed(job, f"{type(error).__name__}: {error}")


class _Worker:
    """A process with one job at a time, so that a death says which job it was."""

    def __init__(self, context: Any, workplace: Workplace, job: Job) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, workplace))
        self.process.start()
        theirs.close()
        self.take(job)

    def take(self, job: Job) -> None:
        self.job = job
        self.connection.send(job)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def _execute_in_workers(
    jobs: Sequence[Job], workplace: Workplace, workers: int, listen: Listener
) -> None:
    # Read when a library is loaded, so they must stand before the workers start.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    waiting = deque(jobs)
    at_work: dict[Connection, _Worker] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < workers:
                worker = _Worker(context, workplace, waiting.popleft())
                at_work[worker.connection] = worker
                listen(Started(worker.job))
            for ready in wait(list(at_work)):
                worker = at_work[ready]  # type: ignore[index]
                event = _event(worker, workplace)
                listen(event)
                if isinstance(event, Finished | Failed):
                    if waiting and worker.process.is_alive():
                        worker.take(waiting.popleft())
                        listen(Started(worker.job))
                    else:
                        at_work.pop(worker.connection).stop()
    finally:
        for worker in at_work.values():
            worker.stop()


def _event(worker: _Worker, workplace: Workplace) -> Event:
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        error = f"its worker process died (exit code {worker.process.exitcode}); out of memory?"
        workplace.directory.write_error(worker.job, error + "\n")
        return Failed(worker.job, error)


def _serve(connection: Connection, workplace: Workplace) -> None:
    """A worker's life: take jobs until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; our parent sees to it
    import torch

    torch.set_num_threads(1)

    def tell(event: Event) -> None:
        try:
            connection.send(event)
        except BrokenPipeError:  # our parent is gone, and nobody waits for this job
            os._exit(1)

    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        tell(_attempt(job, workplace, tell))
