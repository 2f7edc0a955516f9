"""A plan that several processes do together, each with a part that it begins with: `run --shard`.

    with at_work(directory, Shard(3, 16)) as party:
        agenda = SharedAgenda(left, seconds, party, state, display)

Each takes a task by a claim on it (`store.claims`), looks whether it was done meanwhile, and goes
on with the others' part when its own is done. All of them need the same run directory, on one disk.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from benchmark.api import UserError
from benchmark.runs.agenda import Agenda, Task
from benchmark.runs.attempt import Elsewhere, Listener
from benchmark.store.claims import PROCESSES, Claims
from benchmark.store.directory import RunDirectory, job_path, prior_path
from benchmark.store.records import Job, Prior

_LOOK_AGAIN = 2.0  # seconds until a task that was another's is asked for again


@dataclass(frozen=True)
class Shard:
    """Which part of a plan a process begins with: the `number`th of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """What `3/16` says. Raises UserError."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found and 1 <= int(found[1]) <= int(found[2]):
            return cls(int(found[1]), int(found[2]))
        raise UserError(f"--shard '{text}': a number from 1 and how many there are, such as 3/16")


@dataclass(frozen=True)
class Party:
    """This process among those that share a run directory."""

    claims: Claims
    shard: Shard
    began: float  #: in seconds, by the clock of the disk

    @property
    def others(self) -> list[str]:
        """The other processes that are at work, in words."""
        return self.claims.processes()

    def leave(self) -> None:
        """Be at work no more. Who ends without the report does so before the lock is let go:
        else the next to end would take this process for one that will write it."""
        self.claims.give_back(f"{PROCESSES}/{self.claims.owner.name}")


@contextmanager
def at_work(directory: RunDirectory, shard: Shard) -> Iterator[Party]:
    """Have this process at work in `directory` as others see it; what it claims is given back."""
    claims = Claims(directory.path)
    with claims.kept_alive():
        claims.take(f"{PROCESSES}/{claims.owner.name}")
        yield Party(claims, shard, claims.now())


#: Of a task: "failed" since this process began.
State = Literal["open", "done", "failed"]


@dataclass
class SharedAgenda(Agenda):
    """What is left of a plan, of which others do some meanwhile."""

    party: Party = field(kw_only=True)
    state: Callable[[Task], State] = field(kw_only=True)
    listen: Listener = field(kw_only=True)
    _not_before: dict[int, float] = field(default_factory=dict)  #: id of a task -> when to ask

    def __post_init__(self) -> None:
        super().__post_init__()
        number, count = self.party.shard.number, self.party.shard.count
        own = [i % count == number - 1 for i in range(len(self.waiting))]
        order = sorted(range(len(self.waiting)), key=lambda i: (not own[i], i))
        priors = [self.waiting[i] for i in order if isinstance(self.waiting[i].task, Prior)]
        jobs = [self.waiting[i] for i in order if isinstance(self.waiting[i].task, Job)]
        self.waiting = priors + jobs

    def take(self, method: str = "") -> Task | None:
        """As `Agenda.take`, of what nobody else is at; what others have done is told of."""
        now = time.monotonic()
        for work in self._ready(method):
            if self._not_before.get(id(work.task), 0.0) > now:
                continue
            name = _name(work.task)
            if not self.party.claims.take(name):
                self._not_before[id(work.task)] = now + _LOOK_AGAIN
                continue
            state = self.state(work.task)
            if state == "open":
                return self._chosen(work)
            self.party.claims.give_back(name)
            self.waiting.remove(work)
            if isinstance(work.task, Prior):
                self._coming.discard(work.task.key)
            self.listen(Elsewhere(work.task, failed=state == "failed"))
        return None

    @property
    def expects(self) -> bool:
        """Whether something waits for prior images that others are drawing."""
        return any(w.waits_for in self._coming for w in self.waiting if w.waits_for)

    def put_back(self, task: Task) -> None:
        self.party.claims.give_back(_name(task))
        super().put_back(task)

    def finish(self, task: Task) -> None:
        super().finish(task)
        self.party.claims.give_back(_name(task))

    def give_up(self, task: Task) -> list[Task]:
        self.party.claims.give_back(_name(task))
        return super().give_up(task)


def _name(task: Task) -> str:
    return prior_path(task.key) if isinstance(task, Prior) else job_path(task.name)


def failed_since(directory: RunDirectory, job: Job, began: float) -> bool:
    """Whether `job` has failed since `began`, by the clock of the disk."""
    path = directory.path / f"{job_path(job.name)}.error.txt"
    try:
        return path.stat().st_mtime >= began
    except FileNotFoundError:
        return False
