"""The workers that do a plan's tasks, each in a process of its own, wherever that is.

A method may raise anything, exit, crash, never return, or change its process: that fails its job,
and the worker is replaced, as it is before it takes a task from a method that is not ours to one
of another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from benchmark.api import UserError
from benchmark.config.registry import is_ours
from benchmark.runs.agenda import Agenda, Task
from benchmark.runs.attempt import Event, Failed, Finished, Listener, Lost, Started, attempt
from benchmark.runs.score import one_thread
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.files import WriteError
from benchmark.store.records import Job, Prior

_LOOK_EVERY = 0.2  # seconds between two looks at the clock and at who is alive
_LOSSES = 3  #: workers that a task may lose
_PATIENCE = 20  # seconds that an idle worker has to end by itself


class Worker(Protocol):
    """A process with one task at a time, so that a death says which task it was."""

    def take(self, task: Task) -> None:
        """Have the process do `task`; start one if there is none."""

    def hear(self, limit: float | None) -> Event | None:
        """What it says, or that it died or has been at its task for `limit` seconds, if so."""

    def renew(self, patience: float = 0.0) -> None:
        """End the process, and what it started: the next task has another.

        Where it ends by itself, it has `patience` seconds for that.
        """

    def let_go(self) -> None:
        """Tell it that there are no more tasks."""

    def end(self, patience: float = 0.0) -> None:
        """As `renew`, for good."""


AnyWorker = TypeVar("AnyWorker", bound=Worker)


class Place(Protocol[AnyWorker]):
    """Where workers are: this machine's cores or GPUs, or those of a cluster."""

    @property
    def vacant(self) -> int:
        """How many more workers there may be."""

    @property
    def expects(self) -> bool:
        """Whether there may be room again although there is none, and nobody is at work."""

    def hire(self) -> AnyWorker:
        """One more, where there is room."""

    def vacate(self, worker: AnyWorker) -> None:
        """`worker` has ended for good."""

    def wait(self, busy: Sequence[AnyWorker], seconds: float) -> None:
        """Return as soon as one of `busy` has something to say, and after `seconds` anyway."""


def execute(
    agenda: Agenda,
    workplace: Workplace,
    *,
    place: Place[Any] | None,
    listen: Listener,
    job_timeout: float | None = None,
) -> None:
    """Do every task of `agenda` by workers at `place`, telling `listen` what happens.

    A task that fails, or takes more than `job_timeout` seconds once it is loaded, stops only those
    that need it. KeyboardInterrupt ends the workers at once, and so does a disk on which nothing
    can be written any more: that raises UserError. Without a place everything is done in this
    process, for tests: no method is kept from harming it, and nothing ends in time.
    """
    if place is None:
        _execute_here(agenda, workplace, listen)
    else:
        _Crew(agenda, workplace, place, listen, job_timeout).work()


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


@dataclass
class _Hand(Generic[AnyWorker]):
    """A worker, and what it is at."""

    worker: AnyWorker
    task: Task | None = None
    outside: str = ""  #: the method from outside that has run in it


@dataclass
class _Crew(Generic[AnyWorker]):
    """Workers, and the tasks that they do."""

    agenda: Agenda
    workplace: Workplace
    place: Place[AnyWorker]
    listen: Listener
    limit: float | None  #: seconds for one task
    hands: list[_Hand[AnyWorker]] = field(default_factory=list)
    losses: list[Task] = field(default_factory=list)  #: what lost workers were at

    def work(self) -> None:
        """Do every task; then all workers have ended, as they have if this is interrupted."""
        patience = 0.0
        try:
            while (busy := self._hand_out()) or self._expects():
                self.place.wait([hand.worker for hand in busy], _LOOK_EVERY)
                for event in self._news(busy):
                    _settle(event, self.agenda, self.workplace, self.listen)
            patience = _PATIENCE
        finally:
            for hand in self.hands:
                hand.worker.let_go()  # all of them at once: the idle ones end by themselves
            for hand in self.hands:
                hand.worker.end(patience)

    def _expects(self) -> bool:
        """Whether what waits may yet be done here, although nobody is at work."""
        return bool(self.agenda.waiting) and (self.place.expects or self.agenda.expects)

    def _hand_out(self) -> list[_Hand[AnyWorker]]:
        """Give tasks that are ready to idle workers, and to new ones; the workers that are busy.

        What ran a method from outside takes more of that method; before another it is renewed.
        """
        idle = [hand for hand in self.hands if hand.task is None]
        while idle or self.place.vacant:
            task = self.agenda.take(idle[-1].outside if idle else "")
            if task is None:
                break
            outside = _outside(task)
            if idle:
                hand = idle.pop()
            else:
                hand = _Hand(self.place.hire())
                self.hands.append(hand)  # first, so that it ends however this is interrupted
            if hand.outside not in ("", outside):
                hand.worker.renew(_PATIENCE)
            hand.task, hand.outside = task, outside
            hand.worker.take(task)
            self.listen(Started(task))
        return [hand for hand in self.hands if hand.task]

    def _news(self, busy: list[_Hand[AnyWorker]]) -> Iterator[Event]:
        """What there is to hear of `busy` workers; those that are spoiled have ended by then."""
        for hand in busy:
            event = hand.worker.hear(self.limit)
            if isinstance(event, Lost):
                self.hands.remove(hand)
                hand.worker.end()
                self.place.vacate(hand.worker)
                event = self._lost(event)
            if isinstance(event, Finished | Failed):
                hand.task = None
            if isinstance(event, Failed) and event.spoiled:
                hand.worker.renew()
                hand.outside = ""
            if event is not None:
                yield event

    def _lost(self, event: Lost) -> Lost | Failed:
        """Have the task done by another worker, unless it may be the task that loses them."""
        self.losses.append(event.task)
        times = sum(task is event.task for task in self.losses)
        if times < _LOSSES:
            self.agenda.put_back(event.task)
            return event
        return Failed(event.task, f"{times} workers were lost that were at it: {event.why}")
