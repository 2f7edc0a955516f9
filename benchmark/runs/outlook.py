"""What is left of a grid, in seconds and in bytes: the time with n workers, by a schedule drawn up.

outlook = Outlook(jobs, left, path, forecast.seconds, forecast.measured)
outlook.wall(64)      # seconds, if 64 workers do it
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from statistics import fmean

from benchmark.runs.agenda import Agenda, Task, Work, key_of
from benchmark.store.directory import prior_path
from benchmark.store.records import Job, Prior

_LOOKED_AT = 200  #: images, for the size that one has


@dataclass(frozen=True)
class Outlook:
    """What is to be done, and how long each part of it takes."""

    jobs: Sequence[Job]  #: all that are asked for, with what they have already
    left: Sequence[Work]
    directory: Path
    seconds: Callable[[Work], float | None]  #: for one of `left`; None: not known
    measured: bool = False  #: whether `seconds` rests on what was done in `directory`

    @property
    def work(self) -> float | None:
        """Seconds for all that is left, one after the other; None if one of them is unknown."""
        each = [self.seconds(work) for work in self.left]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def wall(self, workers: int) -> float | None:
        """Seconds if `workers` do it; None if a task's are unknown.

        By the order in which a run hands its tasks out; loading of models and the report are left
        out.
        """
        if self.work is None:
            return None
        takes = {key_of(work.task): self.seconds(work) or 0.0 for work in self.left}
        agenda = Agenda(self.left, self.seconds)
        now, busy, numbers = 0.0, list[tuple[float, int, Task]](), count()
        for _ in self.left:
            while len(busy) < workers and (task := agenda.take()) is not None:
                heapq.heappush(busy, (now + takes[key_of(task)], next(numbers), task))
            now, _, done = heapq.heappop(busy)
            agenda.finish(done)
        return now

    @property
    def disk(self) -> float | None:
        """Bytes that what is left to draw will take, weights left out.

        An image and a set of prior images as large as those that there are; None without any.
        """
        drawn = sum(work.draws for work in self.left if isinstance(work.task, Job))
        images = _mean_size((self.directory / "images").rglob("*.png"))
        priors = sum(isinstance(work.task, Prior) for work in self.left)
        prior = _mean_size(self.directory.glob(f"{prior_path('*')}.safetensors"))
        if (drawn and images is None) or (priors and prior is None):
            return None
        return drawn * (images or 0.0) + priors * (prior or 0.0)


def _mean_size(files: Iterable[Path]) -> float | None:
    sizes = [file.stat().st_size for file in islice(files, _LOOKED_AT)]
    return fmean(sizes) if sizes else None
