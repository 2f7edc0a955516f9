"""The one path from a plan to its report: what `run` and `score` do."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.config.protocol import load_protocol
from benchmark.data.dataset import verify
from benchmark.models.precision import on_cuda, resolve_device
from benchmark.runs.agenda import Agenda, Task, Work
from benchmark.runs.assets import check_adapters, check_declared, check_files, check_no_encoder
from benchmark.runs.backbones import check_backbones, is_here
from benchmark.runs.box import in_words, plain
from benchmark.runs.devices import check_devices, gradient_checkpointing
from benchmark.runs.existing_run import (
    Existing,
    check_beside,
    check_images,
    check_scoring,
    extra_metrics,
    read_existing,
)
from benchmark.runs.joining import joined_plan
from benchmark.runs.local_worker import ThisMachine
from benchmark.runs.machine import ALL, Resources, free_memory
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import Grid
from benchmark.runs.progress import Display, print_away, print_memory, print_plan, print_scale
from benchmark.runs.ready import Ready
from benchmark.runs.score import Assessment, Examiner, means_of, one_thread, to_score
from benchmark.runs.shared import (
    Party,
    Shard,
    SharedAgenda,
    at_work,
)
from benchmark.runs.texts import check_captions, check_prompts
from benchmark.runs.vocabulary import check_vocabulary
from benchmark.runs.workers import execute, keep_error
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import REPORT, SUITE, RunDirectory
from benchmark.store.files import WriteError, remove_leftovers
from benchmark.store.records import Job, JobRecord, Model, Prior
from benchmark.trackers.logbook import Logbook

if TYPE_CHECKING:
    from benchmark.store.contents import Contents

_READINGS = 5  #: of a directory that others write to, until what is altered is taken for so


def run_grid(
    grid: Grid,
    path: Path,
    *,
    resources: Resources = ALL,
    dry_run: bool = False,
    keep_weights: bool = False,
) -> int:
    """Do what is not done yet of `grid` in the run directory `path`, then write the report.

    `dry_run`: say what that is, and refuse what would be refused, but do, fetch and write nothing.
    Returns the exit code: 0: every job is done; 1: some failed; 130: interrupted, and what is done
    is kept. Raises UserError if `path` cannot be written to, belongs to something else, or holds
    images or scores that `grid` would change.
    """
    directory = RunDirectory(path.absolute())  # a method may go to another folder
    logbook = Logbook.opened(resources.log, directory)
    ready = Ready.of(grid, path, keep_weights)
    check_files(grid.suite, [w.task for w in ready.left if w.draws and isinstance(w.task, Job)])
    here = not dry_run or is_here(grid.suite.backbone)
    memory = _fetch(grid, ready.left) if here else None
    jobs_left = [work.task for work in ready.left if isinstance(work.task, Job)]
    for odd in check_vocabulary(grid.suite, jobs_left):
        print(f"warning: {odd}", file=sys.stderr)
    venue = resources.cluster or ThisMachine(resources.slots(len(ready.left), memory=memory))
    forecast = ready.forecast
    outlook = Outlook(ready.jobs, ready.left, path, forecast.seconds, forecast.measured)
    scoring = ready.assessment.scoring
    print_plan(grid, outlook, scoring, workers=venue.room, where=venue.where)
    free = free_memory()
    if not resources.cluster and memory and free and memory * (venue.room + 1) > free:
        print_memory(memory, free)
    ready.existing.tell_altered(ready.jobs, grid.suite.protocol.label)
    ready.existing.tell_versions(grid.suite.protocol)
    if keep_weights:
        ready.existing.tell_unkept(ready.jobs)
    device = resources.cluster.like.device if resources.cluster else grid.device
    check_devices(grid.suite, ready.left, device)
    if dry_run:
        print_scale(outlook)
        if here is False and _draws_by_backbone(ready.left):
            print_away(grid.suite.backbone.model)
        return 0
    display = Display(outlook, scoring, forecast)
    workplace = Workplace(
        grid.suite,
        directory,
        Examiner(ready.assessment, directory, device),
        keep_weights,
        gradient_checkpointing(grid.suite.backbone, resources.gradient_checkpointing, device),
    )

    def work(agenda: Agenda) -> list[str]:
        with display, venue.serving(workplace, ready.jobs) as place:
            limit, listen = resources.job_timeout, logbook.beside(display)
            execute(agenda, workplace, place=place, listen=listen, job_timeout=limit)
        logbook.wait()  # before another process may be the last one, and tell the same
        return [task.label for task in display.failed if isinstance(task, Job)]

    try:
        if resources.shard is not None:
            return _run_shard(ready, resources.shard, display, work, logbook)
        with ready.existing.locked():
            whole = ready.is_done()
            if whole and ready.existing.directory.is_reported():
                print(f"report: {path / REPORT}, as it was: nothing is new")
                logbook.complete(ready.existing.contents)
                return 0
            if not whole:
                ready.write_plan()
            agenda = Agenda(ready.left, ready.forecast.seconds)
            failed = work(agenda)
            if undone := len(agenda.waiting):
                raise UserError(
                    f"no worker was left: {display.finished} of {len(ready.jobs)} jobs are done, "
                    f"{undone} tasks are not; the same command goes on"
                )
            known = ready.existing.contents if whole else None
            return report(ready.existing.directory, failed, len(ready.jobs), known, logbook)
    except KeyboardInterrupt:
        done = f"{display.finished} of {len(ready.jobs)} jobs are done and kept in {path}"
        print(f"interrupted: {done}; run the same command again to go on", file=sys.stderr)
        return 130


def _run_shard(
    ready: Ready,
    shard: Shard,
    display: Display,
    work: Callable[[Agenda], list[str]],
    logbook: Logbook,
) -> int:
    """Do what nobody else does of what is left; the last process to end writes the report."""
    directory = RunDirectory(ready.existing.directory.path.absolute())
    with at_work(directory, shard) as party:
        with directory.locked(shared=True):
            ready = _beside(ready, party)
            ready.write_plan()
        agenda = SharedAgenda(
            ready.left,
            ready.forecast.seconds,
            party=party,
            state=partial(ready.state, began=party.began),
            listen=display,
        )
        while True:
            failed = work(agenda)
            with directory.locked(shared=True):
                if others := party.others:
                    party.leave()
                    count = f"{len(others)} other process{'es' * (len(others) > 1)}"
                    print(f"{count} still at work here: the last one to end writes the report")
                    return int(bool(failed))
                if not agenda.waiting:
                    return _report_shards(ready, party, failed, logbook)
            agenda.look_again()  # whoever was at them has ended or died since


def _beside(ready: Ready, party: Party) -> Ready:
    """`ready` beside what others have written since it was read. Raises UserError as they do."""
    directory, existing = ready.existing.directory, ready.existing
    others, readings = party.others, 0
    while directory.plan_digest() != existing.contents.plan_digest or (
        # As others write, a file may be newer than the record that was read of it.
        others and existing.contents.altered and readings < _READINGS
    ):
        existing, readings = read_existing(directory), readings + 1
    if others:
        existing.contents.check()
        check_beside(ready.grid, existing)
    check_images(ready.jobs, ready.grid.settled, existing)
    check_scoring(ready.assessment, existing)
    return replace(ready, existing=existing)


def _report_shards(ready: Ready, party: Party, failed: Sequence[str], logbook: Logbook) -> int:
    """Write the report of what all have done; refuse to mix what they have made differently."""
    directory = ready.existing.directory
    remove_leftovers(directory.path)
    party.claims.tidy()
    existing = read_existing(directory)
    check_images(ready.jobs, ready.grid.settled, existing)
    check_scoring(ready.assessment, existing)
    return report(directory, failed, len(ready.jobs), existing.contents, logbook)


def finished_run(path: Path) -> Existing:
    """What a run directory with finished jobs holds. Raises UserError, also if it was altered."""
    existing = read_existing(RunDirectory(path))
    existing.contents.check()
    if existing.plan is None or not existing.jobs:
        raise UserError(f"{path} has no finished job to score: run it first")
    return existing


def assessment_of(
    existing: Existing,
    *,
    protocol: str,
    metrics: Sequence[str] = (),
    encoders: Path | None = None,
    data: Path | None = None,
) -> Assessment:
    """What scoring a finished run under `protocol` needs, as `score_run` takes it."""
    assessment = Assessment.read(existing.directory.path / SUITE)
    chosen = load_protocol(protocol) if protocol else assessment.protocol
    return replace(
        assessment,
        data=assessment.data.at(data),
        protocol=chosen,
        metrics=extra_metrics(chosen, existing, metrics),
        encoders=str(encoders) if encoders else assessment.encoders,
    )


def score_run(
    path: Path,
    *,
    protocol: str = "",
    metrics: Sequence[str] = (),
    encoders: Path | None = None,
    data: Path | None = None,
) -> int:
    """Score the images of a run directory again, and write its report; nothing is trained or drawn.

    `protocol`: a name or a file, else that of its suite.toml. `metrics`: beside the protocol's,
    installed or module:ATTRIBUTE. `encoders`, `data`: folders, if they lie elsewhere now. Returns
    the exit code as of `run_grid`. Raises UserError if it is no run directory, if a file of it was
    altered, if the subjects' images are others, if a score that is there would change, or if what
    images were made with would score them.
    """
    existing = finished_run(path)
    assessment = assessment_of(
        existing, protocol=protocol, metrics=metrics, encoders=encoders, data=data
    )
    chosen = assessment.protocol
    check_scoring(assessment, existing)
    jobs = [record.job for record in existing.jobs.values()]
    check_captions(assessment, jobs)
    if existing.plan and chosen.label not in existing.plan.protocols:  # else the plan looked
        check_declared(assessment.assets, jobs)
        used = {role: job.method for job in jobs for role in job.fit.assets}
        check_no_encoder(assessment.assets, used, chosen, assessment.encoders)
    examiner = Examiner(assessment, existing.directory, resolve_device("auto"))
    dataset = assessment.data.load()
    names = {subject for _, subject, _ in existing.jobs}
    verify(dataset, [subject for subject in dataset.subjects if subject.name in names])
    one_thread()
    with existing.locked():
        existing.directory.write_plan(
            joined_plan([], {}, assessment.protocol, existing),
            suite=(path / SUITE).read_text("utf-8"),
            protocols={assessment.protocol.label: assessment.protocol.dump_toml()},
        )
        failed = score_jobs(existing.jobs.values(), examiner)
        return report(existing.directory, failed, len(existing.jobs))


def score_jobs(records: Collection[JobRecord], examiner: Examiner) -> list[str]:
    """Score what is not scored yet of `records`, telling of each. Returns what failed."""
    label, failed = examiner.assessment.protocol.label, []
    for number, record in enumerate(records, 1):
        job = record.job
        done = f"[{number:>{len(str(len(records)))}}/{len(records)}] {job.label}"
        scored = examiner.directory.score_record(label, job.name)
        if not to_score(record, scored, examiner.assessment.scoring):
            print(f"{done}  scored before")
            continue
        try:
            scores = examiner.score(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, and exit
            if isinstance(error, WriteError) and error.final:
                raise
            keep_error(job, plain(traceback.format_exc()), examiner.directory)
            failed.append(job.label)
            print(f"{done}  FAILED: {in_words(error)}", flush=True)
        else:
            examiner.directory.clear_error(job.name)
            means, metrics = means_of(scores), examiner.assessment.scoring.metrics
            shown = [f"{metrics[m].label} {means[m]:.3f}" for m in metrics if m in means]
            told = "  ".join([f"{len(scores)} scores of {len(record.images)} images", *shown[:3]])
            print(f"{done}  {told}", flush=True)
    return failed


def _fetch(grid: Grid, left: Sequence[Work]) -> int | None:
    """Bring the backbone's files here if anything is to be drawn, and see that it reads the texts.

    Returns the main memory, in bytes, that a worker takes; None if nobody knows or none is needed.
    """
    if not _draws_by_backbone(left):
        return None
    kind, model = grid.suite.backbone.load_kind(), grid.suite.backbone.model
    kind.fetch(model)
    check_adapters(grid.suite, [w.task for w in left if w.draws and isinstance(w.task, Job)])
    check_prompts(grid.suite, left)
    check_backbones(grid.suite, left)
    return None if on_cuda() else kind.memory(model)


def _draws_by_backbone(left: Sequence[Work]) -> bool:
    return any(work.draws and _backbone_of(work.task) for work in left)


def _backbone_of(task: Task) -> Model | None:
    return task.backbone if isinstance(task, Prior) else task.fit.backbone


def report(
    directory: RunDirectory,
    failed: Sequence[str],
    jobs: int,
    contents: Contents | None = None,
    logbook: Logbook | None = None,
) -> int:
    """Write the report, and say where it lies and what failed. Returns the exit code.

    `contents`: those of the directory, if they are known; `logbook` is told of all that is there.
    """
    from benchmark.report.terminal import print_table
    from benchmark.report.write import write_report_of
    from benchmark.results.run import run_of
    from benchmark.store.reading import read_contents

    contents = contents or read_contents(directory.path)
    contents.check()
    rows = contents.write_scores()
    if rows:
        run = run_of(contents)
        path = write_report_of(run)
        directory.seal_report()
        print_table(run)
        print(f"report: {path}")
        print(f"to look at: {path.with_name('index.html')}")
        if logbook:
            logbook.complete(contents)
    if not failed:
        return 0
    held = "the report holds those that are done" if rows else "there is nothing to report"
    lines = [
        f"{len(failed)} of {jobs} jobs failed; {held}:",
        *(f"  {label}" for label in failed),
        f"why: {directory.path}/jobs/*/*.error.txt; the same command tries them again",
    ]
    print("\n".join(lines), file=sys.stderr)
    return 1
