"""One task of a plan: prior images, or a job, which is fit, generate, images on disk, score.

workplace = Workplace(suite, directory, Examiner(Assessment.of(suite), directory, "cpu"))
run_job(job, workplace, tell=lambda phase, done, steps: None)
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import REAL, SUBJECT_IMAGES, Method, Request, Subject, UserError
from benchmark.config.source import sources_of
from benchmark.data.dataset import first_images
from benchmark.runs.assets import check_planned_masks
from benchmark.runs.box import boxed
from benchmark.runs.existing_run import missing
from benchmark.runs.prior import draw, write_prior
from benchmark.runs.returned import checked_weights, drawn_pixels
from benchmark.runs.score import device_provenance, means_of
from benchmark.runs.tools import JobTools, Pace
from benchmark.runs.unscored import to_score
from benchmark.runs.weights import Size, read_weights, size_of, write_export, write_weights
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import request_path
from benchmark.store.provenance import provenance, with_sources
from benchmark.store.records import (
    ImageRecord,
    Job,
    JobRecord,
    KeptWeights,
    Phases,
    Prior,
    PriorRecord,
    image_key,
)

#: Called with a phase ("loading", "prior images", "fit", "draw", "score"), what is done of it, and
#: all that there is to do.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Done:
    """A job's images and scores are written."""

    record: JobRecord
    means: dict[str, float]  #: metric -> the mean of its scores
    score_seconds: float


def run_prior(prior: Prior, workplace: Workplace, *, tell: Tell) -> PriorRecord:
    """Draw prior images by the pristine backbone, and write them, their record last."""
    tell("loading", 0, 1)
    times = [time.perf_counter()]
    with boxed(), workplace.lend(prior) as backbone:
        assert backbone is not None
        times.append(time.perf_counter())
        tell("prior images", 0, prior.count)
        images = draw(backbone, prior, partial(tell, "prior images"))
        times.append(time.perf_counter())
    seconds, loading = times[2] - times[1], times[1] - times[0]
    record = PriorRecord(prior, seconds, "", provenance() | device_provenance(), loading)
    return write_prior(images, record, workplace.directory)


def run_job(job: Job, workplace: Workplace, *, tell: Tell) -> Done:
    """Make the images of `job` that are not there, then score them all; each record last.

    Raises whatever the method raises, and LeftBehind; the backbone is put back in any case.
    """
    record = workplace.directory.job_record(job.name)
    if record is None or missing(job, record):
        record = make_images(job, record, workplace, tell=tell)
    started = time.perf_counter()
    examiner = workplace.examiner
    label = examiner.assessment.protocol.label
    scored = workplace.directory.score_record(label, job.name)
    tell("score", 0, 1)
    if not to_score(record, scored, examiner.assessment.scoring):
        scores = workplace.directory.read_scores(label, job.name)
    else:
        scores = examiner.score(record)
    workplace.directory.clear_error(job.name)
    return Done(record, means_of(scores), time.perf_counter() - started)


@dataclass(frozen=True)
class _Made:
    """What came out of a job's fit and its drawing."""

    images: list[np.ndarray]
    phases: Phases
    pace: Pace
    memory: float
    weights: KeptWeights | None
    exported: dict[str, str]
    learned: Size
    fitted: bool
    counts: dict[str, int]


def make_images(
    job: Job, before: JobRecord | None, workplace: Workplace, *, tell: Tell
) -> JobRecord:
    """Fit unless the weights were kept, draw what `before` has not, and write it.

    Raises as `run_job`.
    """
    requests = missing(job, before)
    paths = [request_path(job.name, request) for request in requests]
    _check_paths(job, paths, before)
    made = _fit_and_draw(job, before, requests, workplace, tell)
    hashes = workplace.directory.write_images(dict(zip(paths, made.images, strict=True)))
    subject = workplace.examiner.subject(job)
    images = dict(before.images) if before else {}
    for path, request in zip(paths, requests, strict=True):
        images[path] = ImageRecord(
            request.prompt,
            request.index,
            request.noise_seed,
            text=_text(request, subject),
            key=image_key(job.fit, request, job.sampler),
            sha256=hashes[path],
        )
    order = [request_path(job.name, request) for request in job.requests]
    record = JobRecord(
        job=job,
        images={path: images[path] for path in order},
        drawn=len(order),
        phases=made.phases,
        provenance=provenance(sources_of("methods", [job.fit.method])) | device_provenance(),
        peak_memory_mb=made.memory,
        steps_per_second=made.pace.steps_per_second,
        losses=made.pace.losses,
        weights=made.weights,
        exported=made.exported,
        learned_numbers=made.learned.numbers,
        learned_bytes=made.learned.bytes,
        counts=made.counts,
    )
    record = record if before is None else _added_up(before, record, fitted=made.fitted)
    workplace.directory.write_job(record)
    return record


