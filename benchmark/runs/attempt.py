"""One task tried, and what happens told as events: nothing that it raises goes further.

event = attempt(task, workplace, listen)     # Finished or Failed; `listen` was told of its steps
"""

from __future__ import annotations

import errno
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmark.models.memory.halving import OutOfMemory, batches_taken, out_of_memory
from benchmark.runs.agenda import Task
from benchmark.runs.box import LeftBehind, in_words, plain
from benchmark.runs.job import run_job, run_prior
from benchmark.runs.workplace import Workplace
from benchmark.store.files import WriteError
from benchmark.store.records import JobRecord, Prior, PriorRecord

_NO_HANDLES = {errno.EMFILE, errno.ENFILE}  #: a process that has none left can do nothing more
_REPORT_EVERY = 0.5  # seconds between two reports of one phase's steps


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
    """The task raised something, took too long, or its worker died."""

    task: Task
    error: str  #: why, the kind of error first
    trace: str = ""  #: the whole of why
    spoiled: bool = False  #: whether its process should do nothing else
    halt: str = ""  #: why no other task can be done either, if so: the disk is full


@dataclass(frozen=True)
class Lost:
    """The worker is gone, and not by the task's doing: it is to be done by another."""

    task: Task
    why: str


@dataclass(frozen=True)
class Elsewhere:
    """Another process that shares the run directory has done the task, or failed at it."""

    task: Task
    failed: bool


Event = Started | Stepped | Finished | Failed | Lost | Elsewhere
Listener = Callable[[Event], None]


def attempt(task: Task, workplace: Workplace, listen: Listener) -> Finished | Failed:
    """Do `task`. Raises nothing but KeyboardInterrupt, and that only outside a worker process."""
    started = last = time.monotonic()
    shown = ""

    def tell(phase: str, done: int, steps: int) -> None:
        nonlocal last, shown
        if phase != shown or time.monotonic() - last >= _REPORT_EVERY:
            last, shown = time.monotonic(), phase
            listen(Stepped(task, phase, done, steps))

    batches_taken()  # those of a task that failed are no part of this one
    try:
        if isinstance(task, Prior):
            record = run_prior(task, workplace, tell=tell)
            return Finished(task, record, time.monotonic() - started)
        done = run_job(task, workplace, tell=tell)
        seconds = time.monotonic() - started
        return Finished(task, done.record, seconds, done.means, done.score_seconds)
    except BaseException as error:  # a plugin may raise anything, and exit
        if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
            raise  # Ctrl-C; a worker process ignores that, and there it is the plugin's own
        return _failed(task, error, shown)


def _failed(task: Task, error: BaseException, phase: str) -> Failed:
    """What `task` raised in `phase`, and what follows from it."""
    why, starved = in_words(error), out_of_memory(error)
    if starved:
        why = f"out of memory in {phase}: lower {_less(task)} ({why})"
    spoiled = not isinstance(error, Exception) or isinstance(error, LeftBehind | OutOfMemory)
    spoiled = spoiled or starved or getattr(error, "errno", None) in _NO_HANDLES
    halt = str(error) if isinstance(error, WriteError) and error.final else ""
    trace = "".join(traceback.format_exception(error))
    return Failed(task, why, plain(trace), spoiled, halt)


def _less(task: Task) -> str:
    """What may be lowered so that `task` takes less memory, by the names that it is set by."""
    own = {} if isinstance(task, Prior) else task.fit.settings
    batches = [key for key, value in own.items() if "batch" in key and value != 1]
    named = [f"the method's {key}, now {own[key]}" for key in batches]
    return ", ".join([*named, "[backbone] resolution, --precision (bf16), or --workers"])
