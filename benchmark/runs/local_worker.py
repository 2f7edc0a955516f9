"""Workers on this machine: processes, of one thread each on a CPU.

place = ThisMachine(Resources(workers=2).slots(20, memory=None))
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess

from benchmark.runs.agenda import Task
from benchmark.runs.attempt import Event, Failed, Stepped
from benchmark.runs.machine import Slot, in_words
from benchmark.runs.worker_process import serve
from benchmark.runs.workplace import Workplace
from benchmark.store.records import Job

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_KILLED_IN = 20  # seconds that a process may take to be gone


@dataclass
class ThisMachine:
    """A worker in each slot."""

    slots: tuple[Slot, ...]
    workplace: Workplace | None = None
    _taken: dict[int, int] = field(default_factory=dict)  #: id of a worker -> its slot's place

    def __post_init__(self) -> None:
        if len(self.slots) > 1 or self.slots == ("",):
            # Read when a library is loaded, so they must stand before the workers start.
            os.environ.update(dict.fromkeys(_THREADS, "1"))

    @property
    def where(self) -> str:
        """How many workers on what, in words."""
        return in_words(self.slots)

    @property
    def room(self) -> int:
        """How many workers there may be."""
        return len(self.slots)

    @contextmanager
    def serving(self, workplace: Workplace, jobs: Sequence[Job]) -> Iterator[ThisMachine]:
        """Itself, at work for one run directory."""
        self.workplace = workplace
        try:
            yield self
        finally:
            self._taken.clear()  # by then all workers have ended

    def hire(self) -> LocalWorker:
        assert self.workplace is not None
        free = min({*range(self.room)} - {*self._taken.values()})
        worker = LocalWorker(self.workplace, self.slots[free])
        self._taken[id(worker)] = free
        return worker

    def vacate(self, worker: LocalWorker) -> None:
        self._taken.pop(id(worker))

    @property
    def vacant(self) -> int:
        return len(self.slots) - len(self._taken)

    @property
    def expects(self) -> bool:
        return False

    def wait(self, busy: Sequence[LocalWorker], seconds: float) -> None:
        multiprocessing.connection.wait([worker.connection for worker in busy], timeout=seconds)


class LocalWorker:
    """A process of this machine, at `workplace`; `slot`: the GPU that it sees, or nothing."""

    def __init__(self, workplace: Workplace, slot: Slot = "") -> None:
        self.task: Task | None = None
        self.slot = slot
        self._workplace = workplace
        self._process: SpawnProcess | None = None
        self._last: Stepped | None = None
        self._since = 0.0  # when the last report of loading came, or the first one after it

    def take(self, task: Task) -> None:
        self.task, self._last = task, None
        if self._process is None or not self._process.is_alive():
            self._start()
        self._send(task)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.slot))
        self._process.start()
        theirs.close()
        self._send(self._workplace)

    def _send(self, what: Workplace | Task) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `hear` will say so
            self.connection.send(what)

    def hear(self, limit: float | None) -> Event | None:
        assert self.task is not None and self._process is not None
        try:
            if self.connection.poll():
                return self._heard(self.connection.recv())
        except (EOFError, ConnectionResetError):
            self._process.join(1)  # it may have closed the connection alone
            return Failed(self.task, self._death(), spoiled=True)
        if (
            not self._process.is_alive() and not self.connection.poll()
        ):  # what it started holds the connection
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
        code = self._process.exitcode if self._process else None
        if code is None:
            return "its worker process closed its connection"
        if code >= 0:
            return f"its worker process ended with exit code {code}"
        if -code == signal.SIGTERM:
            time.sleep(1)  # sent to all of us, as Slurm does, it may reach us a moment later
        hint = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"its worker process died (signal {-code}: {signal.strsignal(-code)}){hint}"

    def let_go(self) -> None:
        if self._process is not None:
            self.connection.close()

    def renew(self, patience: float = 0.0) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self.connection.close()
        if process.pid is None:  # interrupted before it was started
            return
        if patience:
            process.join(patience)
        with suppress(ProcessLookupError, PermissionError):  # no group yet, or nobody left in it
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join(_KILLED_IN)

    end = renew
