"""What a run directory holds once jobs have finished, read for a report."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.records import UserError
from benchmark.stats import read_scores, sort_methods, summarise

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """What a run directory holds, read."""

    directory: Path
    suite: dict[str, Any]  #: suite.toml
    scores: pd.DataFrame  #: scores.csv
    summary: pd.DataFrame
    records: tuple[dict[str, Any], ...]  #: the finished jobs' records, in the tables' order

    @property
    def methods(self) -> list[str]:
        return sort_methods(self.scores["method"])

    def subjects(self, method: str) -> list[str]:
        return sorted(self.scores.loc[self.scores["method"] == method, "subject"].unique())


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
    for path in sorted(run_directory.glob("jobs/*/*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
            job = record["job"]
            found[job["method"], job["subject"], str(job["seed"])] = record
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path} is no job's record ({error}): remove it") from error
    scored = set(scores[["method", "subject", "seed"]].itertuples(index=False, name=None))
    order = [(m, *rest) for m in sort_methods(scores["method"]) for rest in _jobs_of(scored, m)]
    records = tuple(found[key] for key in order if key in found)
    return Run(run_directory, suite, scores, summarise(scores), records)


def _jobs_of(scored: set[tuple[str, str, str]], method: str) -> list[tuple[str, str]]:
    return sorted((subject, seed) for name, subject, seed in scored if name == method)
