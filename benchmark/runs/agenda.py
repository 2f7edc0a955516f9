"""What is left to do of a plan, and in which order: prior images before the jobs that need them.

agenda = Agenda(work_left(jobs, grid.priors, scoring, existing), forecast.seconds)
task = agenda.take()
agenda.finish(task)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from benchmark.runs.existing_run import Existing, is_scored, missing
from benchmark.store.records import Job, JobRecord, Prior, Scoring

Task = Job | Prior


@dataclass(frozen=True)
class Work:
    """What a task has to do: whether it trains, and how many images it draws and scores."""

    task: Task
    fits: bool = False
    draws: int = 0
    scores: int = 0
    waits_for: str | None = None  #: the key of prior images that are not drawn yet


def work_left(
    jobs: Iterable[Job], priors: Mapping[str, Prior], scoring: Scoring, existing: Existing
) -> list[Work]:
    """The jobs that are not done, and the prior images that are not drawn."""
    found: list[Work] = []
    coming: set[str] = set()
    for job in jobs:
        record = existing.jobs.get(job.name)
        # Of a job without a record all are; millions of them are only counted.
        draws = job.count if record is None else len(missing(job, record))
        scored = existing.scores.get((scoring.protocol, job.name))
        key = job.fit.prior
        if key is not None and key not in existing.priors and key not in coming:
            coming.add(key)
            found.append(Work(priors[key], draws=priors[key].count))
        if not draws and record is not None and is_scored(record, scored, scoring):
            continue
        waits_for = key if draws and key in coming else None
        fits = draws > 0 and _fits(record, existing)
        found.append(Work(job, fits, draws, job.count, waits_for))
    return found


def _fits(record: JobRecord | None, existing: Existing) -> bool:
    kept = record.weights if record else None
    return kept is None or not (existing.directory.path / kept.file).is_file()


@dataclass
class Agenda:
    """The tasks that wait, the longest first; a task is taken when what it needs is there.

    Jobs that take alike come grouped by their prior images, which a worker prepares but once so.
    """

    waiting: list[Work]
    seconds: Callable[[Work], float | None]
    _coming: set[str] = field(init=False)  #: keys of prior images that are to be drawn
    _taken: list[Work] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._coming = {w.task.key for w in self.waiting if isinstance(w.task, Prior)}
        # Prior images first, that of the longest jobs before the others.
        self.waiting = sorted(self.waiting, key=self._place)

    def _place(self, work: Work) -> tuple[bool, float, bool, str]:
        if isinstance(work.task, Job):
            # Of as many steps, those that learn prior images too take longer.
            prior = work.task.fit.prior
            return True, -(self.seconds(work) or 0.0), prior is None, prior or ""
        key = work.task.key
        after = sum(self.seconds(w) or 0.0 for w in self.waiting if w.waits_for == key)
        return False, -after, False, key

    def take(self, method: str = "") -> Task | None:
        """The next task that can be done now, one of `method` first; None if there is none yet."""
        work = next(self._ready(method), None)
        return None if work is None else self._chosen(work)

    def _ready(self, method: str) -> Iterator[Work]:
        """What can be done now, of `method` first."""
        ready = [work for work in self.waiting if work.waits_for not in self._coming]
        alike = [w for w in ready if isinstance(w.task, Job) and w.task.method == method]
        return iter([*alike, *(work for work in ready if work not in alike)] if alike else ready)

    def _chosen(self, work: Work) -> Task:
        self.waiting = [other for other in self.waiting if other is not work]
        self._taken.append(work)
        return work.task

    @property
    def expects(self) -> bool:
        """Whether something may be ready later although nobody here is at work."""
        return False

    def put_back(self, task: Task) -> None:
        """Nobody is at `task` any more: it is the next to be taken."""
        (work,) = [work for work in self._taken if work.task is task]
        self._taken.remove(work)
        self.waiting.insert(0, work)

    def finish(self, task: Task) -> None:
        """`task` is done: what waited for it can be."""
        self._taken = [work for work in self._taken if work.task is not task]
        if isinstance(task, Prior):
            self._coming.discard(task.key)

    def give_up(self, task: Task) -> list[Task]:
        """`task` failed: what waited for it cannot be done. Returns these tasks, taken out."""
        self._taken = [work for work in self._taken if work.task is not task]
        if not isinstance(task, Prior):
            return []
        lost = [work for work in self.waiting if work.waits_for == task.key]
        self.waiting = [work for work in self.waiting if work.waits_for != task.key]
        return [work.task for work in lost]
