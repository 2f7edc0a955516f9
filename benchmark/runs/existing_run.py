"""What a run directory holds already, and what of it may not change.

    existing = read_existing(RunDirectory(path))
    check_images(grid.jobs, grid.settled, existing)     # refuses what would change what is there

A directory may gain methods, subjects, seeds, prompts, images and protocols. What would change an
image or a score that is there is refused by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import Prompt, Request, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.registry import load_metric
from benchmark.data.masks import masks_digest
from benchmark.runs.edited import edited
from benchmark.runs.plan import Grid
from benchmark.runs.repair import forget, rebuilt_plan, told, whole_jobs, whole_priors, whole_scores
from benchmark.runs.score import Assessment
from benchmark.store.claims import check_alone
from benchmark.store.contents import Contents
from benchmark.store.directory import (
    PLAN,
    SUITE,
    Name,
    Plan,
    RunDirectory,
    protocol_path,
)
from benchmark.store.files import read_bytes, sha256, toml_of
from benchmark.store.reading import read_contents
from benchmark.store.records import (
    Job,
    JobRecord,
    PriorRecord,
    ScoreRecord,
    Scoring,
    image_key,
)
from benchmark.store.wording import WRITE_ANOTHER

_GO_BACK = "go back to what it was"
_WAY_OUT = f"{_GO_BACK}, or {WRITE_ANOTHER}"


@dataclass(frozen=True)
class Existing:
    """What lies in a run directory and is as it was written."""

    directory: RunDirectory
    plan: Plan | None
    jobs: Mapping[Name, JobRecord]  #: without images where one was altered: all are drawn anew
    scores: Mapping[tuple[str, Name], ScoreRecord]  #: by the protocol's label and the job
    priors: Mapping[str, PriorRecord]  #: by key
    contents: Contents  #: what was found, what was altered among it

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out meanwhile. Raises UserError if one is at work, or was since."""
        with self.directory.locked():
            check_alone(self.directory.path)
            if self.directory.plan_digest() != self.contents.plan_digest:
                raise UserError(
                    f"another run has added to {self.directory.path} meanwhile: run the same "
                    "command again"
                )
            yield

    def forget_altered(self) -> None:
        """Take from the directory what was altered, so that it is made anew. Raises UserError."""
        forget(self.contents, self.jobs)

    def tell_versions(self, protocol: Protocol) -> None:
        """Say which scores are by another version of `protocol`, which is not scored by again."""
        for label in self.plan.protocols if self.plan else ():
            name, _, version = label.rpartition("-")
            if name == protocol.name and version != protocol.version:
                print(
                    f"version     scores under {label} stay as they are, beside those under "
                    f"{protocol.label}: they do not compare",
                    flush=True,
                )

    def tell_edited(self, protocol: str) -> None:
        """Warn of fits, and of scores under `protocol`, that an older text of a plugin made."""
        scores = [record for (label, _), record in self.scores.items() if label == protocol]
        for line in edited(self.directory.path, self.jobs.values(), scores):
            print(f"warning: {line}", file=sys.stderr, flush=True)

    def tell_unkept(self, jobs: Collection[Job]) -> None:
        """Say which of `jobs` are done and kept no weights, which are not fitted again for that."""
        done = [
            self.jobs[job.name] for job in jobs if job.role == "method" and job.name in self.jobs
        ]
        unkept = sum(not missing(r.job, r) and r.weights is None for r in done)
        if unkept:
            print(
                f"weights     {unkept} of {len(done)} finished fits kept none, and --keep-weights "
                "fits nothing again: to have theirs, choose another --out",
                flush=True,
            )

    def tell_altered(self, jobs: Collection[Job], protocol: str) -> None:
        """Say what was altered, and what becomes of it in a run of `jobs` under `protocol`."""
        for line in told(self.contents, self.jobs, jobs, protocol):
            print(f"altered     {line}", flush=True)


