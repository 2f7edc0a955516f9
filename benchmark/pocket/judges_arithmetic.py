"""Judges beside each other: each one's number, and the paired difference of every two.

    compare(HEADLINE, auc, {"dino": (right, wrong), "clip_i": (right_2, wrong_2)})

A difference is that of two judges on the same pictures of the same subjects, and its interval
resamples these subjects for both at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmark.api import UserError
from benchmark.pocket.calibration_arithmetic import Finding, resampled
from benchmark.pocket.judges_asked import Criterion
from benchmark.results.statistics import CONFIDENCE, MINIMUM_SUBJECTS

#: An array with a row for each subject, or several: what a statistic is of.
Samples = Sequence[np.ndarray]


@dataclass(frozen=True)
class Compared(Finding):
    """A judge's number; or that number minus another judge's: a row of judges.csv."""

    against: str = ""  #: the other's name


def compare(
    criterion: Criterion, statistic: Callable, samples: Mapping[str, Samples]
) -> list[Compared]:
    """`statistic` of each judge's samples, (n,) each, then each one's minus that of those before.

    A subject without a score by one judge counts for none. Raises UserError if too few are left.
    """
    scored = np.all([np.isfinite(rows) for own in samples.values() for rows in own], axis=0)
    n = int(scored.sum())
    if n < MINIMUM_SUBJECTS:
        raise UserError(
            f"{criterion.label}: of {len(scored)} subjects {n} have a score by every judge, since "
            "the segmenter found nothing in the others: draw more with --subjects"
        )
    rows, values, drawn = [], {}, {}
    for judge, own in samples.items():
        kept = [each[scored] for each in own]
        found = resampled(statistic, *kept)
        values[judge], drawn[judge] = float(statistic(*kept)), found.bootstrap_distribution
        rows.append(_row(criterion, judge, values[judge], found.confidence_interval, n))
    for one, other in combinations(samples, 2):
        tail = (1 - CONFIDENCE) / 2
        bounds = np.quantile(drawn[other] - drawn[one], (tail, 1 - tail))
        rows.append(_row(criterion, other, values[other] - values[one], bounds, n, one))
    return rows


def _row(
    criterion: Criterion,
    judge: str,
    value: float,
    bounds: Sequence[float] | np.ndarray,
    n: int,
    against: str = "",
) -> Compared:
    low, high = map(float, bounds)
    return Compared(judge, criterion.axis, criterion.quantity, value, low, high, n, against)
