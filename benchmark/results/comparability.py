"""What a run's scores are scores of, and what else is known of how they came about.

    task = task_of(read_run(Path("runs/pocket-1a2b3c4d")))

Scores compare only where their whole task agrees. Settings, versions and the sampler are no part of
it: they are what a change may be about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from benchmark.api import REAL, UserError
from benchmark.config import registry as plugins
from benchmark.data.manifest import Table
from benchmark.results.run import Run
from benchmark.results.statistics import sort_methods, sort_metrics

if TYPE_CHECKING:
    import pandas as pd


class SubjectTask(Table):
    """What was asked of a subject."""

    class_noun: str
    images: str  #: the SHA-256 over its images' SHA-256s
    prompts: int
    prompts_digest: str  #: 12 hex digits over the prompts, in order


class MetricTask(Table):
    """Which metric it was, and where better lies. A metric without a better end is no part."""

    version: str
    better: Literal["higher", "lower", "unknown"]


class Task(Table):
    """What scores are scores of: they compare only where all of this agrees."""

    protocol: str
    backbone: str
    images_per_prompt: int
    prior_prompt_images: int
    subjects: dict[str, SubjectTask] = Field(min_length=1)
    metrics: dict[str, MetricTask] = Field(min_length=1)
    encoders: dict[str, Any]


def unprompted(scores: pd.DataFrame) -> set[str]:
    """The methods without a prompt, so without a seed: real images."""
    kinds = scores[["method", "prompt_kind"]].drop_duplicates()
    return set(kinds["method"]) - set(kinds.loc[kinds["prompt_kind"] != REAL, "method"])


def run_seeds(run: Run) -> list[int]:
    """The seeds that anything was drawn with; all of them if nothing was."""
    drawn = run.scores[~run.scores["method"].isin(unprompted(run.scores))]
    return sorted(int(seed) for seed in (drawn if len(drawn) else run.scores)["seed"].unique())


def task_of(run: Run) -> Task:
    """What `run`'s scores are of. Raises UserError if its jobs differ in it."""
    prompted = set(run.methods) - unprompted(run.scores)
    jobs = [record["job"] for record in run.records]
    asked = [job for job in jobs if job["method"] in prompted] or jobs
    subjects = {}
    for name in sorted({job["subject"] for job in jobs}):
        own = [job for job in asked if job["subject"] == name]
        text = _same(own, "prompts", run)
        digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:12]
        subjects[name] = SubjectTask(
            class_noun=_same(own, "class_noun", run),
            images=_same(own, "images_digest", run),
            prompts=len(text),
            prompts_digest=digest,
        )
    versions = {k: v for r in run.records for k, v in r["provenance"].get("metrics", {}).items()}
    return Task(
        protocol=_same(jobs, "protocol", run),
        backbone=_same(jobs, "backbone", run),
        images_per_prompt=_same(asked, "images_per_prompt", run),
        prior_prompt_images=_same(asked, "prior_prompt_images", run),
        subjects=subjects,
        metrics={
            name: MetricTask(version=str(versions.get(name, "unknown")), better=better)
            for name in sort_metrics(run.scores["metric"].unique())
            if (better := _better(name))
        },
        encoders=without_none(_same(jobs, "encoders", run)),
    )


def _better(metric: str) -> Literal["higher", "lower", "unknown"] | None:
    try:
        higher = plugins.load("metrics", metric).higher_is_better
    except UserError:
        return "unknown"  # somebody's metric, and not installed here
    return None if higher is None else "higher" if higher else "lower"


def _same(jobs: Sequence[dict[str, Any]], what: str, run: Run) -> Any:
    found = {json.dumps(job[what], sort_keys=True): job[what] for job in jobs}
    if len(found) > 1:
        raise UserError(
            f"{', '.join(str(part.directory) for part in run.origins)}: jobs differ in {what}: "
            f"{' and '.join(list(found)[:2])}; give runs of one kind"
        )
    return next(iter(found.values()))


def jobs_by_method(run: Run) -> dict[str, dict[str, Any]]:
    """method -> one of its jobs, in the tables' order."""
    jobs = {record["job"]["method"]: record["job"] for record in reversed(run.records)}
    return {method: jobs[method] for method in sort_methods(jobs)}


def conditions_of(run: Run) -> dict[str, Any]:
    """What may differ from a baseline, and is named: each method's version and settings."""
    return {
        method: {"version": job["method_version"], "settings": without_none(job["settings"])}
        for method, job in jobs_by_method(run).items()
    }


def sampler_of(run: Run) -> dict[str, Any]:
    """How the evaluation images were drawn. Raises UserError if jobs differ in it."""
    return without_none(_same([record["job"] for record in run.records], "sampler", run))


def provenance_of(run: Run, what: str) -> list[str]:
    """What the records say of `what`, sorted, each once."""
    return sorted({str(record["provenance"].get(what)) for record in run.records})


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested tables differ: dotted key, and both values (None where there is none)."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(before.get(key), after.get(key), inner)
    elif before != after:
        yield path, before, after


def without_none(value: Any) -> Any:
    # TOML has no word for it.
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return value
