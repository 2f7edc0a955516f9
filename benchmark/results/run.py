"""What a run directory holds once jobs have finished, read for a report.

read_run(Path("runs/pocket-1a2b3c4d")).methods
"""

from __future__ import annotations

import functools
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import REAL, Prompt, UserError
from benchmark.data.manifest import some
from benchmark.results.claims import Verdict, judge, load_orderings
from benchmark.results.significance import by_image
from benchmark.results.statistics import read_scores, sort_methods, summarise
from benchmark.store.directory import RECORDS, image_path, job_path
from benchmark.store.records import ELSEWHERE, Job

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """What a run directory holds, read; or several of them, as one."""

    directory: Path  #: the run directory; of several runs, where their report goes
    suite: dict[str, Any]  #: suite.toml
    scores: pd.DataFrame  #: scores.csv
    records: tuple[dict[str, Any], ...]  #: the finished jobs' records, in the tables' order
    parts: tuple[Run, ...] = ()  #: the runs that were put together; none for a run of its own

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        return summarise(self.scores)

    @functools.cached_property
    def by_image(self) -> dict[str, pd.DataFrame]:
        return by_image(self.scores)

    @functools.cached_property
    def methods(self) -> list[str]:
        return sort_methods(self.scores["method"].unique())

    @functools.cached_property
    def elsewhere(self) -> set[str]:
        """The methods whose images another tool made: they share no noise with any."""
        jobs = (record["job"] for record in self.records)
        return {job["method"] for job in jobs if job["method_version"] == ELSEWHERE}

    @functools.cached_property
    def protocol(self) -> str:
        """The label of the protocol that the scores are of."""
        return ", ".join(sorted(self.scores["protocol"].unique()))

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """What the scores say of each of the paper's orderings, scaled as the protocol does."""
        orderings = [ordering.scaled(self.factor(ordering.metric)) for ordering in load_orderings()]
        return judge(orderings, self.by_image)

    @functools.cached_property
    def above_real_images(self) -> list[str]:
        """The methods whose DINO lies above the real images' own: likely copiers."""
        dino = self.summary[self.summary["metric"] == "dino"].set_index("method")["mean"]
        real = dino.get("real-images", math.inf)
        return [method for method in self.methods if method in dino and dino[method] > real]

    def nearest(self, method: str) -> float | None:
        """The mean DINO similarity of `method`'s images to the real image each is most like."""
        found = self.summary["mean"][
            (self.summary["metric"] == "dino_nearest") & (self.summary["method"] == method)
        ]
        return float(found.iloc[0]) if len(found) else None

    @property
    def defined(self) -> dict[str, Any] | None:
        """The metrics that the protocol defines, each with its scale; None if no suite says."""
        protocol = self.origins[0].suite.get("protocol")
        return protocol.get("metrics") if isinstance(protocol, dict) else None

    def factor(self, metric: str) -> float:
        """What the protocol multiplies the raw scores of `metric` with."""
        return (self.defined or {}).get(metric, {}).get("factor", 1.0)

    @property
    def origins(self) -> tuple[Run, ...]:
        """The runs with a directory of their own: the parts, or this one."""
        return self.parts or (self,)

    def origin(self, record: dict[str, Any]) -> Run:
        """The run that did the job, which is that of the directory its files lie in."""
        return self._origins[id(record)]

    @functools.cached_property
    def _origins(self) -> dict[int, Run]:
        return {id(record): run for run in self.origins for record in run.records}

    def subjects(self, method: str) -> list[str]:
        return sorted(self.scores.loc[self.scores["method"] == method, "subject"].unique())

    def image(
        self, method: str, subject: str, prompt: Prompt, seed: int, index: int
    ) -> Path | None:
        """The image's file, in whichever run directory has it."""
        name = image_path(method, subject, prompt, seed, index)
        return next((p for r in self.origins if (p := r.directory / name).is_file()), None)


def read_run(run_directory: Path) -> Run:
    """The run directory's scores, suite and records. Raises UserError naming what is amiss."""
    scores = read_scores(run_directory / "scores.csv")
    suite_file = run_directory / "suite.toml"
    try:
        suite = tomllib.loads(suite_file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{suite_file} does not exist: is it a run directory?") from None
    except (tomllib.TOMLDecodeError, OSError, UnicodeError) as error:
        raise UserError(f"{suite_file} cannot be read: {error}") from error
    found = {}
    for where, text in _record_texts(run_directory):
        try:
            record = json.loads(text)
            job = record["job"]
            found[job["method"], job["subject"], str(job["seed"])] = record
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where} is no job's record ({error}): remove it") from error
    return Run(run_directory, suite, scores, in_order(found, scores))


