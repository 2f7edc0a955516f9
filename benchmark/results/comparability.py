"""The basis of a run's scores, which has to agree for scores to compare; and what may differ.

    basis = basis_of(read_run(Path("runs/pocket-1a2b3c4d")).under("pocket-1"))

Settings, versions and the sampler are no part of the basis: they are what a change may be about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from benchmark.api import UserError
from benchmark.data.manifest import Table
from benchmark.results.run import Run
from benchmark.store.records import Job


class SubjectBasis(Table):
    """What was asked of a subject."""

    class_noun: str
    images: str  #: the SHA-256 over its images' SHA-256s
    prompts: int
    prompts_digest: str  #: 12 hex digits over the prompts, in order


class MetricBasis(Table):
    """One metric. Those in which neither direction is better are left out."""

    version: str
    better: Literal["higher", "lower"]
    factor: float  #: the protocol's scale, as in MetricRecord
    minimum: float | None = None
    gallery: str | None = None  #: the subjects among which it ranks, as in MetricRecord


class Basis(Table):
    """What scores are scores of: they compare only where all of this agrees.

    In a baseline's file it is the table `[task]`.
    """

    protocol: str
    declaration: dict[str, Any]  #: of the protocol, as in Scoring
    identifier: str | None = None  #: None: no caption of the protocol has it
    backbone: str | None = None  #: its label; None: nothing was drawn
    images_per_prompt: int
    prior_prompt_images: int
    subjects: dict[str, SubjectBasis] = Field(min_length=1)
    metrics: dict[str, MetricBasis] = Field(min_length=1)
    encoders: dict[str, Any]


def unprompted(run: Run) -> set[str]:
    """The methods without a prompt, so without a seed."""
    return {record.job.method for record in run.records if not record.job.prompted}


def run_seeds(run: Run) -> list[int]:
    """The seeds that anything was drawn with; all of them if nothing was."""
    jobs = [record.job for record in run.records]
    drawn = [job for job in jobs if job.prompted]
    return sorted({job.seed for job in drawn or jobs})


def basis_of(run: Run) -> Basis:
    """What `run`'s scores, under one protocol, are of. Raises UserError if its jobs differ."""
    jobs = [record.job for record in run.records]
    asked = [job for job in jobs if job.prompted] or jobs
    subjects = {}
    for name in sorted({job.subject for job in jobs}):
        own = [job for job in asked if job.subject == name]
        prompts = _same("prompts", ([asdict(p) for p in job.prompts] for job in own), run)
        digest = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:12]
        subjects[name] = SubjectBasis(
            class_noun=_same("class_noun", (job.fit.class_noun for job in own), run),
            images=_same("images", (job.references_digest for job in own), run),
            prompts=len(prompts),
            prompts_digest=digest,
        )
    return Basis(
        protocol=run.protocol,
        declaration=without_none(run.scoring.declaration),
        identifier=run.scoring.identifier,
        backbone=_same("backbone", _backbones(jobs), run),
        images_per_prompt=_same("images_per_prompt", (j.images_per_prompt for j in asked), run),
        prior_prompt_images=_same(
            "prior_prompt_images", (j.prior_prompt_images for j in asked), run
        ),
        subjects=subjects,
        metrics={
            name: MetricBasis(
                version=run.metric(name).version,
                better="higher" if run.metric(name).higher_is_better else "lower",
                factor=run.metric(name).factor,
                minimum=run.metric(name).minimum,
                gallery=run.metric(name).gallery,
            )
            for name in gated_metrics(run)
        },
        encoders=without_none(run.scoring.encoders),
    )


def gated_metrics(run: Run) -> list[str]:
    """The metrics that `run` has scores in, of those with a better direction."""
    present = set(run.scores["metric"].unique())
    return [
        name
        for name in run.metrics
        if name in present and run.metric(name).higher_is_better is not None
    ]


def _backbones(jobs: Iterable[Job]) -> list[str]:
    return [job.fit.backbone.label for job in jobs if job.fit.backbone is not None]


def _same(what: str, values: Iterable[Any], run: Run) -> Any:
    """The only one of `values`; None if there are none. Raises UserError if there are several."""
    found = {json.dumps(value, sort_keys=True): value for value in values}
    if len(found) > 1:
        raise UserError(
            f"{', '.join(str(part.directory) for part in run.origins)}: jobs differ in {what}: "
            f"{' and '.join(list(found)[:2])}; give runs of one kind"
        )
    return next(iter(found.values()), None)


def jobs_by_method(run: Run) -> dict[str, Job]:
    """method -> one of its jobs, in the tables' order."""
    jobs = {record.job.method: record.job for record in reversed(run.records)}
    return {method: jobs[method] for method in run.methods}


def conditions_of(run: Run) -> dict[str, Any]:
    """What may differ from a baseline, and is named: each method's version and settings."""
    return {
        method: {"version": job.fit.version, "settings": without_none(job.fit.settings)}
        for method, job in jobs_by_method(run).items()
    }


def sampler_of(run: Run) -> dict[str, Any]:
    """How the evaluation images were drawn, or nothing. Raises UserError if jobs differ in it."""
    drawn = (r.job.sampler for r in run.records if r.job.sampler is not None)
    return _same("sampler", (sampler.said() for sampler in drawn), run) or {}


def provenance_of(run: Run, what: str) -> list[str]:
    """What the records say of `what`, sorted, each once."""
    return sorted({str(record.provenance.get(what)) for record in run.records})


def precisions_of(run: Run) -> list[str]:
    """What forward passes were computed in, sorted, each once."""
    return sorted({r.job.fit.precision for r in run.records if r.job.fit.precision is not None})


def changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested tables differ: dotted key, and both values (None where there is none)."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            inner = f"{path}.{key}" if path else str(key)
            yield from changes(before.get(key), after.get(key), inner)
    elif before != after:
        yield path, before, after


def without_none(value: Any) -> Any:
    """`value`, nested tables, as TOML can hold it: TOML has no word for None."""
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return value
