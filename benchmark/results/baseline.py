"""A baseline: the scores to keep, and how far each moves from seed to seed in unchanged code.

    baseline = measure_baseline(load_runs([Path("runs/seeds")]).under("pocket-1"))
    write_atomically(Path("baseline.toml"), baseline.dump_toml())

The file's `task` has to agree for scores to compare. Settings, versions and the sampler are what a
change may be about: they are noted, and may differ.

The tolerance for one further seed's mean over N subjects, measured with S seeds:

    spread**2  = sum over subjects of s_i**2 / N**2, s_i being subject i's own seed-to-seed spread;
                 at least that of the mean over subjects itself
    freedom    = (sum s_i**2)**2 / sum(s_i**4 / (S - 1))                       (Satterthwaite, 1946)
    tolerance  = t(level / cells, freedom) * spread * sqrt(1 + 1 / S)       (prediction, Bonferroni)

Every draw is seeded by subject, so subjects vary independently: N subjects with S seeds tell more
of the mean's spread than S means would. Each method has a spread of its own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from benchmark.api import Role, UserError
from benchmark.data.manifest import Table, read_toml
from benchmark.results.comparability import (
    Basis,
    basis_of,
    jobs_by_method,
    precisions_of,
    provenance_of,
    run_seeds,
    sampler_of,
    unprompted,
    without_none,
)
from benchmark.results.merge import run_names
from benchmark.results.run import Run

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.01  #: chance that a run of unchanged code is called a regression in any of its scores
MINIMUM_SEEDS = 3
#: The tolerance where nothing is drawn. Scores of real images moved by up to 1e-7 with another
#: number of threads, without oneDNN or with another attention; by 4e-3 when the crop was off by a
#: pixel.
ROUNDING = 1e-4
HOW = (
    "spread: of a mean over subjects from seed to seed, from each subject's own (n - 1), at least "
    "that of the mean itself; freedom: Satterthwaite's; tolerance: t(level / cells, freedom) * "
    "spread * sqrt(1 + 1 / seeds), for a run of one seed, at least the rounding"
)
_WRITER = "# Written by: python -m benchmark check RUN... --baseline FILE --update\n"


class Measured(Table):
    """Where the tolerances come from."""

    runs: list[str]
    seeds: list[int]
    commits: list[str]
    devices: list[str]
    precisions: list[str]
    cells: int = Field(ge=0)  #: (method, metric) pairs with a seed in them: they share the level
    level: float = Field(gt=0, lt=1)
    rounding: float = Field(ge=0, allow_inf_nan=False)
    how: str


class Cell(Table):
    """One metric of one method, in the metric's unit."""

    mean: float = Field(allow_inf_nan=False)  #: over subjects and seeds
    tolerance: float = Field(ge=0, allow_inf_nan=False)  #: for a run of one seed
    spread: float = Field(ge=0, allow_inf_nan=False)  #: standard deviation from seed to seed
    freedom: float = Field(ge=0, allow_inf_nan=False)  #: degrees of freedom of `spread`
    n: int = Field(ge=1)  #: scores in the mean
    without: list[str] | None = None  #: subjects that no image has a score of, if any


class MethodScores(Table):
    """A method as it was, and its scores by metric."""

    role: Role
    version: str
    settings: dict[str, Any] = {}
    scores: dict[str, Cell]


class Baseline(Table):
    """All of the file."""

    format: Literal[3] = 3
    task: Basis  #: what is asked of every method, and how it is scored
    sampler: dict[str, Any]
    measured: Measured
    methods: dict[str, MethodScores] = Field(min_length=1)

    def dump_toml(self) -> str:
        """The baseline as TOML; reading it again gives an equal one."""
        import tomli_w

        return _WRITER + tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def allowed(self, method: str, metric: str, *, seeds: int) -> float:
        """The tolerance for a run's mean over so many seeds; more of them make it narrower."""
        measured = max(1, len(self.measured.seeds))
        share = math.sqrt((1 / seeds + 1 / measured) / (1 + 1 / measured))
        return max(self.measured.rounding, share * self.methods[method].scores[metric].tolerance)

    def two_sided(self, method: str) -> bool:
        """Whether a change for the better is as bad as one for the worse."""
        return _two_sided(self.methods[method].role)


def _two_sided(role: Role) -> bool:
    # Nothing is trained in a bound: if it moves at all, the scoring or the model has changed.
    return role != "method"


def read_baseline(path: Path) -> Baseline:
    """The baseline in the file at `path`. Raises UserError naming each bad key."""
    if not path.exists():
        raise UserError(f"{path} does not exist: make it from a run of several seeds with --update")
    try:
        baseline = read_toml(path, Baseline)
    except UserError as error:
        raise UserError(f"{error}; fix it, or delete it and regenerate it with --update") from error
    if not any(entry.scores for entry in baseline.methods.values()):
        raise UserError(
            f"{path}: no method has scores, so no run could fail: delete the file and regenerate "
            "it with --update"
        )
    for method, entry in baseline.methods.items():
        for metric in entry.scores:
            if metric not in baseline.task.metrics:
                raise UserError(
                    f"{path}: methods.{method}.scores.{metric} has no table task.metrics.{metric}: "
                    "fix it, or delete the file and regenerate it with --update"
                )
    return baseline


