"""A plan that several processes do together, each with a part that it begins with: `run --shard`.

    with at_work(directory, Shard(3, 16)) as party:
        agenda = SharedAgenda(left, seconds, party, state, display)

Each takes a task by a claim on it (`store.claims`), looks whether it was done meanwhile, and goes
on with the others' part when its own is done. All of them need the same run directory, on one disk.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.api import UserError
from benchmark.runs.agenda import Agenda, Task, Work, key_of
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


class SharedAgenda(Agenda):
    """What is left of a plan, of which others do some meanwhile."""

    def __init__(
        self,
        left: Sequence[Work],
        seconds: Callable[[Work], float | None],
        *,
        party: Party,
        state: Callable[[Task], State],
        listen: Listener,
    ) -> None:
        super().__init__(left, seconds)
        self._party, self._state, self._listen = party, state, listen
        self._not_before: dict[object, float] = {}  # key of a task -> when to ask for it again
        self._line_up(_own_first([*self.waiting.values()], party.shard))

    def take(self, method: str = "") -> Task | None:
        """As `Agenda.take`, of what nobody else is at; what others have done is told of."""
        while (work := self._next(method)) is not None:
            name = _name(work.task)
            if not self._party.claims.take(name):
                self._not_before[key_of(work.task)] = time.monotonic() + _LOOK_AGAIN
                continue
            state = self._state(work.task)
            if state == "open":
                return self._chosen(work)
            self._party.claims.give_back(name)
            super().finish(self._chosen(work))
            self._listen(Elsewhere(work.task, failed=state == "failed"))
        return None

    def _next(self, method: str) -> Work | None:
        now = time.monotonic()
        asked = (w for w in self._ready(method) if self._not_before.get(key_of(w.task), 0.0) <= now)
        return next(asked, None)

    @property
    def expects(self) -> bool:
        """Whether something waits for prior images that others are drawing."""
        return any(w.waits_for in self._coming for w in self.waiting.values())

    def look_again(self) -> None:
        """Ask for everything at once that was another's."""
        self._not_before.clear()

    def put_back(self, task: Task) -> None:
        self._party.claims.give_back(_name(task))
        super().put_back(task)

    def finish(self, task: Task) -> None:
        super().finish(task)
        self._party.claims.give_back(_name(task))

    def give_up(self, task: Task) -> list[Task]:
        self._party.claims.give_back(_name(task))
        return super().give_up(task)


def _own_first(works: Sequence[Work], shard: Shard) -> list[Work]:
    """Prior images before jobs, and of both the shard's part before the others'."""
    others = [i % shard.count != shard.number - 1 for i in range(len(works))]
    order = sorted(range(len(works)), key=lambda i: (isinstance(works[i].task, Job), others[i], i))
    return [works[i] for i in order]


def _name(task: Task) -> str:
    return prior_path(task.key) if isinstance(task, Prior) else job_path(task.name)


def failed_since(directory: RunDirectory, job: Job, began: float) -> bool:
    """Whether `job` has failed since `began`, by the clock of the disk."""
    return written_since(directory.path / f"{job_path(job.name)}.error.txt", began)


def written_since(path: Path, began: float) -> bool:
    """Whether there is such a file, written since `began`, by the clock of the disk."""
    try:
        return path.stat().st_mtime >= began
    except FileNotFoundError:
        return False
