"""The workers that do a plan's tasks, each in a process of its own, wherever that is.

A method may raise anything, exit, crash, never return, or change its process: that fails its job,
and the worker is replaced, as it is before it takes a task from a method that is not ours to one
of another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from benchmark.config.registry import is_ours
from benchmark.runs.agenda import Agenda, Task
from benchmark.runs.attempt import Event, Failed, Finished, Listener, Started, attempt
from benchmark.runs.box import in_words
from benchmark.runs.score import one_thread
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.records import Job, Prior

_LOOK_EVERY = 0.2  # seconds between two looks at the clock and at who is alive
_PATIENCE = 20  # seconds that an idle worker has to end by itself


class Worker(Protocol):
    """A process with one task at a time, so that a death says which task it was."""

    def start(self, workplace: Workplace) -> None:
        """Let the process begin."""

    def take(self, task: Task) -> None:
        """Let it do `task`."""

    def alive(self) -> bool:
        """Whether it can take a task."""

    def hear(self, limit: float | None) -> Event | None:
        """What it says, or that it died or has been at its task for `limit` seconds, if so."""

    def let_go(self) -> None:
        """Tell it that there are no more tasks."""

    def end(self, patience: float = 0.0) -> None:
        """End the process, in `patience` seconds if it does not by itself, and what it started."""


AnyWorker = TypeVar("AnyWorker", bound=Worker)


class Place(Protocol[AnyWorker]):
    """Where workers are: this machine's cores or GPUs, or those of a cluster."""

    @property
    def size(self) -> int:
        """How many workers there may be at once."""

    def hire(self) -> AnyWorker:
        """One more, not yet started, where there is room."""

    def vacate(self, worker: AnyWorker) -> None:
        """`worker` has ended: there is room for another."""

    def wait(self, busy: Sequence[AnyWorker], seconds: float) -> None:
        """Return as soon as one of `busy` has something to say, and after `seconds` anyway."""


def execute(
    agenda: Agenda,
    workplace: Workplace,
    *,
    place: Place[AnyWorker] | None,
    listen: Listener,
    job_timeout: float | None = None,
) -> None:
    """Do every task of `agenda` by workers at `place`, telling `listen` what happens.

    A task that fails, or takes more than `job_timeout` seconds once it is loaded, stops only those
    that need it. KeyboardInterrupt ends the workers at once. Without a place everything is done in
    this process, for tests: no method is kept from harming it, and nothing ends in time.
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
        if isinstance(event.task, Job):
            keep_error(event.task, event.trace or event.error + "\n", workplace.directory)
        for lost in agenda.give_up(event.task):
            reason = f"its prior images failed: {event.error}"
            _settle(Failed(lost, reason, event.trace), agenda, workplace, listen)


def keep_error(job: Job, why: str, directory: RunDirectory) -> None:
    """Write why `job` failed beside its record; say so if that fails too, and go on."""
    try:
        directory.write_error(job.name, why)
    except OSError as error:
        what = f"warning: why {job.label} failed could not be written"
        print(f"{what}: {in_words(error)}", file=sys.stderr, flush=True)


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

    def work(self) -> None:
        """Do every task; then all workers have ended, as they have if this is interrupted."""
        patience = 0.0
        try:
            while busy := self._hand_out():
                self.place.wait([hand.worker for hand in busy], _LOOK_EVERY)
                for event in self._news(busy):
                    _settle(event, self.agenda, self.workplace, self.listen)
            patience = _PATIENCE
        finally:
            for hand in self.hands:
                hand.worker.let_go()  # all of them at once: the idle ones end by themselves
            for hand in self.hands:
                hand.worker.end(patience)

    def _hand_out(self) -> list[_Hand[AnyWorker]]:
        """Give tasks that are ready to idle workers, and to new ones; the workers that are busy.

        What ran a method from outside takes more of that method; before another it is replaced.
        """
        for dead in [one for one in self.hands if one.task is None and not one.worker.alive()]:
            self._dismiss(dead)
        idle = [one for one in self.hands if one.task is None]
        while idle or len(self.hands) < self.place.size:
            hand: _Hand[AnyWorker] | None = idle.pop() if idle else None
            task = self.agenda.take(hand.outside if hand else "")
            if task is None:
                break
            outside = _outside(task)
            if hand and hand.outside not in ("", outside):
                self._dismiss(hand, _PATIENCE)
                hand = None
            if hand is None:
                hand = _Hand(self.place.hire())
                self.hands.append(hand)  # first, so that it ends however this is interrupted
                hand.worker.start(self.workplace)
            hand.task, hand.outside = task, outside
            hand.worker.take(task)
            self.listen(Started(task))
        return [hand for hand in self.hands if hand.task]

    def _news(self, busy: list[_Hand[AnyWorker]]) -> Iterator[Event]:
        """What there is to hear of `busy` workers; those that are spoiled have ended by then."""
        for hand in busy:
            event = hand.worker.hear(self.limit)
            if isinstance(event, Finished | Failed):
                hand.task = None
            if isinstance(event, Failed) and event.spoiled:
                self._dismiss(hand)
            if event is not None:
                yield event

    def _dismiss(self, hand: _Hand[AnyWorker], patience: float = 0.0) -> None:
        self.hands.remove(hand)
        hand.worker.end(patience)
        self.place.vacate(hand.worker)
