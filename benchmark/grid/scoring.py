"""A finished run's images, scored again: what `score` does."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.api import UserError
from benchmark.config.protocol import load_protocol
from benchmark.data.dataset import verify
from benchmark.grid.reporting import report
from benchmark.models.precision import resolve_device
from benchmark.runs.assets import check_declared, check_no_encoder
from benchmark.runs.box import in_words, plain
from benchmark.runs.existing_run import Existing, check_scoring, extra_metrics, read_existing
from benchmark.runs.joining import joined_plan
from benchmark.runs.score import Assessment, Examiner, means_of, one_thread
from benchmark.runs.texts import check_captions
from benchmark.runs.workers import keep_error
from benchmark.store.directory import SUITE, RunDirectory
from benchmark.store.files import WriteError
from benchmark.store.records import JobRecord
from benchmark.store.wording import READ_ANOTHER


def finished_run(path: Path) -> Existing:
    """What a run directory with finished jobs holds. Raises UserError, also if it was altered."""
    existing = read_existing(RunDirectory(path), way_out=READ_ANOTHER)
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
    ask_again: bool = False,
) -> int:
    """Score the images of a run directory again, and write its report; nothing is trained or drawn.

    `protocol`: a name or a file, else that of its suite.toml. `metrics`: beside the protocol's,
    installed or module:ATTRIBUTE. `encoders`, `data`: folders, if they lie elsewhere now.
    `ask_again`: judges are asked again what they refused. Returns the exit code as of `run_grid`.
    Raises UserError if it is no run directory, if a file of it was altered, if the subjects' images
    are others, if a score that is there would change, or if what images were made with would score
    them.
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
    examiner = Examiner(assessment, existing.directory, resolve_device("auto"), ask_again)
    dataset = assessment.data.load()
    names = {subject for _, subject, _ in existing.jobs}
    verify(dataset, [subject for subject in dataset.subjects if subject.name in names])
    existing.tell_edited(chosen.label)
    one_thread()
    with existing.locked():
        existing.directory.write_plan(
            joined_plan([], {}, assessment.protocol, existing),
            suite=(path / SUITE).read_text("utf-8"),
            protocols={assessment.protocol.label: assessment.protocol.dump_toml()},
        )
        failed = score_jobs(existing.jobs.values(), examiner)
        return report(existing.directory, failed, len(existing.jobs), protocol=chosen.label)


def score_jobs(records: Collection[JobRecord], examiner: Examiner) -> list[str]:
    """Score what is not scored yet of `records`, telling of each. Returns what failed."""
    failed = []
    for number, record in enumerate(records, 1):
        job = record.job
        done = f"[{number:>{len(str(len(records)))}}/{len(records)}] {job.label}"
        if not examiner.lacking(record):
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