def measure_baseline(run: Run, *, level: float = LEVEL) -> Baseline:
    """The baseline that `run`, of at least three seeds and under one protocol, makes.

    Raises UserError if it has fewer, if its jobs differ in their basis, or if a subject lacks a
    seed's score.
    """
    basis = basis_of(run)
    seeds = run_seeds(run)
    tables = {
        key: table for key, table in means_by_seed(run.scores).items() if key[1] in basis.metrics
    }
    steady = unprompted(run)
    random = [key for key in tables if key[0] not in steady]
    if random and len(seeds) < MINIMUM_SEEDS:
        raise UserError(
            f"a baseline's tolerances come from the spread over at least {MINIMUM_SEEDS} seeds, "
            f"and there are {len(seeds)}: run with --seed 0,1,2,3,4, or give runs of other seeds"
        )
    counts = run.scores.groupby(["method", "metric"], observed=True)["value"].size()
    methods: dict[str, MethodScores] = {}
    for method, job in jobs_by_method(run).items():
        cells = {}
        for metric in (name for name in basis.metrics if (method, name) in tables):
            tail = None
            if (method, metric) in random:
                tail = level / len(random) / (2 if _two_sided(job.role) else 1)
            table = tables[method, metric]
            without = subjects_without(table, basis) or None
            cells[metric] = _cell(table, int(counts[method, metric]), tail, without)
        methods[method] = MethodScores(
            role=job.role,
            version=job.fit.version,
            settings=without_none(job.fit.settings),
            scores=cells,
        )
    measured = Measured(
        runs=run_names(run.origins),
        seeds=seeds,
        commits=provenance_of(run, "commit"),
        devices=provenance_of(run, "device"),
        precisions=precisions_of(run),
        cells=len(random),
        level=level,
        rounding=ROUNDING,
        how=HOW,
    )
    return Baseline(task=basis, sampler=sampler_of(run), measured=measured, methods=methods)


def _cell(
    table: pd.DataFrame, n: int, tail: float | None, without: list[str] | None = None
) -> Cell:
    """The cell of `table`, (subjects, seeds). Without a `tail`, seeds play no part."""
    spread = freedom = tolerance = 0.0
    if tail is not None:
        spread, freedom = spread_of_mean(table)
        tolerance = tolerance_of(spread, freedom, seeds=table.shape[1], tail=tail)
    return Cell(
        mean=round(float(table.to_numpy().mean()), 6),
        tolerance=round(max(tolerance, ROUNDING), 6),
        spread=round(spread, 6),
        freedom=round(freedom, 1),
        n=n,
        without=without,
    )


def subjects_without(table: pd.DataFrame, basis: Basis) -> list[str]:
    """The subjects that are no part of a mean, sorted: none of their images has a score.

    `table`: (subjects, seeds), as of `means_by_seed`.
    """
    return sorted(basis.subjects.keys() - {*table.index})


def spread_of_mean(table: pd.DataFrame) -> tuple[float, float]:
    """Spread of the mean over subjects from seed to seed, and its degrees of freedom.

    `table`: (subjects, seeds), each a mean over images. As at the top of this file.
    """
    subjects, seeds = table.shape
    variances = table.var(axis="columns", ddof=1).to_numpy()
    apart = variances.sum() / subjects**2
    together = table.mean().var(ddof=1)
    if not variances.sum():
        return 0.0, float(seeds - 1)
    freedom = (seeds - 1) * variances.sum() ** 2 / (variances**2).sum()
    return math.sqrt(max(apart, together)), float(freedom)


def tolerance_of(spread: float, freedom: float, *, seeds: int, tail: float) -> float:
    """How far the mean of one more seed lies off that of `seeds`, but for a chance of `tail`."""
    from scipy.stats import t

    return float(t.isf(tail, freedom)) * spread * math.sqrt(1 + 1 / seeds)


def means_by_seed(scores: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(method, metric) -> means over images, a row a subject, a column a seed.

    Raises UserError if a subject that has the metric lacks it for a seed.
    """
    keys = ["method", "metric", "subject", "seed"]
    means = scores.groupby(keys, observed=True)["value"].mean()
    tables = {}
    for (method, metric), group in means.groupby(level=[0, 1], observed=True):
        table = group.droplevel([0, 1]).unstack("seed")
        for subject in table.index[table.isna().any(axis="columns")][:1]:
            raise UserError(
                f"{method} has {metric} of {subject} for some seeds only: run what is missing"
            )
        tables[str(method), str(metric)] = table
    return tables
