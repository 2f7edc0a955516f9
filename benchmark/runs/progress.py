"""What a run prints: the plan, a line for each finished task, the phases, the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from benchmark.api import CUSTOM, PROMPT_KINDS, Prompt
from benchmark.data.manifest import some
from benchmark.models.precision import emulated
from benchmark.runs.agenda import Task, Work, key_of
from benchmark.runs.attempt import Elsewhere, Event, Failed, Finished, Lost, Started, Stepped
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import Grid
from benchmark.runs.time_left import Forecast, Parts
from benchmark.store.records import Job, JobRecord, Prior, PriorRecord, Scoring

_ESTIMATING = 0.05  #: of the time, at most so much goes into estimating what is left
_SCALES = (8, 64)  #: workers that a plan is drawn up for
_NAMED = 3  #: tasks at most, of which the bar says how far each is
_MEASURED_FOR = 60  #: seconds, until the time left is told
_MEASURING = "being measured"
_SHOWN = 3  #: of a protocol's metrics, the first so many are on the line of a finished job


def duration(seconds: float | None) -> str:
    """`41 s`, `9 min 12 s`, `3 h 05 min`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_plan(grid: Grid, outlook: Outlook, scoring: Scoring, *, workers: int, where: str) -> None:
    """Say what is asked for, what of it is left to do, and how long that takes.

    `where`: the `workers` in words, such as `8 workers on 8 GPUs`.
    """
    per_prompt = grid.suite.evaluation.images_per_prompt
    lists = {job.prompts for job in grid.jobs}
    images = sum(job.count for job in outlook.jobs)
    finished = len(outlook.jobs) - sum(isinstance(work.task, Job) for work in outlook.left)
    print(f"suite       {grid.suite.name}: {grid.suite.description}")
    if grid.suite.data.folder:
        both = dict.fromkeys([grid.suite.data.dataset, str(grid.suite.data.folder)])
        print(f"data        {': images in '.join(both)}")
    print(f"methods     {len(grid.methods)}: {', '.join(grid.methods)}")
    if grid.unserved:
        some = [f"{name} (needs {', '.join(needs)})" for name, needs in grid.unserved.items()]
        print(f"left out    {', '.join(some)}: backbone '{grid.suite.backbone.model}' has not that")
    print(f"subjects    {len(grid.subjects)}: {', '.join(grid.subjects)}")
    if grid.left_out:
        print(f"left out    {', '.join(grid.left_out)}: none of the chosen prompts is for them")
    for choice, names in grid.passed_over.items():
        print(f"left out    prompts '{choice}': there is none for {', '.join(names)}")
    each = f"{per_prompt} image{'s' * (per_prompt > 1)} each"
    print(f"prompts     {_counts(map(len, lists))} a subject, {each}: {_by_kind(lists)}")
    print(f"seeds       {', '.join(map(str, grid.seeds))}")
    print(f"scored by   {scoring.protocol}: {', '.join(scoring.metrics)}")
    print(f"jobs        {len(outlook.jobs)}, {images} images")
    if finished:
        print(
            f"finished    {finished} of the {len(outlook.jobs)} jobs are done and will be skipped"
        )
    print(f"to do       {_phases(outlook.left)}")
    print(f"directory   {outlook.directory}")
    for precision in sorted({job.fit.precision or "fp32" for job in grid.jobs}):
        if emulated(precision, grid.device):
            print(
                f"precision   {precision}, which this processor emulates: fp32 is many times faster"
            )
    by = (
        "as what is done here took" if outlook.measured else "a guess; measured in the first minute"
    )
    wall = outlook.wall(workers)
    print(f"time left   {duration(wall)} with {where}{f' ({by})' if wall else ''}", flush=True)


def _by_kind(lists: Collection[Sequence[Prompt]]) -> str:
    """`10 recontextualization, 4 accessory, 1 custom: 'a {} on a rug'` of each list."""
    kinds = dict.fromkeys(prompt.kind for prompts in lists for prompt in prompts)
    own = sorted({p.template for prompts in lists for p in prompts if p.kind == CUSTOM})
    parts = []
    for kind in sorted(kinds, key=PROMPT_KINDS.index):
        counts = (sum(prompt.kind == kind for prompt in prompts) for prompts in lists)
        parts.append(f"{_counts(counts)} {kind}")
    return ", ".join(parts) + (f": {some([repr(text) for text in own])}" if own else "")


def _counts(numbers: Iterable[int]) -> str:
    """`10 or 14`."""
    return " or ".join(map(str, sorted({*numbers})))


