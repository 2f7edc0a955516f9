"""From scores to a summary: means over subjects and their 95 % intervals.

    run = read_run(Path("runs/pocket-1a2b3c4d")).under("pocket-1")
    summary = summarise(run.scores, methods=run.methods, metrics=run.metrics)

A subject counts once, however many images it has: scores are averaged over a subject's images and
seeds, then over subjects. Intervals resample subjects: another benchmark would have others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SUMMARY_COLUMNS = ("method", "metric", "mean", "std", "low", "high", "subjects")
SPREAD_COLUMNS = ("method", "metric", "std", "seeds", "subjects")
MINIMUM_SUBJECTS = 3  #: below, resampling subjects says nothing, and no interval is given
CONFIDENCE = 0.95
_RESAMPLES = 10_000


def summarise(
    scores: pd.DataFrame, *, methods: Sequence[str], metrics: Sequence[str]
) -> pd.DataFrame:
    """One row per method and metric: mean, std, low, high over subjects, and how many these are.

    Rows in the order of `methods` and `metrics`, where `scores`, of one protocol, has any.
    `std` is over subjects (n - 1); `low` and `high` bound the 95 % percentile bootstrap
    interval of the mean. All in the metric's unit; NaN where there are too few subjects.
    """
    import numpy as np
    import pandas as pd

    means = scores.groupby(["method", "metric", "subject"], observed=True)["value"].mean()
    found = {key: group.to_numpy() for key, group in means.groupby(level=[0, 1], observed=True)}
    rows = []
    for method, metric in ((a, b) for a in methods for b in metrics if (a, b) in found):
        values = found[method, metric]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        low, high = interval(values)
        rows.append((method, metric, float(values.mean()), std, low, high, len(values)))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def means_by_subject(scores: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """(method, metric, subject) -> mean over its images and seeds, in the metric's unit."""
    means = scores.groupby(["method", "metric", "subject"], observed=True)["value"].mean()
    return {key: float(value) for key, value in means.items()}


def spreads_over_seeds(
    scores: pd.DataFrame, *, methods: Sequence[str], metrics: Sequence[str]
) -> pd.DataFrame:
    """How far a mean over subjects moves with the seed: columns SPREAD_COLUMNS.

    One row per method and metric with at least two seeds. `std` is that of the mean over subjects,
    over seeds (n - 1), in the metric's unit; only subjects with every seed count.
    """
    import pandas as pd

    keys = ["method", "metric", "subject", "seed"]
    means = scores.groupby(keys, observed=True)["value"].mean()
    found = {key: group.droplevel([0, 1]) for key, group in means.groupby(level=[0, 1])}
    rows = []
    for method, metric in ((a, b) for a in methods for b in metrics if (a, b) in found):
        table = found[method, metric].unstack("seed").dropna(axis="columns", how="all").dropna()
        if table.shape[0] and table.shape[1] > 1:
            std = float(table.mean().std(ddof=1))
            rows.append((method, metric, std, table.shape[1], table.shape[0]))
    return pd.DataFrame(rows, columns=list(SPREAD_COLUMNS))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values`, (subjects,).

    The same resamples for every method that has as many subjects, and in every process. (NaN, NaN)
    below three subjects.
    """
    if len(values) < MINIMUM_SUBJECTS:
        return math.nan, math.nan
    return _interval(tuple(map(float, values)))


@lru_cache(maxsize=2**14)  # a report's tables, figures and sentences tell of the same means
def _interval(values: tuple[float, ...]) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import quantile

    # Percentile, not BCa: with a handful of subjects, BCa's correction is itself mostly noise, and
    # it has no value at all where the subjects agree.
    means = np.array(values)[resamples(len(values))].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=2)
def resamples(subjects: int) -> np.ndarray:
    """(10,000, subjects): which subjects each resample has, the same as scipy's from seed 0."""
    import numpy as np

    return np.random.default_rng(0).integers(0, subjects, (_RESAMPLES, subjects))


def summary_csv(summaries: dict[str, pd.DataFrame]) -> str:
    """Protocol -> its summary, as one CSV text: six decimals, empty where there is no interval."""
    import pandas as pd

    named = [
        table.assign(protocol=label)[["protocol", *SUMMARY_COLUMNS]]
        for label, table in summaries.items()
    ]
    return pd.concat(named).to_csv(index=False, float_format="%.6f", lineterminator="\n")
