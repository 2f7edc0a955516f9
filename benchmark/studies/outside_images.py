"""Scores for images that any other tool made, in a run directory like any other.

    found = collect(Path("my-images"), load_suite("pocket"), method="my-tool")
    score_images(found, Path("runs/my-tool"))    # -> runs/my-tool/report.md

`benchmark.studies.matching` says which file is an image of what. The images are copied, so that
the report can be written again from the run directory alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Request, Subject, UserError
from benchmark.config.suite import Suite
from benchmark.data.dataset import choose_subjects, verify
from benchmark.data.images import read_image
from benchmark.grid.reporting import report
from benchmark.grid.scoring import score_jobs
from benchmark.models.precision import resolve_device
from benchmark.runs.existing_run import check_images, check_scoring, extra_metrics, read_existing
from benchmark.runs.job import make_images
from benchmark.runs.joining import joined_plan
from benchmark.runs.layout import Row, Selection, lay_out
from benchmark.runs.score import Assessment, Examiner, one_thread
from benchmark.runs.selection import choose_prompts, spelled_prompts
from benchmark.runs.texts import check_captions
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import PLAN, SUITE, RunDirectory, request_path
from benchmark.store.files import write_atomically
from benchmark.store.names import checked_name, folder_name
from benchmark.store.provenance import provenance
from benchmark.store.records import (
    ELSEWHERE,
    Fit,
    ImageRecord,
    Job,
    JobRecord,
    Model,
    Phases,
    digest,
    image_key,
)
from benchmark.studies.matching import Wanted, match_files, name_of


@dataclass(frozen=True)
class OutsideJob:
    """One job's images: `files[i]` is what was made for `requests[i]`."""

    job: Job
    requests: tuple[Request, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class OutsideImages:
    """What is to be scored, and what fits nothing."""

    suite: Suite
    jobs: tuple[OutsideJob, ...]
    metrics: tuple[str, ...]  #: beside the protocol's
    measures: tuple[Job, ...]  #: those of the suite's controls that need no backbone
    unmatched: tuple[str, ...]  #: file and why
    left_out: tuple[Path, ...]  #: files that nobody means: of systems, and hidden ones
    directory: Path  #: where it goes unless it is told otherwise


def collect(
    images: Path,
    suite: Suite,
    *,
    method: str = "",
    metrics: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> OutsideImages:
    """Match every file of `images` (a folder or a CSV) with a subject and a prompt, and look at it.

    `method` is what made them, where a CSV does not say; else the folder's name. `metrics` are
    scored beside the protocol's. `prompts`: what the images may be of, as `choose_prompts` takes
    it; else all of the dataset's. Raises UserError if no file matches, or if an encoder is missing.
    """
    method = checked_name("method", method or name_of(images))
    dataset = suite.data.load()
    subjects = {s.name: s for s in choose_subjects(dataset, suite.data.subjects)}
    prompts = spelled_prompts(suite, dataset, prompts)
    rows = [Row(name, suite.method(name), suite.settings(name)) for name in suite.controls]
    rows = [row for row in rows if not row.method.needs and row.method.draws == "references"]
    chosen = {name: choose_prompts(dataset, one, prompts) for name, one in subjects.items()}
    wanted = Wanted(dataset, subjects, chosen, suite.backbone.identifier)
    matches = match_files(images, wanted, method=method, reserved=[row.name for row in rows])
    found, unmatched = matches.found, matches.unmatched
    if not found:
        reason = f"; the first: {unmatched[0]}" if unmatched else ""
        raise UserError(f"{images}: none of {len(unmatched)} files is an image to score{reason}")
    scored = tuple(subjects[name] for name in dict.fromkeys(name for _, name, _ in found))
    verify(dataset, scored)
    scoring = Assessment.of(suite, tuple(metrics)).scoring
    jobs = [
        _outside_job(name, subjects[subject], seed, files)
        for (name, subject, seed), files in found.items()
    ]
    compared = tuple(subject for subject in scored if len(subject.images) > 1)
    selection = Selection(dataset, compared, {subject.name: () for subject in compared}, ())
    seed = min(seed for _, _, seed in found)
    measures, _ = lay_out(suite, rows, selection, [seed], None)
    key = digest([scoring.declaration, scoring.identifier, [one.job.fit.key for one in jobs]])
    return OutsideImages(
        suite,
        tuple(jobs),
        metrics=tuple(metrics),
        measures=measures,
        unmatched=unmatched,
        left_out=matches.left_out,
        directory=Path("runs") / f"{folder_name(name_of(images))}-{key[:8]}",
    )


def score_images(found: OutsideImages, path: Path) -> int:
    """Copy the images into the run directory, score what is not scored yet, and report it.

    Returns the exit code as of `run_grid`. Raises UserError if `path` belongs to something else,
    or holds other images of the same jobs.
    """
    existing = read_existing(RunDirectory(path))
    if existing.plan is not None and existing.plan.settled:
        raise UserError(
            f"{path} is the directory of a run, whose images were made here: choose another --out, "
            "and put both into one report with `report RUN... --out DIR`"
        )
    jobs = [*(one.job for one in found.jobs), *found.measures]
    check_images(jobs, {}, existing)
    protocol = found.suite.protocol
    assessment = Assessment.of(found.suite, extra_metrics(protocol, existing, found.metrics))
    check_scoring(assessment, existing)
    check_captions(assessment, jobs)
    examiner = Examiner(assessment, existing.directory, resolve_device("auto"))
    one_thread()
    existing.tell_altered(jobs, protocol.label)
    with existing.locked():
        existing.forget_altered()
        before = path / SUITE
        there = before.is_file() and not any(map(existing.contents.is_altered, (PLAN, SUITE)))
        existing.directory.write_plan(
            joined_plan(jobs, {}, protocol, existing),
            suite=before.read_text("utf-8") if there else _suite_toml(found.suite),
            protocols={protocol.label: protocol.dump_toml()},
        )
        if found.unmatched:
            write_atomically(path / "unmatched.txt", "\n".join(found.unmatched) + "\n")
        else:
            (path / "unmatched.txt").unlink(missing_ok=True)
        drawn = {name: record for name, record in existing.jobs.items() if record.images}
        records = [drawn.get(one.job.name) or _bring(one, existing.directory) for one in found.jobs]
        workplace = Workplace(found.suite, existing.directory, examiner)
        records += [
            drawn.get(job.name) or make_images(job, None, workplace, tell=_silent)
            for job in found.measures
        ]
        return report(existing.directory, score_jobs(records, examiner), len(records))


def _silent(phase: str, done: int, steps: int) -> None:
    """Nothing to tell: images are only copied."""


def _bring(one: OutsideJob, directory: RunDirectory) -> JobRecord:
    """Copy a job's images, and write its record."""
    job = one.job
    images = {
        request_path(job.name, request): read_image(file)
        for request, file in zip(one.requests, one.files, strict=True)
    }
    hashes = directory.write_images(images)
    record = JobRecord(
        job=job,
        images={
            path: ImageRecord(
                request.prompt,
                request.index,
                request.noise_seed,
                text=str(file),
                key=image_key(job.fit, request, None),
                sha256=hashes[path],
            )
            for path, request, file in zip(images, one.requests, one.files, strict=True)
        },
        drawn=len(images),
        phases=Phases(),
        provenance=provenance(),
        peak_memory_mb=0.0,
    )
    directory.write_job(record)
    return record


def _outside_job(
    method: str, subject: Subject, seed: int, files: Mapping[Request, Path]
) -> OutsideJob:
    prompts = tuple(dict.fromkeys(request.prompt for request in files))
    counts = {prompt: sum(r.prompt == prompt for r in files) for prompt in prompts}
    evaluated = tuple(p for p in prompts if p not in (PRIOR_PROMPT, REAL_PROMPT))
    content = hashlib.sha256()
    for request, path in files.items():
        content.update(json.dumps([request.prompt.template, request.index]).encode())
        content.update(hashlib.sha256(path.read_bytes()).digest())
    fit = Fit(
        method=method,
        version=ELSEWHERE,
        settings={"images": content.hexdigest()[:16]},
        backbone=Model(kind=ELSEWHERE, version="", id=ELSEWHERE),
        precision=None,
        subject=subject.name,
        class_noun=subject.class_noun,
        live=subject.live,
        images=subject.digest,
        prior=None,
        seed=seed,
    )
    job = Job(
        method=method,
        role="method",
        variant_of=None,
        draws="prompts",
        fit=fit,
        sampler=None,
        references=len(subject.images),
        references_digest=subject.digest,
        prompts=evaluated,
        images_per_prompt=max((counts[prompt] for prompt in evaluated), default=0),
        prior_prompt_images=counts.get(PRIOR_PROMPT, 0),
    )
    return OutsideJob(job, tuple(files), tuple(files.values()))


def _suite_toml(suite: Suite) -> str:
    """Of the suite only what these scores hang on: nothing was trained or sampled."""
    import tomli_w

    whole = suite.model_dump(mode="json", exclude_none=True)
    kept = ("name", "protocol", "encoders", "data", "controls", "tables", "objective")
    found: dict[str, Any] = {key: whole[key] for key in kept if key in whole}
    identifier = {"identifier": suite.backbone.identifier}
    return tomli_w.dumps(found | {"description": "Images made elsewhere", "backbone": identifier})
