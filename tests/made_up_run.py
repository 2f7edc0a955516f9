"""Run directories with made-up scores, written as a real run writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import PRIOR, REAL, Prompt, Request, Role, Sampler, Unscored
from benchmark.store.directory import (
    Plan,
    PlannedJob,
    RunDirectory,
    job_path,
    prior_path,
    request_path,
    score_rows,
    scores_path,
)
from benchmark.store.files import png_bytes, sha256, write_atomically
from benchmark.store.reading import read_contents
from benchmark.store.records import (
    Fit,
    ImageRecord,
    Job,
    JobRecord,
    MetricRecord,
    Model,
    Phases,
    Prior,
    PriorRecord,
    Score,
    ScoreRecord,
    Scoring,
    image_key,
    images_digest,
)
from benchmark.store.seals import sealed, unsealed

PROMPTS = (Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property"))
SUITE = 'name = "toy"\ndescription = "A toy suite"\n[sampler]\nsteps = 20\n'
ROLES: dict[str, Role] = {"real-images": "upper bound", "untuned": "lower bound"}
PROVENANCE = {"commit": "c0ffee", "device": "cpu"}
#: What each metric is a score of; another is one of the evaluation prompts' images.
OF = {
    "dino": {REAL, "prompts"},
    "clip_i": {REAL, "prompts"},
    "dino_nearest": {REAL, "prompts"},
    "pres": {PRIOR},
    "prior_div": {PRIOR},
}


def metric(
    label: str, about: str, higher_is_better: bool | None = True, **more: Any
) -> MetricRecord:
    """A metric's declaration."""
    plain: dict[str, Any] = {"version": "1", "encoders": ("dino",), "factor": 1.0}
    return MetricRecord(label=label, about=about, higher_is_better=higher_is_better, **plain | more)


METRICS = {
    "dino": metric("DINO", "subject fidelity"),
    "clip_i": metric("CLIP-I", "subject fidelity"),
    "clip_t": metric("CLIP-T", "prompt fidelity"),
    "pres": metric("PRES", "prior preservation", False),
    "div": metric("DIV", "diversity"),
    "prior_div": metric("prior DIV", "prior preservation"),
}
NEAREST = {"dino_nearest": metric("nearest DINO", "copying", None)}
SCORING = Scoring(
    protocol="toy-1",
    declaration={"references": "all", "caption": "class-noun"},
    encoders={"dino": {"model": "dino", "weights": "1"}},
    metrics=METRICS,
)
MODEL = Model(kind="toy", version="1", id="toy@0123456789ab")
FIT = Fit(
    method="",
    version="1",
    settings={"steps": 150},
    backbone=MODEL,
    precision="fp32",
    subject="",
    class_noun="dog",
    live=True,
    images="d",
    prior=None,
    seed=0,
)
JOB = Job(
    method="",
    role="method",
    variant_of=None,
    draws="prompts",
    fit=FIT,
    sampler=Sampler("ddim", 20, 3.0),
    references=3,
    references_digest="d",
    prompts=PROMPTS,
    images_per_prompt=2,
    prior_prompt_images=1,
)

#: Prior images that took 90 seconds.
DRAWN = PriorRecord(
    prior=Prior(MODEL, "fp32", "dog", 64, Sampler("ddpm", 50, 1.0), 0),
    seconds=90.0,
    sha256=sha256(b"prior images"),
    provenance={},
)

#: A score, or why there is none, or one with what befell its image.
Given = float | Unscored | tuple[float, str]
#: (job, request, metric) -> what is given
Value = Callable[[Job, Request, str], Given]


def text_of(run: Path) -> str:
    """The text of its report, as `write_report` writes it beside figures, tables and page."""
    from benchmark.report.sections import report_text
    from benchmark.results.run import read_run

    return report_text(read_run(run), figures=())


@dataclass(frozen=True)
class World:
    """What all jobs of a made-up run have in common; `job` and `fit` replace fields by name."""

    job: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scorings: tuple[Scoring, ...] = (SCORING,)
    priors: tuple[PriorRecord, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)  #: of the protocols' TOML
    protocol: str | None = None  #: the protocols' TOML, in place of `rules`
    suite: str = SUITE


def world(*, nearest: bool = False, scoring: Mapping[str, Any] | None = None, **more: Any) -> World:
    """A World whose only scoring has these fields replaced, with `nearest` by one metric more."""
    own = replace(SCORING, **scoring or {})
    return World(
        scorings=(replace(own, metrics=own.metrics | NEAREST) if nearest else own,), **more
    )


def make_job(method: str, subject: str, seed: int, changed: World) -> Job:
    """A job. Ablations are called `X-no-...`, `X-wrong-...` or `identifier-...`."""
    role = ROLES.get(method, "method")
    base = method.partition("[")[0]
    parent = "dreambooth" if base.startswith(("dreambooth-", "identifier-")) else None
    fit = {"method": base, "subject": subject, "seed": seed} | dict(changed.fit)
    job: dict[str, Any] = {"role": role, "variant_of": parent}
    if role == "upper bound":
        job |= {"draws": "references", "sampler": None}
        fit |= {"backbone": None, "precision": None}
    job |= {"method": method, "fit": replace(FIT, **fit)} | dict(changed.job)
    return replace(JOB, **job)


