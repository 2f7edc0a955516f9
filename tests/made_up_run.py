"""Run directories with made-up scores, written as a real run writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import PRIOR, REAL, Prompt, Request
from benchmark.store.directory import RunDirectory, job_path
from benchmark.store.records import Job, JobRecord, Score

PROMPTS = (Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property"))
METRICS = {PRIOR: ("pres", "prior_div"), REAL: ("dino", "clip_i")}
OF_PROMPTS = ("dino", "clip_i", "clip_t", "div")
SUITE = 'name = "toy"\ndescription = "A toy suite"\n[sampler]\nsteps = 20\n'
JOB = Job(
    method="",
    method_version="1",
    settings={"steps": 150},
    subject="",
    class_noun="dog",
    live=True,
    images_digest="d",
    backbone="toy@0123456789ab",
    sampler={"steps": 20},
    encoders={"dino": {"model": "dino", "weights": "1"}},
    prompts=PROMPTS,
    images_per_prompt=2,
    prior_prompt_images=1,
    seed=0,
    protocol="toy-1",
)
PROVENANCE = {"commit": "c0ffee", "device": "cpu", "precision": "fp32", "metrics": {"dino": "1"}}

#: (job, request, metric) -> the score
Value = Callable[[Job, Request, str], float]


def write_run(
    path: Path,
    value: Value,
    *,
    methods: Sequence[str],
    subjects: Sequence[str],
    seeds: Sequence[int] = (0,),
    job: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
    nearest: bool = False,
) -> Path:
    """A finished run. `job` and `provenance` replace what all its jobs have by default.

    `nearest`: with `dino_nearest`, too.
    """
    directory = RunDirectory(path)
    jobs = [
        replace(JOB, method=method, subject=subject, seed=seed, **(job or {}))
        for method in methods
        for subject in subjects
        for seed in seeds
    ]
    directory.prepare(configuration="c", suite_toml=SUITE, jobs=jobs)
    for one in jobs:
        write_job(directory, one, value, PROVENANCE | (provenance or {}), nearest=nearest)
    directory.assemble_scores()
    return path


def write_job(
    directory: RunDirectory,
    job: Job,
    value: Value,
    provenance: dict[str, Any],
    *,
    nearest: bool = False,
) -> None:
    requests = job.requests(prompted=job.method != "real-images", references=3)
    scores = [
        Score(
            method=job.method,
            subject=job.subject,
            prompt=request.prompt.template,
            prompt_kind=request.prompt.kind,
            sample=request.index,
            seed=job.seed,
            metric=metric,
            value=value(job, request, metric),
            protocol=job.protocol,
        )
        for request in requests
        for metric in (
            *METRICS.get(request.prompt.kind, OF_PROMPTS),
            *(["dino_nearest"] if nearest and request.prompt.kind != PRIOR else []),
        )
    ]
    grey = np.full((4, 4, 3), job.seed + 1, np.uint8)
    images = {directory.image_path(job, request): grey for request in requests}
    files = {directory.image_path(job, r): r.prompt.text(job.class_noun) for r in requests}
    pace = None if job.method in ("real-images", "untuned") else 7.5
    record = JobRecord(
        job.key, asdict(job), provenance, 20.0, 4.0, 1.0, 512.0, len(requests), files, pace
    )
    directory.write_job(record, job, images, scores)


def remove_job(path: Path, method: str, subject: str, seed: int = 0) -> None:
    """As if the job had failed."""
    job = replace(JOB, method=method, subject=subject, seed=seed)
    (path / f"{job_path(job)}.json").unlink()
    RunDirectory(path).assemble_scores()