def read_existing(
    directory: RunDirectory, *, keep_weights: bool = False, way_out: str = WRITE_ANOTHER
) -> Existing:
    """What `directory` holds. Raises UserError if it is no run directory, or a published run, with
    the `way_out`.

    With `keep_weights` a job whose weights were altered is fitted anew.
    """
    contents = read_contents(directory.path, way_out)
    if contents.kept:
        raise UserError(
            f"{directory.path} is a published run without most of its images: nothing can be added "
            f"to it; use the run that was published, or {way_out}"
        )
    jobs = whole_jobs(contents, keep_weights)
    plan = rebuilt_plan(contents, jobs) if contents.is_altered(PLAN) else contents.plan
    scores = whole_scores(contents, jobs)
    return Existing(directory, plan, jobs, scores, whole_priors(contents), contents)


# What may not change ---------------------------------------------------------------------------


def check_images(jobs: Sequence[Job], settled: Mapping[str, Any], existing: Existing) -> None:
    """Refuse `jobs` if they would change an image that is there. Raises UserError."""
    if not existing.jobs:
        return
    before = dict(existing.plan.settled if existing.plan else {}) | _facts(
        record.job for record in existing.jobs.values()
    )
    for what, value in (dict(settled) | _facts(jobs)).items():
        if what in before and before[what] != value:
            raise UserError(
                f"{existing.directory.path} holds images made with {what} {before[what]!r}, "
                f"and now it is {value!r}: {_WAY_OUT}"
            )


def check_beside(grid: Grid, existing: Existing) -> None:
    """Refuse `grid` if it would mix others' images or scores with those that somebody is making.

    What is there decides that, as `check_images` says, and here also what was only asked for.
    """
    plan = existing.plan
    if plan is None:
        return
    others = suite_before(existing).get("methods", {})
    before, now = dict(plan.settled), dict(grid.settled)
    for method in others.keys() & grid.suite.methods.keys():
        for key in others[method].keys() | grid.suite.methods[method].keys():
            what = f"setting '{key}' of method '{method}'"
            before[what] = others[method].get(key)
            now[what] = grid.suite.methods[method].get(key)
    protocol = grid.suite.protocol
    path = protocol_path(protocol.label)
    if path in plan.files:
        what = f"protocol '{protocol.label}' of SHA-256"
        before[what] = ", ".join(plan.files[path])
        now[what] = sha256(protocol.dump_toml().encode())
    for what in sorted(before.keys() & now.keys()):
        if before[what] != now[what]:
            raise UserError(
                f"others are at work in {existing.directory.path} with {what} {before[what]!r}, "
                f"and here it is {now[what]!r}: {_WAY_OUT}"
            )


def _facts(jobs: Iterable[Job]) -> dict[str, Any]:
    """What decides the images of `jobs`, in words."""
    facts: dict[str, Any] = {}
    for job in jobs:
        fit, method, subject = job.fit, f"method '{job.method}'", f"subject '{job.subject}'"
        facts[f"version of {method}"] = fit.version
        # Another tool's images are their own settings, and so others in each of its jobs.
        whose = job.label if job.elsewhere else method
        settings = json.loads(json.dumps(fit.settings))  # as a record has them
        facts |= {f"setting '{key}' of {whose}": value for key, value in settings.items()}
        for slug, prompts in _by_slug(job.prompts).items():
            facts[f"the prompt of {subject} that files call '{slug}'"] = prompts
        facts[f"class noun of {subject}"] = fit.class_noun
        facts[f"{subject} being live"] = fit.live
        facts[f"images of {subject}"] = job.references_digest
        if fit.masks is not None:
            facts[f"masks of {subject} as {method} uses them"] = fit.masks
        facts |= {f"{name} of {job.label}": asset for name, asset in fit.assets.items()}
        if job.seen is not None:  # all of them, or of an earlier version's record unknown
            looked_at = ", ".join(str(index + 1) for index in job.seen)
            facts[f"images that {job.label} looks at"] = looked_at
        facts[f"the fit of {job.label}"] = fit.key
    return facts


def _by_slug(prompts: Iterable[Prompt]) -> dict[str, str]:
    """File name -> the prompts whose images are called so: one, or they are mixed up."""
    found: dict[str, set[str]] = {}
    for prompt in prompts:
        found.setdefault(prompt.slug, set()).add(f"{prompt.template} ({prompt.kind})")
    return {slug: ", ".join(sorted(named)) for slug, named in found.items()}


