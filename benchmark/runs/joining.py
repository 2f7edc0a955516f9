"""A plan and what its run directory holds already, as one: jobs, run.json and suite.toml.

jobs = joined(grid, existing)
directory.write_plan(joined_plan(jobs, grid.settled, protocol, existing), ...)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from benchmark.api import CUSTOM, Prompt
from benchmark.config.protocol import Protocol
from benchmark.data.prompts import ALL
from benchmark.runs.existing_run import Existing, suite_before
from benchmark.runs.plan import Grid
from benchmark.store.directory import SCORES, SUITE, Plan, PlannedJob, protocol_path
from benchmark.store.records import Job, JobRecord


def joined(grid: Grid, existing: Existing) -> tuple[Job, ...]:
    """The grid's jobs, each with the prompts and images that it has in the directory already."""
    return tuple(
        _joined(job, existing.jobs.get(job.name), grid.prompts[job.subject]) for job in grid.jobs
    )


def _joined(job: Job, record: JobRecord | None, order: tuple[Prompt, ...]) -> Job:
    if record is None:
        return job
    there = record.job
    prompts = {*job.prompts, *there.prompts}
    return replace(
        job,
        prompts=(
            *(p for p in order if p in prompts),
            *sorted(prompts - {*order}, key=attrgetter("template")),  # custom ones, or old ones
        ),
        images_per_prompt=max(job.images_per_prompt, there.images_per_prompt),
        prior_prompt_images=max(job.prior_prompt_images, there.prior_prompt_images),
    )


def joined_plan(
    jobs: Sequence[Job], settled: Mapping[str, Any], protocol: Protocol, existing: Existing
) -> Plan:
    """run.json with `jobs` and `protocol` added: its jobs by name, whatever came first."""
    before = {asked.name: asked for asked in existing.plan.jobs} if existing.plan else {}
    new = {job.name: PlannedJob(*job.name) for job in jobs}
    asked = before | new
    labels = dict.fromkeys([*(existing.plan.protocols if existing.plan else ()), protocol.label])
    files = dict(existing.plan.files if existing.plan else {})
    for name in (SUITE, SCORES, protocol_path(protocol.label)):
        if existing.contents.is_altered(name):
            files.pop(name, None)  # what will be there is what this command writes
    return Plan(
        jobs=tuple(asked[name] for name in sorted(asked)),
        protocols=tuple(labels),
        settled=dict(existing.plan.settled if existing.plan and existing.jobs else {})
        | dict(settled),
        files=files,
    )


def joined_suite(grid: Grid, jobs: Sequence[Job], existing: Existing) -> str:
    """suite.toml: the grid's suite, with the selection that the directory has in all."""
    import tomli_w

    suite = grid.suite.model_dump(mode="json", exclude_none=True)
    before = suite_before(existing)
    suite["protocol"] = before.get("protocol", suite["protocol"])
    there = [record.job for record in existing.jobs.values() if not record.job.elsewhere]
    methods = before.get("methods", _settings(there)) | suite["methods"]
    suite["methods"] = {name: methods[name] for name in sorted(methods)}
    suite["data"]["subjects"] = sorted({job.subject for job in (*there, *jobs)})
    evaluation = suite["evaluation"]
    for key in ("images_per_prompt", "prior_prompt_images"):
        evaluation[key] = max(getattr(job, key) for job in (*there, *jobs))
    templates = _templates((*there, *jobs))
    said = [evaluation["prompts"], before.get("evaluation", {}).get("prompts")]
    if any(prompts == [] or ALL in (prompts or ()) for prompts in said):
        own = {p.template for job in (*there, *jobs) for p in job.prompts if p.kind == CUSTOM}
        evaluation["prompts"] = [ALL, *sorted(own)] if own else []
    elif said[1]:
        if not {*said[1]} <= {*evaluation["prompts"]}:
            evaluation["prompts"] = sorted({*said[1], *evaluation["prompts"]})
    elif evaluation["prompts"] and templates > _templates(grid.jobs):
        evaluation["prompts"] = sorted(templates)  # nobody knows how they were chosen
    return tomli_w.dumps(suite)


def _templates(jobs: Iterable[Job]) -> set[str]:
    return {prompt.template for job in jobs for prompt in job.prompts}


def _settings(jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
    """method -> its settings, those that are set."""
    return {
        job.method: {key: value for key, value in job.fit.settings.items() if value is not None}
        for job in jobs
    }
