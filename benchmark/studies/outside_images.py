"""Scores for images that any other tool made, in a run directory like any other.

    work = collect(Path("my-images"), load_suite("pocket"), method="my-tool")
    score_images(work, Path("runs/my-tool"))    # -> runs/my-tool/report.md

`benchmark.studies.matching` says which file is an image of what. The images are copied, so that
the report can be written again from the run directory alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Metric, Request, Subject, UserError
from benchmark.config import registry as plugins
from benchmark.config.suite import Suite
from benchmark.data.dataset import read_image, verify
from benchmark.models.identity import identify
from benchmark.runs.job import Workplace, score
from benchmark.runs.plan import load_metrics
from benchmark.runs.selection import choose_subjects
from benchmark.store.directory import RunDirectory, provenance, write_atomically
from benchmark.store.records import ELSEWHERE, Job, JobRecord
from benchmark.studies.matching import OWN_IMAGES, match_files, name_of


@dataclass(frozen=True)
class Batch:
    """One job's images: `files[i]` is what was made for `requests[i]`."""

    job: Job
    subject: Subject
    requests: tuple[Request, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Work:
    """What is to be scored, and what fits nothing."""

    suite: Suite
    batches: tuple[Batch, ...]
    unmatched: tuple[str, ...]  #: file and why
    configuration: str  #: 16 hex digits over all that decides the scores


def collect(images: Path, suite: Suite, *, method: str = "") -> Work:
    """Match every file of `images` (a folder or a CSV) with a subject and a prompt, and look at it.

    `method` is what made them, where a CSV does not say; else the folder's name. Raises UserError
    if no file matches, or if an encoder of the protocol is missing.
    """
    dataset = suite.data.load()
    subjects = {s.name: s for s in choose_subjects(dataset, suite.data.subjects)}
    found, unmatched = match_files(
        images,
        dataset,
        subjects,
        identifier=suite.backbone.identifier,
        method=method or name_of(images),
    )
    if not found:
        reason = f"; the first: {unmatched[0]}" if unmatched else ""
        raise UserError(f"{images}: none of {len(unmatched)} files is an image to score{reason}")
    scored = [subjects[name] for name in dict.fromkeys(name for _, name, _ in found)]
    verify(dataset, scored)
    encoders = identify(suite.encoder_tables())
    batches = [
        _batch(name, subjects[subject], seed, files, suite, encoders)
        for (name, subject, seed), files in found.items()
    ]
    seed = min(seed for _, _, seed in found)
    batches += [_real_images(subject, seed, suite, encoders) for subject in scored]
    return Work(suite, tuple(batches), tuple(unmatched), _configuration(suite, batches))


def score_images(work: Work, path: Path) -> Path:
    """Score what is not scored yet, copy the images into the run directory, and write the report.

    Returns the report's path. Raises UserError if `path` belongs to something else.
    """
    from benchmark.report.write import write_report

    directory = RunDirectory(path)
    directory.check(work.configuration)
    with directory.locked():
        directory.prepare(
            configuration=work.configuration,
            suite_toml=_suite_toml(work),
            jobs=[batch.job for batch in work.batches],
        )
        if work.unmatched:
            write_atomically(path / "unmatched.txt", "\n".join(work.unmatched) + "\n")
        else:
            (path / "unmatched.txt").unlink(missing_ok=True)
        workplace = Workplace(work.suite, directory)
        for number, batch in enumerate(work.batches, 1):
            if not directory.record(batch.job):
                _score_batch(batch, workplace)
            print(f"[{number}/{len(work.batches)}] {batch.job.label}: {len(batch.files)} images")
        directory.assemble_scores()
        return write_report(path)


def _score_batch(batch: Batch, workplace: Workplace) -> None:
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(1)  # so that a sum's last digits do not depend on the cores
    images = [read_image(file) for file in batch.files]
    started = time.perf_counter()
    scores = score(batch.job, batch.subject, batch.requests, images, workplace)
    directory = workplace.directory
    paths = [directory.image_path(batch.job, request) for request in batch.requests]
    versions = {name: metric.version for name, metric in workplace.metrics.items()}
    record = JobRecord(
        key=batch.job.key,
        job=asdict(batch.job),
        provenance=provenance()
        | {"device": torch.cuda.get_device_name() if cuda else "cpu", "metrics": versions},
        train_seconds=0.0,
        sample_seconds=0.0,
        score_seconds=time.perf_counter() - started,
        peak_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0,
        images=len(images),
        files={p: str(file) for p, file in zip(paths, batch.files, strict=True)},
    )
    directory.write_job(record, batch.job, dict(zip(paths, images, strict=True)), scores)


def _batch(
    method: str,
    subject: Subject,
    seed: int,
    files: dict[Request, Path],
    suite: Suite,
    encoders: dict[str, dict[str, Any]],
) -> Batch:
    prompts = tuple(dict.fromkeys(request.prompt for request in files))
    counts = {prompt: sum(r.prompt == prompt for r in files) for prompt in prompts}
    evaluated = tuple(p for p in prompts if p not in (PRIOR_PROMPT, REAL_PROMPT))
    digest = hashlib.sha256()
    for request, path in files.items():
        digest.update(json.dumps([request.prompt.template, request.index]).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    job = Job(
        method=method,
        method_version=ELSEWHERE,
        settings={"images": digest.hexdigest()[:16]},
        subject=subject.name,
        class_noun=subject.class_noun,
        live=subject.live,
        images_digest=subject.digest,
        backbone=ELSEWHERE,
        sampler={},
        encoders=encoders,
        prompts=evaluated,
        images_per_prompt=max((counts[prompt] for prompt in evaluated), default=0),
        prior_prompt_images=counts.get(PRIOR_PROMPT, 0),
        seed=seed,
        protocol=suite.protocol.label,
    )
    return Batch(job, subject, tuple(files), tuple(files.values()))


def _real_images(
    subject: Subject, seed: int, suite: Suite, encoders: dict[str, dict[str, Any]]
) -> Batch:
    """The subject's own images, as a run's method of that name has them: the two reports join."""
    requests = {Request(REAL_PROMPT, i, 0): path for i, path in enumerate(subject.images)}
    batch = _batch(OWN_IMAGES, subject, seed, requests, suite, encoders)
    version = plugins.load_method(OWN_IMAGES).version
    return replace(batch, job=replace(batch.job, method_version=version, settings={}))


def _configuration(suite: Suite, batches: list[Batch]) -> str:
    metrics: dict[str, Metric] = load_metrics(suite.protocol)
    content = [
        suite.protocol.model_dump(mode="json"),
        suite.backbone.identifier,
        {name: metric.version for name, metric in metrics.items()},
        [batch.job.key for batch in batches],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _suite_toml(work: Work) -> str:
    """Of the suite only what these scores hang on: nothing was trained or sampled."""
    import tomli_w

    suite = work.suite.model_dump(mode="json", exclude_none=True)
    kept = {key: suite[key] for key in ("name", "protocol", "data")}
    return tomli_w.dumps(kept | {"description": "Images made elsewhere"})
