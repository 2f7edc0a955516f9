"""What is left to do of a plan, and in which order: prior images before the jobs that need them.

agenda = Agenda(work_left(jobs, grid.priors, scoring, existing), forecast.seconds)
task = agenda.take()
agenda.finish(task)
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmark.runs.existing_run import Existing, missing
from benchmark.runs.unscored import to_score
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
        if not draws and record is not None and not to_score(record, scored, scoring):
            continue
        waits_for = key if draws and key in coming else None
        fits = draws > 0 and _fits(record, existing)
        found.append(Work(job, fits, draws, job.count, waits_for))
    return found


def _fits(record: JobRecord | None, existing: Existing) -> bool:
    kept = record.weights if record else None
    return kept is None or not (existing.directory.path / kept.file).is_file()


def key_of(task: Task) -> str | tuple[str, str, int]:
    """What names `task` in its plan."""
    return task.key if isinstance(task, Prior) else task.name


class Agenda:
    """The tasks that wait, the longest first; a task is taken when what it needs is there.

    Jobs that take alike come grouped by their prior images, which a worker prepares but once so.
    """

    def __init__(self, left: Sequence[Work], seconds: Callable[[Work], float | None]) -> None:
        self._taken: dict[object, Work] = {}
        self._coming = {w.task.key for w in left if isinstance(w.task, Prior)}  # to be drawn
        self.waiting: OrderedDict[object, Work]  #: in the order in which they are taken
        self._line_up(_longest_first(left, seconds))

    def _line_up(self, works: Iterable[Work]) -> None:
        self.waiting = OrderedDict((key_of(work.task), work) for work in works)

    def take(self, method: str = "") -> Task | None:
        """The next task that can be done now, one of `method` first; None if there is none yet."""
        work = next(self._ready(method), None)
        return None if work is None else self._chosen(work)

    def _ready(self, method: str) -> Iterator[Work]:
        """What can be done now: of `method`, then whatever there is."""
        if method:
            for work in self._possible():
                if isinstance(work.task, Job) and work.task.method == method:
                    yield work
        yield from self._possible()

    def _possible(self) -> Iterator[Work]:
        return (w for w in self.waiting.values() if w.waits_for not in self._coming)

    def _chosen(self, work: Work) -> Task:
        key = key_of(work.task)
        self._taken[key] = self.waiting.pop(key)
        return work.task

    @property
    def expects(self) -> bool:
        """Whether something may be ready later although nobody here is at work."""
        return False

    def put_back(self, task: Task) -> None:
        """Nobody is at `task` any more: it is the next to be taken."""
        key = key_of(task)
        self.waiting[key] = self._taken.pop(key)
        self.waiting.move_to_end(key, last=False)

    def finish(self, task: Task) -> None:
        """`task` is done: what waited for it can be."""
        self._taken.pop(key_of(task), None)
        if isinstance(task, Prior):
            self._coming.discard(task.key)

    def give_up(self, task: Task) -> list[Task]:
        """`task` failed: what waited for it cannot be done. Returns these tasks, taken out."""
        self._taken.pop(key_of(task), None)
        if not isinstance(task, Prior):
            return []
        lost = [work.task for work in self.waiting.values() if work.waits_for == task.key]
        for one in lost:
            del self.waiting[key_of(one)]
        return lost


def _longest_first(works: Sequence[Work], seconds: Callable[[Work], float | None]) -> list[Work]:
    """Prior images, that of the longest jobs before the others, and then the jobs."""
    takes = {id(work): seconds(work) or 0.0 for work in works}
    after: dict[str | None, float] = defaultdict(float)
    for work in works:
        after[work.waits_for] += takes[id(work)]

    def place(work: Work) -> tuple[bool, float, bool, str]:
        if isinstance(work.task, Prior):
            return False, -after[work.task.key], False, work.task.key
        # Of as many steps, those that learn prior images too take longer.
        prior = work.task.fit.prior
        return True, -takes[id(work)], prior is None, prior or ""

    return sorted(works, key=place)
