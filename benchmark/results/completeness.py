"""What is missing of a run: planned jobs without scores, and what only some methods have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import PRIOR, Prompt, UserError
from benchmark.data.manifest import some
from benchmark.results.run import Run
from benchmark.store.directory import job_path, protocol_path
from benchmark.store.records import Job, JobRecord
from benchmark.store.wording import AGAIN

if TYPE_CHECKING:
    import pandas as pd


_NAMED = 4  #: prompts or subjects; further ones are counted


@dataclass(frozen=True)
class Unscored:
    """Jobs of a run directory that have images and no scores of them under a protocol."""

    directory: Path
    protocol: str
    jobs: tuple[str, ...]  #: `jobs/<method>/<subject>-s<seed>`
    images: int  #: of all of these jobs
    metrics: tuple[str, ...] = ()  #: those that lack scores; none: all of them
    first: bool = True  #: whether `score` scores under the protocol without being told to

    @property
    def command(self) -> str:
        """What brings the scores."""
        text = f"python -m benchmark score {self.directory}"
        if not self.first:
            declaration = self.directory / protocol_path(self.protocol)
            text += f" --protocol {declaration}"
        return f"{text} --metrics {','.join(self.metrics)}" if self.metrics else text

    def __str__(self) -> str:
        what = f" in {', '.join(self.metrics)}" if self.metrics else ""
        return (
            f"{some(list(self.jobs))} lack scores{what} of their {self.images} images under "
            f"{self.protocol}: {self.command}"
        )


def unscored_jobs(run: Run) -> list[Unscored]:
    """What has images and lacks scores of them, by run directory and protocol of `run`."""
    scored = {(r.scoring.protocol, r.name): r for r in run.scored}
    found = []
    for part in run.origins:
        labels = list(part.declarations)
        for label in (label for label in labels if label in run.plan.protocols):
            lacking: dict[tuple[str, ...], list[JobRecord]] = {}
            for record in part.drawn:
                known = scored.get((label, record.job.name))
                if known is None or known.partial:
                    metrics = known.partial if known else ()
                    lacking.setdefault(metrics, []).append(record)
            for metrics, records in sorted(lacking.items()):
                jobs = tuple(job_path(record.job.name) for record in records)
                images = sum(len(record.images) for record in records)
                first = label == labels[0]
                found.append(Unscored(part.directory, label, jobs, images, metrics, first))
    return found


def unfinished(run: Run) -> list[str]:
    """Planned jobs without images: `jobs/<method>/<subject>-s<seed>`. Of several runs, what none
    of them has.
    """
    drawn = {record.job.name for record in run.drawn}
    planned = dict.fromkeys(job.name for part in run.origins for job in part.plan.jobs)
    return [job_path(name) for name in planned if name not in drawn]


def missing_jobs(run: Run) -> dict[str, list[str]]:
    """method -> what it lacks of what other methods have: `dog`, or `dog (seed 1, 2)`.

    Real images are the same for every seed, so one seed of them is enough.
    """
    jobs = [record.job for record in run.records]
    seeds: dict[str, set[int]] = {subject: set() for subject in sorted({j.subject for j in jobs})}
    for job in jobs:
        if job.prompted:
            seeds[job.subject].add(job.seed)
    found: dict[str, list[str]] = {}
    for method in run.methods:
        own = [job for job in jobs if job.method == method]
        for subject, wanted in seeds.items():
            has = {job.seed for job in own if job.subject == subject}
            lacking = sorted(wanted - has) if own[0].prompted else []
            if not has:
                found.setdefault(method, []).append(subject)
            elif lacking:
                found.setdefault(method, []).append(
                    f"{subject} (seed {', '.join(map(str, lacking))})"
                )
    return found


def subjects_in_words(run: Run) -> str:
    """Which methods lack how many of the subjects that there are; empty if none does."""
    everyone = len({record.job.subject for record in run.records})
    lacking = {method: everyone - len(run.subjects(method)) for method in run.methods}
    return ", ".join(f"{name} lacks {few} of {everyone}" for name, few in lacking.items() if few)


def incomparable(run: Run, methods: Collection[str]) -> str:
    """Why the means of `methods` do not compare, in words; empty if they do."""
    reasons = []
    if len({tuple(run.subjects(method)) for method in methods}) > 1:
        reasons.append("not every method has every subject")
    if uneven_prompts(run, methods):
        reasons.append("not every method drew the same prompts")
    scored = {
        tuple(kind for kind in r.job.unscored if kind != PRIOR)
        for r in run.records
        if r.job.method in methods
    }
    if len(scored) > 1:
        reasons.append("not every method is scored on the same kinds of prompts")
    return " and ".join(reasons)


def uneven_prompts(run: Run, methods: Collection[str] | None = None) -> dict[str, list[str]]:
    """method -> what it lacks of what others drew of the same subject: prompts, images of them.

    Of the jobs of `methods`, or of all.
    """
    jobs = [r.job for r in run.records if r.job.prompted]
    jobs = [job for job in jobs if methods is None or job.method in methods]
    by_subject: dict[str, list[Job]] = {}
    for job in jobs:
        by_subject.setdefault(job.subject, []).append(job)
    lacking: dict[str, dict[str, dict[str, None]]] = {}
    for subject, own in by_subject.items():
        most = _most(own)
        for job in own:
            for what in _lacking(job, most):
                lacking.setdefault(job.method, {}).setdefault(what, {})[subject] = None
    found: dict[str, list[str]] = {}
    for method, whats in lacking.items():
        by_subjects: dict[tuple[str, ...], list[str]] = {}
        for what, subjects in whats.items():
            by_subjects.setdefault(tuple(subjects), []).append(what)
        found[method] = [f"{_few(what)} of {_few(own)}" for own, what in by_subjects.items()]
    return found


@dataclass(frozen=True)
class _Most:
    """All that any job of a subject asked for."""

    prompts: tuple[Prompt, ...]
    images_per_prompt: int
    prior_prompt_images: int


def _most(jobs: Collection[Job]) -> _Most:
    alike = dict.fromkeys(job.prompts for job in jobs)  # most jobs ask for the same
    return _Most(
        tuple(dict.fromkeys(prompt for prompts in alike for prompt in prompts)),
        max(job.images_per_prompt for job in jobs),
        max(job.prior_prompt_images for job in jobs),
    )


def _lacking(job: Job, most: _Most) -> list[str]:
    """What `job` lacks of what others of its subject asked for, in words."""
    found = []
    if job.prompts != most.prompts:
        own = set(job.prompts)
        found = [f"'{prompt.template}'" for prompt in most.prompts if prompt not in own]
    if lacks := most.images_per_prompt - job.images_per_prompt:
        found.append(f"{lacks} of {most.images_per_prompt} images a prompt")
    if lacks := most.prior_prompt_images - job.prior_prompt_images:
        found.append(f"{lacks} of {most.prior_prompt_images} images of the prior prompt")
    return found


def uneven_in_words(run: Run) -> str:
    """Which methods lack what others drew; nothing if none does."""
    lacking = uneven_prompts(run)
    return "; ".join(f"{method} lacks {', and '.join(what)}" for method, what in lacking.items())


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def unscored_counts(run: Run) -> pd.DataFrame:
    """Columns method, metric, reason, images: how many images have no score, and why."""
    return _counts(run, run.unscored)


def befallen_counts(run: Run) -> pd.DataFrame:
    """The same of images that have a score all the same: what befell them."""
    return _counts(run, run.scores[run.scores["reason"] != ""])


def _counts(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    keys = ["method", "metric", "reason"]
    found = rows.groupby(keys, observed=True).size().reset_index(name="images")
    place = {name: i for i, name in enumerate([*run.methods, *run.metrics])}
    return found.sort_values(
        keys, key=lambda column: column.map(lambda text: place.get(text, text)), ignore_index=True
    )


def check_finished(run: Run) -> None:
    """Raise UserError if a planned job of `run` is not done, or not scored."""
    if missing := unfinished(run):
        raise UserError(f"{run.directory} is not finished: {some(missing)}: {AGAIN} to resume")
    if unscored := unscored_jobs(run):
        raise UserError(f"{run.directory} is not finished: {unscored[0]}")


def check_complete(run: Run) -> None:
    """Raise UserError naming what is missing of `run`'s grid."""
    way_out = "report what there is with --partial"
    if unscored := unscored_jobs(run):
        raise UserError(f"the grid is incomplete: {unscored[0]}; or {way_out}")
    lacking = lacking_of(run)
    if not lacking and (missing := unfinished(run)):
        lacking.append(f"not finished: {some(missing)}")
    if lacking:
        raise UserError(
            f"the grid is incomplete: {'; '.join(lacking)}; run what is missing, or {way_out}"
        )


def lacking_of(run: Run) -> list[str]:
    """In words, what some methods have and others lack."""
    lacking = [f"{m} lacks {', '.join(what)}" for m, what in missing_jobs(run).items()]
    if uneven := uneven_in_words(run):
        lacking.append(f"not every method drew the same prompts: {uneven}")
    return lacking