def write_run(
    path: Path,
    value: Value,
    *,
    methods: Sequence[str],
    subjects: Sequence[str],
    seeds: Sequence[int] = (0,),
    world: World = World(),  # noqa: B008
) -> Path:
    """A finished run."""
    directory = RunDirectory(path)
    jobs = [make_job(m, s, seed, world) for m in methods for s in subjects for seed in seeds]
    plan = Plan(
        jobs=tuple(PlannedJob(*j.name) for j in jobs),
        protocols=tuple(scoring.protocol for scoring in world.scorings),
        settled={"backbone": "toy"},
    )
    rules = {"name": "toy", "references": "all", "caption": "class-noun"} | dict(world.rules)
    text = "".join(f"{key} = {json.dumps(rule)}\n" for key, rule in rules.items())
    text = text if world.protocol is None else world.protocol
    directory.write_plan(plan, suite=world.suite, protocols=dict.fromkeys(plan.protocols, text))
    for prior in world.priors:
        write_atomically(path / f"{prior_path(prior.prior.key)}.safetensors", b"prior images")
        directory.write_prior(prior)
    for job in jobs:
        record = write_job(directory, job, PROVENANCE | dict(world.provenance))
        for scoring in world.scorings:
            write_scores(directory, record, scoring, value)
    read_contents(path).write_scores()
    return path


def write_job(directory: RunDirectory, job: Job, provenance: dict[str, Any]) -> JobRecord:
    """A job's images and its record."""
    grey = np.full((4, 4, 3), job.seed + 1, np.uint8)
    requests = {request_path(job.name, request): request for request in job.requests}
    hashes = directory.write_images(dict.fromkeys(requests, grey))
    images = {
        path: ImageRecord(
            prompt=request.prompt,
            index=request.index,
            noise_seed=request.noise_seed,
            text=request.prompt.text(job.fit.class_noun),
            key=image_key(job.fit, request, job.sampler),
            sha256=hashes[path],
        )
        for path, request in requests.items()
    }
    record = JobRecord(
        job=job,
        images=images,
        drawn=len(images),
        phases=Phases(fit=20.0, draw=4.0),
        provenance=provenance,
        peak_memory_mb=512.0,
        steps_per_second=7.5 if job.role == "method" else None,
    )
    directory.write_job(record)
    return record


def write_scores(
    directory: RunDirectory, record: JobRecord, scoring: Scoring, value: Value
) -> None:
    """A job's scores under one protocol, and their record."""
    scores = []
    for request in (image.request for image in record.images.values()):
        kind = request.prompt.kind if request.prompt.kind in (PRIOR, REAL) else "prompts"
        for name in (n for n in scoring.metrics if kind in OF.get(n, {"prompts"})):
            found = value(record.job, request, name)
            scores.append(_score(record.job, request, name, found, scoring.protocol))
    rows = score_rows(scores)
    method, subject, seed = record.job.name
    scored = ScoreRecord(
        method=method,
        subject=subject,
        seed=seed,
        scoring=scoring,
        images=images_digest(record.images),
        references=record.job.references_digest,
        seconds=1.0,
        rows="",
        provenance=dict(record.provenance),
    )
    directory.write_scores(scored, rows)


def _score(job: Job, request: Request, name: str, given: Given, protocol: str) -> Score:
    if isinstance(given, Unscored):
        given = (None, given.reason)
    value, reason = given if isinstance(given, tuple) else (given, "")
    return Score(
        method=job.method,
        subject=job.subject,
        prompt=request.prompt.template,
        prompt_kind=request.prompt.kind,
        sample=request.index,
        seed=job.seed,
        metric=name,
        value=value,
        protocol=protocol,
        reason=reason,
    )


def edit_records(path: Path, pattern: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change each job's record whose file in jobs/ fits `pattern`, as if written so."""
    for file in sorted(path.glob(f"jobs/{pattern}.json")):
        content = unsealed(json.loads(file.read_text()))
        change(content)
        file.write_text(json.dumps(sealed(content)))


def repaint(path: Path, image: Callable[[int], np.ndarray], files: str = "*/*/*") -> None:
    """Give the images that fit `files` other pixels, by their place, as if they were drawn so."""
    hashes = {}
    for i, file in enumerate(sorted(path.glob(f"images/{files}.png"))):
        content = png_bytes(image(i))
        write_atomically(file, content)
        hashes[file.relative_to(path).as_posix()] = sha256(content)
    contents = read_contents(path)
    for record in contents.jobs.values():
        images = {
            name: replace(one, sha256=hashes.get(name, one.sha256))
            for name, one in record.images.items()
        }
        contents.directory.write_job(replace(record, images=images))
        for key, scored in contents.scores.items():
            if key[1] == record.job.name:
                scored = replace(scored, images=images_digest(images))
                contents.directory.write_scores(scored, contents.rows[key].decode())


def remove_job(path: Path, method: str, subject: str, seed: int = 0) -> None:
    """As if the job had failed."""
    name = (method, subject, seed)
    (path / f"{job_path(name)}.json").unlink()
    for folder in (path / "scores").iterdir():
        for suffix in (".csv", ".json"):
            (path / f"{scores_path(folder.name, name)}{suffix}").unlink()
    read_contents(path).write_scores()