def check_scoring(assessment: Assessment, existing: Existing) -> None:
    """Refuse to score as `assessment` says if it would change a score that is there."""
    scoring = assessment.scoring
    if scoring.uses_masks:
        _check_masks(assessment, existing)
    for (protocol, _), record in existing.scores.items():
        if protocol != scoring.protocol or record.scoring == scoring:
            continue
        for what, was, now in _scoring_differences(record.scoring, scoring):
            raise UserError(
                f"{existing.directory.path} holds scores under protocol '{protocol}' with {what} "
                f"{was}, and now it is {now}: {_GO_BACK}, give the protocol another name or "
                f"version, or remove {existing.directory.path}/scores/{protocol} to score "
                "everything again"
            )


def _check_masks(assessment: Assessment, existing: Existing) -> None:
    label = assessment.protocol.label
    subjects = {subject.name: subject for subject in assessment.data.load().subjects}
    for (protocol, (_, name, _)), record in existing.scores.items():
        if protocol != label or name not in subjects:
            continue
        if masks_digest(subjects[name]) != record.masks:
            raise UserError(
                f"{existing.directory.path} holds scores under protocol '{label}' with other masks "
                f"of subject '{name}' than there are now: {_GO_BACK}, or remove "
                f"{existing.directory.path}/scores/{label} to score everything again"
            )


def _scoring_differences(before: Scoring, after: Scoring) -> Iterable[tuple[str, Any, Any]]:
    for key in sorted({*before.declaration, *after.declaration}):
        was, now = before.declaration.get(key), after.declaration.get(key)
        if was != now:
            yield f"its {key}", was, now
    if before.identifier != after.identifier:
        yield "the identifier", before.identifier, after.identifier
    for name, encoder in before.encoders.items():
        if name in after.encoders and encoder != after.encoders[name]:
            other = after.encoders[name]
            key = next(k for k in [*encoder, *other] if encoder.get(k) != other.get(k))
            yield f"the {key} of encoder '{name}'", encoder.get(key), other.get(key)
    for name, metric in before.metrics.items():
        if name in after.metrics and before.key(name) != after.key(name):
            for key in ("version", "encoders", "factor", "minimum", "metric", "gallery"):
                was, now = getattr(metric, key), getattr(after.metrics[name], key)
                if was != now:
                    yield f"the {key} of metric '{name}'", was, now


# What is there ---------------------------------------------------------------------------------


def missing(job: Job, record: JobRecord | None) -> tuple[Request, ...]:
    """The images that `job` asks for and that are not there."""
    there = {image.key for image in record.images.values()} if record else set()
    return tuple(r for r in job.requests if image_key(job.fit, r, job.sampler) not in there)


def extra_metrics(
    protocol: Protocol, existing: Existing, asked: Iterable[str] = ()
) -> tuple[str, ...]:
    """The metrics beside the protocol's own that are asked for, or that `existing` has.

    Scores of a metric that nobody asks for and that is gone stay as they are, with a warning.
    """
    found = {
        name
        for (label, _), record in existing.scores.items()
        if label == protocol.label
        for name in record.scoring.metrics
    }
    extra = {*asked} - set(protocol.metrics)
    for name in sorted(found - extra - set(protocol.metrics)):
        try:
            load_metric(name)
        except UserError as error:
            print(f"warning: {error}; its scores stay as they are", file=sys.stderr)
        else:
            extra.add(name)
    return tuple(sorted(extra))


def suite_before(existing: Existing) -> dict[str, Any]:
    """suite.toml as it was written; else its protocol, which is the plan's first."""
    altered, plan = existing.contents.is_altered, existing.plan
    if plan is None:
        return {}
    if not altered(PLAN) and not altered(SUITE):
        return _table(existing.directory.path / SUITE)
    if not plan.protocols or altered(protocol_path(plan.protocols[0])):
        return {}
    return {"protocol": _table(existing.directory.path / protocol_path(plan.protocols[0]))}


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():  # the run was killed before it was written
        return {}
    try:
        return toml_of(read_bytes(path))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no TOML ({error}): choose another --out") from error
