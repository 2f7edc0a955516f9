"""What a calibration finds, as arithmetic on arrays with a row for each subject.

    separation("dino", "subject or classmate", right, wrong)   # auc, paired and gap

Every interval is a 95 % percentile bootstrap that resamples subjects, all of a subject's numbers
together, as everywhere in the suite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, mannwhitneyu, spearmanr

from benchmark.results.statistics import CONFIDENCE
from benchmark.scoring.look_alikes import average_precision, subject_rank

RESAMPLES = 2_000  #: fewer than a run's, since there are many intervals and many subjects


@dataclass(frozen=True)
class Finding:
    """One number: a row of calibration.csv."""

    metric: str  #: its name
    axis: str  #: what differs between the pictures, or between the texts
    quantity: str
    value: float
    low: float  #: the bounds of the interval
    high: float
    n: int  #: subjects


def auc(right: np.ndarray, wrong: np.ndarray, axis: int = -1) -> np.ndarray:
    """How often a score of `right` exceeds one of `wrong`, in [0, 1]; ties count half."""
    won = mannwhitneyu(right, wrong, axis=axis, method="asymptotic").statistic
    return won / (right.shape[axis] * wrong.shape[axis])


def wins(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(n,) 1 where the right one scores higher, 0.5 for a tie; NaN where there is no score."""
    won = (right > wrong) + 0.5 * (right == wrong)
    return np.where(np.isnan(right + wrong), np.nan, won)


def ratio(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of `part` over the mean of `whole`. Raises ValueError where the latter is 0."""
    below = whole.mean(axis=axis)
    if np.any(below == 0):
        raise ValueError("a share of nothing: the change to compare with moves no score")
    return part.mean(axis=axis) / below


def rank_correlation(scores: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """(n,) Spearman correlation of each row of `scores`, (n, k), with `distances`, (k,).

    NaN where a score is. Raises ValueError where a row's scores are all the same: they have no
    order.
    """
    if np.any(np.ptp(scores, axis=1) == 0):
        raise ValueError("a subject's scores are all the same: they have no rank correlation")
    return np.array([spearmanr(row, distances).statistic for row in scores])


def ranked(near: np.ndarray, own: int) -> tuple[float, float, float]:
    """Top-1, reciprocal rank and average precision of subject `own`.

    `near`: (subjects, images) cosines of one picture. NaN if one is: there is no rank among them.
    """
    if np.isnan(near).any():
        return (math.nan,) * 3
    places = np.repeat(np.arange(len(near)), near.shape[1])
    rank = subject_rank(near.ravel(), places, own)
    return float(rank == 1), 1 / rank, average_precision(near.ravel(), places == own)


def separation(metric: str, axis: str, right: np.ndarray, wrong: np.ndarray) -> list[Finding]:
    """How well scores tell what is `right` from what is `wrong`, both (n,), a row a subject.

    `auc` compares across subjects, `paired` only within each (how often its right one scores
    higher, ties half), `gap` is the mean of right - wrong.
    """
    return [
        _finding(metric, axis, "auc", auc, right, wrong),
        mean(metric, axis, "paired", wins(right, wrong)),
        mean(metric, axis, "gap", right - wrong),
    ]


def graded(metric: str, axis: str, scores: np.ndarray, amounts: Sequence[float]) -> list[Finding]:
    """Means over subjects: of the rank correlation of `scores`, (n, k), with the k amounts, and of
    the score at each amount."""
    correlations = rank_correlation(scores, np.asarray(amounts))
    curve = zip(amounts, scores.T, strict=True)
    return [
        mean(metric, axis, "spearman", correlations),
        *(mean(metric, axis, at(amount), column) for amount, column in curve),
    ]


def at(amount: float) -> str:
    """The quantity's name of the mean score at an amount of a morph."""
    return f"score at {amount:.1f}"


def shift(metric: str, axis: str, before: np.ndarray, after: np.ndarray) -> list[Finding]:
    """How a change moves scores, both (n,): `score drop` up and down, `score move` in size."""
    return [
        mean(metric, axis, "score drop", before - after),
        mean(metric, axis, "score move", np.abs(before - after)),
    ]


def share(metric: str, axis: str, moves: np.ndarray, standard: np.ndarray) -> Finding:
    """The mean of `moves` as a fraction of that of `standard`, the same subjects' moves."""
    return _finding(metric, axis, "share", ratio, moves, standard)


def mean(metric: str, axis: str, quantity: str, values: np.ndarray) -> Finding:
    """The mean of `values`, (n,)."""
    return _finding(metric, axis, quantity, np.mean, values)


def resampled(statistic: Callable, *samples: np.ndarray) -> Any:
    """scipy's bootstrap of `statistic`: all (n,) `samples` of a subject are drawn together.

    What has as many subjects has the same resamples.
    """
    return bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )


def _finding(
    metric: str, axis: str, quantity: str, statistic: Callable, *samples: np.ndarray
) -> Finding:
    found = resampled(statistic, *samples).confidence_interval
    value = float(statistic(*samples))
    return Finding(
        metric, axis, quantity, value, float(found.low), float(found.high), len(samples[0])
    )
