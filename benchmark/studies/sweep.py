"""Choosing settings: a grid of variants of one method on the development subjects.

    python -m benchmark sweep dreambooth --set learning_rate=1e-4,2e-4 --set steps=100,200

The objective is declared by the suite, before any sweep, and is the same for every method: the
geometric mean of two ratios, a method's subject fidelity to the upper bound's and its prompt
fidelity to the lower bound's. Each is relative to the bound that is hard to beat, so a method that
gives up one for the other scores low. Test subjects never take part.

Beside it stands how far a row is behind the best one, and that difference's standard error over
subjects: what is behind by no more may be as good.

    [objective]
    fidelity = "dino"
    prompt = "clip_t"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.config.tables import Objective
from benchmark.report.caveats import under
from benchmark.report.cost import cost
from benchmark.report.markdown import NOTHING, escape, markdown_table
from benchmark.report.what_was_run import made_with
from benchmark.results.comparability import run_seeds
from benchmark.results.run import Run, read_run
from benchmark.results.statistics import MINIMUM_SUBJECTS, resamples
from benchmark.store.files import write_atomically
from benchmark.store.records import Job
from benchmark.studies.curve import DEVELOPMENT, on_split


def development(suite: Suite) -> Suite:
    """`suite` on its development subjects. Raises UserError if it has none, or no objective."""
    if suite.objective is None:
        raise UserError(
            f"suite '{suite.name}' has no objective to choose settings by: give it an [objective] "
            "table with `fidelity` and `prompt`, each the name of a metric"
        )
    return on_split(suite, DEVELOPMENT)


def variants(method: str, settings: Sequence[str]) -> list[str]:
    """`("my-method", ["steps=1,2"])` -> `["my-method[steps=1]", "my-method[steps=2]"]`."""
    choices = []
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not values:
            raise UserError(f"--set '{setting}' should read KEY=VALUE[,VALUE...]")
        choices.append([f"{key}={value}" for value in values.split(",")])
    return [f"{method}[{','.join(chosen)}]" for chosen in product(*choices)]


def sweep_table(run: Run, objective: Objective) -> pd.DataFrame:
    """One row per method, best objective first: its metrics' means and its mean seconds of fitting.

    `behind` is the best objective less the row's, `behind_se` its standard error, by resampling
    subjects; NaN below three subjects, or where methods differ in them. `run` is under one
    protocol. Raises UserError if a bound's scores are missing.
    """
    table = run.summary.pivot(index="method", columns="metric", values="mean")
    metrics = [name for name in run.metrics if name in table]
    bounds = {}
    for metric, role in ((objective.fidelity, "upper bound"), (objective.prompt, "lower bound")):
        bound = run.bound(role)  # type: ignore[arg-type]
        if bound is None or math.isnan(table.get(metric, pd.Series()).get(bound, math.nan)):
            raise UserError(f"a sweep needs the {role}'s scores in {metric}: run it too")
        bounds[metric] = bound
    found = table[metrics].copy()
    ratios = [table[metric] / table.loc[bound, metric] for metric, bound in bounds.items()]
    found.insert(0, "objective", (ratios[0] * ratios[1]) ** 0.5)
    found = found.sort_values("objective", ascending=False, na_position="last")
    found.insert(1, "behind", found["objective"].max() - found["objective"])
    found.insert(2, "behind_se", _standard_errors(run, bounds, str(found.index[0])))
    found["fit_seconds"] = pd.Series(_fit_seconds(run))
    return found.reset_index()


def _standard_errors(run: Run, bounds: dict[str, str], best: str) -> pd.Series:
    """method -> the standard error, over subjects, of how far its objective is behind the best's.

    `bounds`: the objective's metrics -> the method each is relative to.
    """
    means = run.scores.groupby(["metric", "method", "subject"], observed=True)["value"].mean()
    tables = [means[metric].unstack("subject") for metric in bounds]
    both = tables[0].index.intersection(tables[1].index)
    pairs = [*zip(tables, bounds.values(), strict=True)]
    asked = [table.loc[[*both, bound]] for table, bound in pairs]
    subjects = asked[0].columns
    alike = subjects.equals(asked[1].columns) and not any(t.isna().any(axis=None) for t in asked)
    if best not in both or not alike or len(subjects) < MINIMUM_SUBJECTS:
        return pd.Series(math.nan, both)

    def resampled(method: str) -> np.ndarray:
        """(resamples,): the objective of each."""
        drawn = [
            table.loc[[method, bound]].to_numpy()[:, resamples(len(subjects))].mean(axis=2)
            for table, bound in pairs
        ]
        (own, upper), (prompt, lower) = drawn
        with np.errstate(invalid="ignore"):  # one ratio may be negative
            return np.sqrt(own / upper * prompt / lower)

    of_best = resampled(best)
    return pd.Series({method: float(np.std(of_best - resampled(method))) for method in both})


def _fit_seconds(run: Run) -> dict[str, Any]:
    """method -> mean seconds of fitting, from the report's cost table."""
    table = cost(run)
    place = next(i for i, column in enumerate(table.columns) if column.key == "fit_s")
    return {str(row.cells[0]): row.cells[place] for row in table.rows}


def write_sweep(run_directory: Path, jobs: Sequence[Job]) -> Path:
    """Write sweep.csv and sweep.md of a finished sweep; returns the latter.

    Of `jobs` and their images alone. If the run has several protocols, under the first.
    """
    run = read_run(run_directory)
    if "objective" not in run.suite:
        raise UserError(
            f"{run_directory / 'suite.toml'} declares no [objective] to sort a sweep by: "
            "run it again with a suite that does"
        )
    run = run.under(run.protocols[0]).only(jobs)
    objective = Objective(**run.suite["objective"])
    table = sweep_table(run, objective)
    write_atomically(run_directory / "sweep.csv", table.to_csv(index=False, float_format="%.4f"))
    rows = [
        [str(row[0]), *(NOTHING if math.isnan(value) else f"{value:.3f}" for value in row[1:])]
        for row in table.itertuples(index=False)
    ]
    subjects = ", ".join(sorted({record.job.subject for record in run.records}))
    seeds = ", ".join(map(str, run_seeds(run)))
    text = (
        f"# {escape(run.suite['name'])}: sweep {under(run)}\n\n"
        f"Subjects: {escape(subjects)}. Seeds: {seeds}. {made_with(run)}\n\n"
        + markdown_table(list(table.columns), rows)
        + f"\nObjective: the geometric mean of {objective.fidelity} relative to the upper bound's "
        f"and {objective.prompt} relative to the lower bound's. It is empty ({NOTHING}) where a "
        "method lacks one of them, or where one ratio is negative. *behind*: the best objective "
        "less this one; *behind_se*: the standard error of that difference, by resampling "
        "subjects. What is behind by no more may be as good.\n"
    )
    write_atomically(run_directory / "sweep.md", text)
    print(text)
    return run_directory / "sweep.md"