def _fit_and_draw(
    job: Job,
    before: JobRecord | None,
    requests: Sequence[Request],
    workplace: Workplace,
    tell: Tell,
) -> _Made:
    subject = _learned(job, workplace.examiner.subject(job))
    pace = Pace(partial(tell, "fit"))
    times = [time.perf_counter()]
    tell("loading", 0, 1)
    with boxed():  # to import it runs its code
        method = workplace.suite.method(job.method)
    _check_method(job, method, workplace.suite.settings(job.method))
    check_planned_masks(method, subject, job.fit)
    with boxed(), workplace.lend(job) as backbone:
        times.append(time.perf_counter())
        prepared = workplace.prepared(job.fit.prior, backbone)
        times.append(time.perf_counter())
        tools = JobTools(job.seed, subject, pace, prepared, workplace.assets(job.fit))
        times.append(time.perf_counter())
        kept, exported = (before.weights, before.exported) if before else (None, {})
        weights = read_weights(kept, workplace.directory)
        _start_alike(job.seed)
        if fitted := weights is None:
            tell("fit", 0, 1)
            weights = checked_weights(job.method, method.fit(subject, backbone, tools))
            kept, exported = None, {}
        times.append(time.perf_counter())
        learned = size_of(weights)
        if workplace.keep_weights and fitted and weights:
            kept = write_weights(weights, job.name, workplace.directory)
            if export := getattr(method, "export", None):
                write = partial(export, weights, backbone)
                exported = write_export(write, job.name, workplace.directory)
        _seed(job.seed)  # so that it draws alike whether it was fitted here or not
        tools = replace(tools, progress=Pace(partial(tell, "draw")))
        tell("draw", 0, len(requests))
        started = time.perf_counter()
        returned = method.generate(weights, subject, requests, backbone, tools)
        images = drawn_pixels(job.method, returned, len(requests))
        drawn = time.perf_counter() - started
        memory = _peak_memory_mb()
    loading, preparing, assets, fit = (end - start for start, end in pairwise(times))
    phases = Phases(loading, fit, drawn, preparing, assets)
    return _Made(images, phases, pace, memory, kept, exported, learned, fitted, tools.counts)


def _learned(job: Job, subject: Subject) -> Subject:
    return first_images(subject, job.fit.settings.get(SUBJECT_IMAGES, len(subject.images)))


def _check_method(job: Job, method: Method, settings: dict[str, Any]) -> None:
    """Refuse a method that is not the planned one: its code or its suite was changed meanwhile."""
    planned = {"version": job.fit.version} | _as_read(job.fit.settings)
    found = {"version": method.version} | _as_read(settings)
    for key in sorted({*planned, *found}):
        if planned.get(key) != found.get(key):
            raise UserError(
                f"planned was method '{job.method}' with {key} {planned.get(key)!r}, and found was "
                f"{found.get(key)!r}: run the same command again, with another --out"
            )


def _as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` as a record has them."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _check_paths(job: Job, paths: Sequence[str], before: JobRecord | None) -> None:
    """Refuse to write two images to one file, or one over another that is there."""
    there = set(before.images) if before else set()
    for path in paths:
        if path in there:
            raise UserError(
                f"{job.label}: two prompts would both write {path}: change one of them, or choose "
                "another --out"
            )
        there.add(path)


def _added_up(before: JobRecord, after: JobRecord, *, fitted: bool) -> JobRecord:
    """The record of a job that was drawn in several goes: its cost is that of all of them."""
    was, now = before.phases, after.phases
    phases = Phases(*(getattr(was, f.name) + getattr(now, f.name) for f in fields(Phases)))
    record = replace(
        after,
        phases=phases,
        peak_memory_mb=max(before.peak_memory_mb, after.peak_memory_mb),
        counts=dict(Counter(before.counts) + Counter(after.counts)),
    )
    if before.images or not fitted:  # some of it is by the text that the method had before
        record = replace(record, provenance=with_sources(after.provenance, before.provenance))
    if fitted:
        return record
    return replace(record, steps_per_second=before.steps_per_second, losses=before.losses)


def _text(request: Request, subject: Subject) -> str:
    if request.prompt.kind == REAL:
        return subject.images[request.index].name
    return request.prompt.text(subject.class_noun)


def _start_alike(seed: int) -> None:
    """Make the job independent of what ran before it in this process."""
    import torch

    _seed(seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux: the process's peak (getrusage) begins anew
        Path("/proc/self/clear_refs").write_text("5")


def _seed(seed: int) -> None:
    """Methods should have generators of their own; one that has not still repeats itself."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _peak_memory_mb() -> float:
    """Since the job began: of the device on CUDA, else of the process.

    Of the process since it began where that cannot be told (off Linux).
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