def print_scale(outlook: Outlook) -> None:
    """Say what is left in one worker's time, with how many it takes how long, and its bytes."""
    if outlook.work is None:
        print("work        unknown: nothing like it was done here, and the suite has no [estimate]")
    else:
        each = [f"{n}: {duration(outlook.wall(n))}" for n in _SCALES]
        print(f"work        {duration(outlook.work)} of one worker; with {', with '.join(each)}")
    disk = outlook.disk
    size = "unknown until there is an image" if disk is None else f"about {disk / 1e6:.0f} MB"
    print(f"disk        {size}")


def print_away(model: str) -> None:
    """Say that the backbone has to be fetched first, and that it was not looked at."""
    print(
        f"to fetch    backbone '{model}' is not on this machine: a run brings it first, and then "
        "sees whether it reads the prompts and fits the methods"
    )


def _phases(left: Sequence[Work]) -> str:
    """`2 sets of prior images (128), 6 fits, 54 images to draw, 60 to score`.

    Controls learn nothing, so that theirs are no fits.
    """
    priors = [work for work in left if isinstance(work.task, Prior)]
    jobs = [work for work in left if isinstance(work.task, Job)]
    fits = sum(
        work.fits and work.task.role == "method" for work in left if isinstance(work.task, Job)
    )
    draws = sum(work.draws for work in jobs)
    count, scores = sum(work.draws for work in priors), sum(work.scores for work in jobs)
    parts = [
        f"{len(priors)} set{'s' * (len(priors) > 1)} of prior images ({count})" if priors else "",
        f"{fits} fit{'s' * (fits > 1)}" if fits else "",
        f"{draws} images to draw" if draws else "",
        f"{scores} to score" if scores else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing"


def print_memory(memory: int, free: int) -> None:
    """Say what a worker takes, in bytes, where that decides how many there are."""
    enough = "" if memory <= free else ": may not be enough"
    print(f"memory      about {memory / 1e9:.0f} GB a worker, {free / 1e9:.0f} GB free{enough}")


class Display:
    """Listens to a run and prints it: a bar on a terminal, else one line for each task."""

    def __init__(self, outlook: Outlook, scoring: Scoring, forecast: Forecast) -> None:
        self._forecast = forecast
        self._shown = {name: scoring.metrics[name].label for name in [*scoring.metrics][:_SHOWN]}
        self._left = {key_of(work.task): work for work in outlook.left}
        self._running: dict[object, _Running] = {}
        self._done = len(outlook.jobs) - sum(isinstance(w.task, Job) for w in outlook.left)
        self._total = self._done + len(outlook.left)
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total}, time left {task.fields[left]}"),
            TextColumn("{task.fields[doing]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=self._total, completed=self._done, left=_MEASURING, doing=""
        )
        self._estimate: float | None = None  # seconds for what is left, one after the other
        self._estimate_again = 0.0
        self._began, self._ended = time.monotonic(), 0  # tasks that were done since then
        self.failed: list[Task] = []
        self.finished = self._done  #: jobs

    def __enter__(self) -> Display:
        self._began = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event, and show it."""
        key = key_of(event.task)
        match event:
            case Started():
                self._running[key] = _Running(self._left.get(key), time.monotonic())
            case Stepped():
                self._running[key].step(event)
                self._learn_pace(event)
            case Finished():
                self._learn(event)
                self._end(event.task)
                self._ended += 1
                self.finished += isinstance(event.task, Job)
                self._say(self._line(event))
            case Elsewhere():
                self._end(event.task)
                self.finished += isinstance(event.task, Job) and not event.failed
                self.failed += [event.task] if event.failed else []
            case Lost():
                self._running.pop(key, None)
                self._say(f"{self._count()} {event.task.label}  its worker was lost: {event.why}")
            case Failed():
                self._end(event.task)
                self.failed.append(event.task)
                reason = event.error.partition("\n")[0]
                self._say(f"{self._count()} {event.task.label}  FAILED: {reason}")
        shares = [one.share(self._forecast) for one in self._running.values()]
        self._bar.update(
            self._task,
            completed=self._done + sum(shares),
            left=self._time_left(),
            doing=self._doing(),
        )

    def _doing(self) -> str:
        """`fit 3/50; draw 1/4`, or of many workers how many are at what: `12 fit, 2 draw`."""
        doing = [one.doing for one in self._running.values()]
        if len(doing) <= _NAMED:
            return "; ".join(doing)
        counted = Counter(one.phase for one in self._running.values())
        return ", ".join(f"{count} {phase}" for phase, count in counted.most_common())

    def _pace(self) -> str:
        """`8 workers, 310 tasks/h`; the worker of the task that has just ended among them."""
        workers = len(self._running) + 1
        hourly = 3600 * self._ended / max(1.0, time.monotonic() - self._began)
        return f"{workers} worker{'s' * (workers > 1)}, {hourly:.0f} tasks/h"

    def _learn(self, event: Finished) -> None:
        match event.record:
            case PriorRecord():
                self._forecast.learn_prior(event.record)
            case JobRecord():
                self._forecast.learn_job(event.record)
                self._forecast.learn_scores(event.score_seconds, len(event.record.images))

    def _learn_pace(self, event: Stepped) -> None:
        pace = self._running[key_of(event.task)].pace
        if event.phase == "fit" and isinstance(event.task, Job) and pace is not None:
            self._forecast.learn_pace(event.task, pace * event.steps)

    def _end(self, task: Task) -> None:
        self._running.pop(key_of(task), None)
        self._left.pop(key_of(task), None)
        self._done += 1

    def _say(self, line: str) -> None:
        self._console.print(escape(line))

    def _count(self) -> str:
        return f"[{self._done:>{len(str(self._total))}}/{self._total}]"

    def _line(self, event: Finished) -> str:
        scores = "  ".join(
            f"{label} {event.means[name]:.3f}"
            for name, label in self._shown.items()
            if name in event.means
        )
        until = f"  (time left {self._time_left()}; {self._pace()})" if self._left else ""
        return f"{self._count()} {event.task.label}  {event.seconds:.1f} s  {scores}{until}"

    def _time_left(self) -> str:
        """In words. In the first minute nothing here tells enough for it to be trusted."""
        if time.monotonic() - self._began < _MEASURED_FOR:
            return _MEASURING
        return duration(self._seconds_left())

    def _seconds_left(self) -> float | None:
        now = time.monotonic()
        if self._estimate is None or now >= self._estimate_again:
            waiting = [work for key, work in self._left.items() if key not in self._running]
            self._estimate = self._forecast.total(waiting)
            self._estimate_again = now + (time.monotonic() - now) / _ESTIMATING
        running = [one.seconds_left(self._forecast) for one in self._running.values()]
        known = [seconds for seconds in running if seconds is not None]
        if self._estimate is None or len(known) < len(running):
            return None
        return max([(self._estimate + sum(known)) / max(1, len(known)), *known])


@dataclass
class _Running:
    """A task that a worker is at: in which phase, since when, and how far that is."""

    work: Work | None
    since: float  #: when the phase began
    phase: str = "starting"
    done: int = 0
    steps: int = 1
    first: tuple[int, float] | None = None  #: the first step of the phase that was told, and when
    last: tuple[int, float] | None = None

    @property
    def doing(self) -> str:
        return f"{self.phase} {self.done}/{self.steps}" if self.steps > 1 else self.phase

    def step(self, event: Stepped) -> None:
        now = time.monotonic()
        if event.phase != self.phase:
            self.phase, self.since, self.first, self.last = event.phase, now, None, None
        self.done, self.steps = event.done, event.steps
        if event.done:
            self.first = self.first or (event.done, now)
            self.last = event.done, now

    @property
    def pace(self) -> float | None:
        """Seconds a step, from the first one that was told; None until there is another."""
        if self.first is None or self.last is None or self.last[0] <= self.first[0]:
            return None
        (first, start), (last, end) = self.first, self.last
        return (end - start) / (last - first)

    def seconds_left(self, forecast: Forecast) -> float | None:
        """Of this task; None if nothing says."""
        parts = forecast.parts(self.work) if self.work else Parts()
        if parts is None:
            return None
        after = {"fit": parts.draw + parts.score, "draw": parts.score}.get(self.phase, 0.0)
        whole = {
            "fit": parts.fit,
            "draw": parts.draw,
            "prior images": parts.draw,
            "score": parts.score,
        }.get(self.phase)
        if whole is None:  # it is loading
            return parts.total
        spent = time.monotonic() - self.since
        if self.pace is not None and self.last is not None:
            step, when = self.last
            return max(0.0, (self.steps - step) * self.pace - time.monotonic() + when) + after
        return max(0.0, whole - spent) + after

    def share(self, forecast: Forecast) -> float:
        """How much of this task is done, from 0 to 1, by the time that it takes."""
        parts, left = forecast.parts(self.work) if self.work else None, self.seconds_left(forecast)
        if parts is None or left is None or not parts.total:
            return self.done / max(1, self.steps) if self.phase != "score" else 1.0
        return 1 - min(1.0, left / parts.total)
