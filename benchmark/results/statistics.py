"""From scores to a summary: means over subjects and their 95 % intervals.

    summary = summarise(read_scores(Path("runs/pocket-1a2b3c4d/scores.csv")))

A subject counts once, however many images it has: first the mean over a subject's images and
seeds, then over subjects. Intervals resample subjects, since another benchmark would have others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.store.records import SCORE_COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: The order of every table; other metrics follow by name.
METRICS = ("dino", "clip_i", "clip_t", "pres", "div", "prior_div", "dino_nearest")
#: The order of every table; outside methods come between, by name.
FIRST_METHODS = (
    "real-images",
    "dreambooth",
    "dreambooth-no-prior",
    "dreambooth-wrong-class",
    "dreambooth-no-class",
    "textual-inversion",
)
LAST_METHODS = ("untuned",)
#: Oracle and floor: no rivals, so no table calls one of them the best.
CONTROLS = ("real-images", "untuned")

SUMMARY_COLUMNS = ("method", "metric", "mean", "std", "low", "high", "subjects")
SPREAD_COLUMNS = ("method", "metric", "std", "seeds", "subjects")
MINIMUM_SUBJECTS = 3  #: below, resampling subjects says nothing, and no interval is given
CONFIDENCE = 0.95
_RESAMPLES = 10_000


def read_scores(path: Path) -> pd.DataFrame:
    """The rows of a scores.csv: text as categories, `value` as float64.

    Raises UserError if there are none, or one is no score.
    """
    import numpy as np
    import pandas as pd

    try:
        # No text means "missing": a prompt may be empty, and a subject may be called "null".
        scores = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {path.parent} a run directory?") from None
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    missing = [column for column in SCORE_COLUMNS if column not in scores.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}")
    if scores.empty:
        raise UserError(f"{path} has no scores: no job has finished; run the same command again")
    values = pd.to_numeric(scores["value"], errors="coerce").astype(float)
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise UserError(f"{path} line {row + 2}: '{scores['value'][row]}' is no score")
    protocols = scores["protocol"].unique()
    if len(protocols) > 1:
        raise UserError(f"{path} mixes the protocols {', '.join(protocols)}: not comparable")
    # Few texts, each of them often. Not categories from the start: pandas would read "007" as 7.
    texts = [column for column in SCORE_COLUMNS if column != "value"]
    return scores.assign(value=values).astype(dict.fromkeys(texts, "category"))


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per method and metric: mean, std, low, high over subjects, and how many these are.

    `std` is that over subjects (n - 1); `low` and `high` bound the 95 % percentile bootstrap
    interval of the mean. All in the metric's unit; NaN where there are too few subjects.
    """
    import numpy as np
    import pandas as pd

    means = scores.groupby(["method", "metric", "subject"], observed=True)["value"].mean()
    found = {key: group.to_numpy() for key, group in means.groupby(level=[0, 1], observed=True)}
    rows = []
    for method in sort_methods(method for method, _ in found):
        for metric in sort_metrics(metric for name, metric in found if name == method):
            values = found[method, metric]
            std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            low, high = interval(values)
            rows.append((method, metric, float(values.mean()), std, low, high, len(values)))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def seed_spread(scores: pd.DataFrame) -> pd.DataFrame:
    """How far a mean over subjects moves with the seed: columns SPREAD_COLUMNS.

    One row per method and metric with at least two seeds. `std` is that over seeds (n - 1) of the
    mean over subjects, in the metric's unit; only subjects that have all of them count.
    """
    import pandas as pd

    keys = ["method", "metric", "subject", "seed"]
    means = scores.groupby(keys, observed=True)["value"].mean()
    found = {key: group.droplevel([0, 1]) for key, group in means.groupby(level=[0, 1])}
    rows = []
    for method in sort_methods(method for method, _ in found):
        for metric in sort_metrics(metric for name, metric in found if name == method):
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
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) < MINIMUM_SUBJECTS:
        return math.nan, math.nan
    # Percentile, not BCa: with a handful of subjects, BCa's correction is itself mostly noise, and
    # it has no value at all where the subjects agree.
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def summary_csv(summary: pd.DataFrame) -> str:
    """`summary` as CSV text: six decimals, empty where there is no interval."""
    return summary.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def sort_methods(names: Iterable[str]) -> list[str]:
    """Oracle, DreamBooth and its ablations, Textual Inversion, others by name, untuned."""
    return _sorted(names, FIRST_METHODS, LAST_METHODS)


def sort_metrics(names: Iterable[str]) -> list[str]:
    """The paper's order, then others by name."""
    return _sorted(names, METRICS, ())


def _sorted(names: Iterable[str], first: tuple[str, ...], last: tuple[str, ...]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        if name in first:
            return first.index(name), ""
        return len(first) + (last.index(name) + 1 if name in last else 0), name

    return sorted(set(names), key=place)
