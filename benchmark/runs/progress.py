"""What a run prints: the plan, a line for each finished job, the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from benchmark.runs.plan import Plan
from benchmark.runs.time_left import Forecast
from benchmark.runs.workers import Event, Failed, Finished, Started, Stepped
from benchmark.store.directory import RunDirectory
from benchmark.store.records import Job

SHOWN = {"dino": "DINO", "clip_i": "CLIP-I", "clip_t": "CLIP-T"}  #: on the line of a finished job


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


def print_plan(
    grid: Plan, *, directory: Path, finished: int, seconds: float | None, workers: int
) -> None:
    """Say what will be done. `seconds`: expected for the jobs that are left, one by one."""
    per_prompt = grid.suite.evaluation.images_per_prompt
    prompts = sorted({len(job.prompts) for job in grid.jobs})
    left = None if seconds is None else seconds / workers
    print(f"suite       {grid.suite.name}: {grid.suite.description}")
    if grid.suite.data.folder:
        print(f"data        {grid.suite.data.dataset}: images in {grid.suite.data.folder}")
    print(f"methods     {len(grid.methods)}: {', '.join(grid.methods)}")
    print(f"subjects    {len(grid.subjects)}: {', '.join(grid.subjects)}")
    if grid.left_out:
        print(f"left out    {', '.join(grid.left_out)}: none of the chosen prompts is for them")
    print(f"prompts     {' or '.join(map(str, prompts))} a subject, {per_prompt} images each")
    print(f"seeds       {', '.join(map(str, grid.seeds))}")
    print(f"jobs        {len(grid.jobs)}, {sum(grid.images.values())} images")
    if finished:
        print(f"finished    {finished} of the {len(grid.jobs)} jobs are done and will be skipped")
    print(f"directory   {directory}")
    print(f"time left   {duration(left)} with {workers} worker{'s' * (workers > 1)}", flush=True)


def print_memory(memory: int, free: int) -> None:
    """Say what a worker takes, in bytes, where that decides how many there are."""
    enough = "" if memory <= free else ": it may not do"
    print(f"memory      about {memory / 1e9:.0f} GB a worker, {free / 1e9:.0f} GB free{enough}")


class Display:
    """Listens to a run and prints it: a bar on a terminal, else one line for each job."""

    def __init__(
        self, grid: Plan, jobs: Sequence[Job], directory: RunDirectory, forecast: Forecast
    ) -> None:
        self._grid, self._directory, self._forecast = grid, directory, forecast
        self._left = {job.key: job for job in jobs}
        self._running: dict[str, tuple[float, float]] = {}  # key -> (start, fraction of the steps)
        self._done = len(grid.jobs) - len(jobs)
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total} jobs, time left {task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=len(grid.jobs), completed=self._done, left="unknown"
        )
        self.failed: list[Job] = []

    def __enter__(self) -> Display:
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
        key = event.job.key
        match event:
            case Started():
                self._running[key] = (time.monotonic(), 0.0)
            case Stepped():
                self._running[key] = (self._running[key][0], event.done / max(1, event.steps))
            case Finished():
                self._end(event.job)
                self._forecast.learn(event.job, event.record)
                self._say(self._line(event))
            case Failed():
                self._end(event.job)
                self.failed.append(event.job)
                reason = event.error.partition("\n")[0]
                self._say(f"{self._count()} {event.job.label}  FAILED: {reason}")
        self._bar.update(
            self._task,
            completed=self._done + sum(fraction for _, fraction in self._running.values()),
            left=duration(self._seconds_left()),
        )

    def _end(self, job: Job) -> None:
        self._running.pop(job.key, None)
        self._left.pop(job.key, None)
        self._done += 1

    def _say(self, line: str) -> None:
        self._console.print(escape(line))

    def _count(self) -> str:
        total = len(self._grid.jobs)
        return f"[{self._done:>{len(str(total))}}/{total}]"

    def _line(self, event: Finished) -> str:
        record, means = event.record, self._directory.job_means(event.job)
        seconds = record.train_seconds + record.sample_seconds + record.score_seconds
        scores = "  ".join(
            f"{title} {means[name]:.3f}" for name, title in SHOWN.items() if name in means
        )
        left = self._seconds_left()
        until = f"  ({duration(left)} left)" if self._left and left is not None else ""
        return f"{self._count()} {event.job.label}  {seconds:.1f} s  {scores}{until}"

    def _seconds_left(self) -> float | None:
        seconds = self._forecast.seconds(list(self._left.values()))
        if seconds is None:
            return None
        now = time.monotonic()
        spent = sum(now - start for start, _ in self._running.values())
        return max(0.0, seconds - spent) / max(1, len(self._running))
