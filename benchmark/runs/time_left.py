"""How long a plan's jobs take, and so the order to run them in.

grid = plan(load_suite("pocket"), ["dreambooth", "untuned"])
Forecast(grid).seconds(grid.jobs)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmark.runs.plan import Plan
from benchmark.store.records import Job, JobRecord


class Forecast:
    """How long jobs take: as those of the same method took, else by the suite's `[estimate]`."""

    def __init__(self, grid: Plan) -> None:
        self._grid = grid
        self._taken: dict[str, list[float]] = {}

    def learn(self, job: Job, record: JobRecord) -> None:
        """Take a finished job into account."""
        seconds = record.train_seconds + record.sample_seconds + record.score_seconds
        self._taken.setdefault(job.method, []).append(seconds)

    def seconds(self, jobs: Sequence[Job]) -> float | None:
        """Seconds for all of `jobs`, one after the other; None if one of them is unknown."""
        each = [self._seconds(job) for job in jobs]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def _seconds(self, job: Job) -> float | None:
        taken, rates = self._taken.get(job.method), self._grid.suite.estimate
        if taken:
            return sum(taken) / len(taken)
        if rates is None:
            return None
        steps = job.settings.get("steps", 0)
        return steps * rates.train_step_seconds + self._grid.images[job.key] * rates.image_seconds

    def order(self, jobs: Sequence[Job]) -> list[Job]:
        """The order to run `jobs` in: long ones first, neighbours of different classes.

        So the workers end together, and seldom wait for each other's prior images of a class.
        """
        position = {name: i for i, name in enumerate(self._grid.methods)}
        seen: Counter[tuple[str, int, str]] = Counter()
        keys = {}
        for job in jobs:
            group = (job.method, job.seed, job.class_noun)
            seen[group] += 1
            keys[job.key] = (-(self._seconds(job) or 0.0), position[job.method], seen[group])
        return sorted(jobs, key=lambda job: keys[job.key])
