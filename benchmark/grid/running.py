"""The one path from a plan to its report: what `run` does."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.grid.reporting import report
from benchmark.grid.sharing import run_shard
from benchmark.models.precision import on_cuda
from benchmark.runs.agenda import Agenda, Task, Work
from benchmark.runs.assets import check_adapters, check_files
from benchmark.runs.backbones import check_backbones, is_here
from benchmark.runs.devices import check_devices, gradient_checkpointing
from benchmark.runs.local_worker import ThisMachine
from benchmark.runs.machine import ALL, Resources, free_memory
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import Grid
from benchmark.runs.progress import Display, print_away, print_memory, print_plan, print_scale
from benchmark.runs.ready import Ready
from benchmark.runs.score import Examiner
from benchmark.runs.texts import check_prompts
from benchmark.runs.vocabulary import check_vocabulary
from benchmark.runs.workers import execute
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import REPORT, RunDirectory
from benchmark.store.records import Job, Model, Prior
from benchmark.trackers.logbook import Logbook

if TYPE_CHECKING:
    from benchmark.runs.on_ray import Cluster


def run_grid(
    grid: Grid,
    path: Path,
    *,
    resources: Resources = ALL,
    dry_run: bool = False,
    keep_weights: bool = False,
    metrics: Sequence[str] = (),
) -> int:
    """Do what is not done yet of `grid` in the run directory `path`, then write the report.

    `dry_run`: say what that is, and refuse what would be refused, but do, fetch and write nothing.
    `metrics`: names of those that score it too, beside the protocol's.
    Returns the exit code: 0: every job is done; 1: some failed; 130: interrupted, and what is done
    is kept. Raises UserError if `path` cannot be written to, belongs to something else, or holds
    images or scores that `grid` would change.
    """
    directory = RunDirectory(path.absolute())  # a method may go to another folder
    logbook = Logbook.opened(resources.log, directory)
    ready = Ready.of(grid, path, keep_weights=keep_weights, metrics=metrics)
    check_files(grid.suite, _jobs(work for work in ready.left if work.draws))
    here = not dry_run or is_here(grid.suite.backbone)
    memory = _fetch(grid, ready.left) if here else None
    for odd in check_vocabulary(grid.suite, _jobs(ready.left)):
        print(f"warning: {odd}", file=sys.stderr)
    venue = resources.cluster or ThisMachine(resources.slots(len(ready.left), memory=memory))
    outlook = Outlook(ready.jobs, ready.left, path, ready.forecast.seconds, ready.forecast.measured)
    print_plan(grid, outlook, ready.assessment.scoring, workers=venue.room, where=venue.where)
    free = free_memory()
    if not resources.cluster and memory and free and memory * (venue.room + 1) > free:
        print_memory(memory, free)
    ready.tell(keep_weights)
    device = resources.cluster.like.device if resources.cluster else grid.device
    check_devices(grid.suite, ready.left, device)
    if dry_run:
        print_scale(outlook)
        if here is False and _draws_by_backbone(ready.left):
            print_away(grid.suite.backbone.model)
        return 0
    display = Display(outlook, ready.assessment.scoring, ready.forecast)
    workplace = Workplace(
        grid.suite,
        directory,
        Examiner(ready.assessment, directory, device),
        keep_weights,
        gradient_checkpointing(grid.suite.backbone, resources.gradient_checkpointing, device),
    )
    course = _Course(ready, venue, workplace, display, logbook, resources.job_timeout)
    try:
        if resources.shard is not None:
            return run_shard(ready, resources.shard, display, course.work, logbook)
        return course.complete(path)
    except KeyboardInterrupt:
        done = f"{display.finished} of {len(ready.jobs)} jobs are done and kept in {path}"
        print(f"interrupted: {done}; run the same command again to go on", file=sys.stderr)
        return 130


@dataclass(frozen=True)
class _Course:
    """How what is left of a grid is done: by whom, where, and who is told."""

    ready: Ready
    venue: ThisMachine | Cluster
    workplace: Workplace
    display: Display
    logbook: Logbook
    job_timeout: float | None

    def work(self, agenda: Agenda) -> list[str]:
        """Do what is on the agenda. Returns the labels of the jobs that failed."""
        listen = self.logbook.beside(self.display)
        with self.display, self.venue.serving(self.workplace, self.ready.jobs) as place:
            execute(
                agenda, self.workplace, place=place, listen=listen, job_timeout=self.job_timeout
            )
        self.logbook.wait()  # before another process may be the last one, and tell the same
        return [task.label for task in self.display.failed if isinstance(task, Job)]

    def complete(self, path: Path) -> int:
        """Do all that is left, alone in the run directory, and report. Returns the exit code."""
        ready = self.ready
        with ready.existing.locked():
            whole = ready.is_done()
            if whole and ready.existing.directory.is_reported():
                print(f"report: {path / REPORT}, as it was: nothing is new")
                self.logbook.complete(ready.existing.contents)
                return 0
            if not whole:
                ready.write_plan()
            agenda = Agenda(ready.left, ready.forecast.seconds)
            failed = self.work(agenda)
            if undone := len(agenda.waiting):
                raise UserError(
                    f"no worker was left: {self.display.finished} of {len(ready.jobs)} jobs are "
                    f"done, {undone} tasks are not; the same command goes on"
                )
            known = ready.existing.contents if whole else None
            directory = ready.existing.directory
            return report(
                directory, failed, len(ready.jobs), known, self.logbook, protocol=ready.label
            )


def _fetch(grid: Grid, left: Sequence[Work]) -> int | None:
    """Bring the backbone's files here if anything is to be drawn, and see that it reads the texts.

    Returns the main memory, in bytes, that a worker takes; None if nobody knows or none is needed.
    """
    if not _draws_by_backbone(left):
        return None
    kind, model = grid.suite.backbone.load_kind(), grid.suite.backbone.model
    kind.fetch(model)
    check_adapters(grid.suite, _jobs(work for work in left if work.draws))
    check_prompts(grid.suite, left)
    check_backbones(grid.suite, left)
    return None if on_cuda() else kind.memory(model)


def _draws_by_backbone(left: Sequence[Work]) -> bool:
    return any(work.draws and _backbone_of(work.task) for work in left)


def _backbone_of(task: Task) -> Model | None:
    return task.backbone if isinstance(task, Prior) else task.fit.backbone


def _jobs(works: Iterable[Work]) -> list[Job]:
    return [work.task for work in works if isinstance(work.task, Job)]
