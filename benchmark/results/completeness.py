"""What is missing of a run: planned jobs without scores, and what only some methods have."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.data.manifest import some
from benchmark.results.run import Run
from benchmark.store.directory import job_path

if TYPE_CHECKING:
    import pandas as pd


def unfinished(run: Run) -> list[str]:
    """Planned jobs without scores: `jobs/<method>/<subject>-s<seed>`, then the protocol if it is
    not all of them. Of several runs, what none of them has.
    """
    done = {(r.scoring.protocol, r.name) for r in run.scored}
    drawn = {name for _, name in done}
    missing = []
    for part in run.origins:
        labels = [label for label in part.plan.protocols if label in run.plan.protocols]
        for asked in part.plan.jobs:
            path = job_path(asked.name)
            if asked.name not in drawn:
                missing.append(path)
            else:
                lacking = [label for label in labels if (label, asked.name) not in done]
                missing += [f"{path} under {label}" for label in lacking]
    return list(dict.fromkeys(missing))


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


def uneven_prompts(run: Run) -> list[str]:
    """The subjects whose jobs asked for different prompts, or numbers of images of them."""
    asked: dict[str, set[str]] = {}
    for job in (record.job for record in run.records if record.job.prompted):
        prompts = [tuple(asdict(prompt).values()) for prompt in job.prompts]
        wanted = (prompts, job.images_per_prompt, job.prior_prompt_images)
        asked.setdefault(job.subject, set()).add(str(wanted))
    return sorted(subject for subject, wanted in asked.items() if len(wanted) > 1)


def unscored_counts(run: Run) -> pd.DataFrame:
    """Columns method, metric, reason, images: how many images have no score, and why."""
    keys = ["method", "metric", "reason"]
    found = run.unscored.groupby(keys, observed=True).size().reset_index(name="images")
    place = {name: i for i, name in enumerate([*run.methods, *run.metrics])}
    return found.sort_values(
        keys, key=lambda column: column.map(lambda text: place.get(text, text)), ignore_index=True
    )


def check_finished(run: Run) -> None:
    """Raise UserError if a planned job of `run` is not done, or not scored."""
    if missing := unfinished(run):
        raise UserError(
            f"{run.directory} is not finished: {some(missing)}: run the same command again to "
            "resume"
        )


def check_complete(run: Run) -> None:
    """Raise UserError naming what is missing of `run`'s grid."""
    lacking = lacking_of(run)
    if not lacking and (missing := unfinished(run)):
        lacking.append(f"not finished: {some(missing)}")
    if lacking:
        raise UserError(
            f"the grid is incomplete: {'; '.join(lacking)}; run what is missing, or report what "
            "there is with --partial"
        )


def lacking_of(run: Run) -> list[str]:
    """In words, what some methods have and others lack."""
    lacking = [f"{m} lacks {', '.join(what)}" for m, what in missing_jobs(run).items()]
    if uneven := uneven_prompts(run):
        lacking.append(f"not every method drew the same prompts of {', '.join(uneven)}")
    return lacking