def unfinished(run: Run) -> list[str]:
    """The jobs that were planned and have no record, as `jobs/<method>/<subject>-s<seed>`.

    Of several runs, those that none of them has done. Raises UserError for a plan that is none.
    """
    done = {job_path(Job(**record["job"])) for record in run.records}
    missing = []
    for plan in (part.directory / "run.json" for part in run.origins):
        if plan.is_file():
            try:
                planned = json.loads(plan.read_text("utf-8"))["jobs"]
                missing += [job for job in planned if job not in done]
            except (ValueError, KeyError, TypeError, OSError) as error:
                raise UserError(f"{plan} is no plan of a run ({error}): run it again") from error
    return list(dict.fromkeys(missing))


def check_finished(run: Run) -> None:
    """Raise UserError if a planned job of `run` has no record, or a score no job."""
    missing = unfinished(run)
    scored = run.scores[["method", "subject", "seed"]].drop_duplicates()
    if missing or len(scored) != len(run.records):
        what = some(missing) if missing else "scores.csv and jobs/ do not hold the same jobs"
        raise UserError(
            f"{run.directory} is not finished: {what}; the same `run` command again goes on"
        )


def in_a_row(run: Run) -> str:
    """What the images of a row have in common, in words."""
    prompted = set(run.scores.loc[run.scores["prompt_kind"] != REAL, "method"])
    if not run.elsewhere:
        return "Every row is one prompt and one noise: the methods differ, nothing else."
    if prompted <= run.elsewhere:
        return "Every row is one prompt; the images were made elsewhere, from noise of their own."
    return (
        "Every row is one prompt and one noise, but for images that were made elsewhere, from "
        "noise of their own."
    )


def _record_texts(run_directory: Path) -> Iterator[tuple[str, str]]:
    """Where each finished job's record is, and its text: a file each, or a line of a kept run."""
    kept = run_directory / RECORDS
    try:
        if kept.is_file():
            for number, line in enumerate(kept.read_text("utf-8").splitlines(), 1):
                yield f"{kept} line {number}", line
            return
        for path in sorted(run_directory.glob("jobs/*/*.json")):
            yield str(path), path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{run_directory}: a job's record cannot be read: {error}") from error


def in_order(
    found: dict[tuple[str, str, str], dict[str, Any]], scores: pd.DataFrame
) -> tuple[dict[str, Any], ...]:
    """The records of the jobs in `scores`, in the tables' order; keys (method, subject, seed)."""
    columns = ["method", "subject", "seed"]
    scored = set(scores[columns].drop_duplicates().itertuples(index=False, name=None))
    place = {method: i for i, method in enumerate(sort_methods(m for m, _, _ in scored))}
    order = sorted(scored, key=lambda job: (place[job[0]], job[1], int(job[2])))
    return tuple(found[job] for job in order if job in found)


def missing_jobs(scores: pd.DataFrame) -> dict[str, list[str]]:
    """method -> what it lacks of what other methods have: `dog`, or `dog (seed 1, 2)`.

    Real images are the same for every seed, so one seed of theirs is enough.
    """
    jobs = scores[["method", "subject", "seed", "prompt_kind"]].drop_duplicates()
    seeds: dict[str, set[str]] = {subject: set() for subject in sorted(jobs["subject"].unique())}
    for row in jobs[jobs["prompt_kind"] != REAL].itertuples():
        seeds[row.subject].add(row.seed)
    found: dict[str, list[str]] = {}
    for method in sort_methods(jobs["method"].unique()):
        own = jobs[jobs["method"] == method]
        unprompted = (own["prompt_kind"] == REAL).all()
        for subject, wanted in seeds.items():
            has = set(own.loc[own["subject"] == subject, "seed"])
            lacking = [] if unprompted else sorted(wanted - has, key=int)
            if not has:
                found.setdefault(method, []).append(subject)
            elif lacking:
                found.setdefault(method, []).append(f"{subject} (seed {', '.join(lacking)})")
    return found
