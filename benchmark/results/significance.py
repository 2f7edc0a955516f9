"""Paired differences between methods: mean over subjects, 95 % interval, corrected p-value.

    images = by_image(run.scores)
    (found,) = assess([paired(images[metric], method, reference)])

Methods share prompts, and noise where they ran here, so they are compared image by image. The
images of a subject are not independent, so their differences are averaged: the test is over
subjects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmark.results.statistics import interval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LEVEL = 0.05  #: a difference is shown below this p-value, corrected
_IMAGE = ["subject", "seed", "prompt_kind", "prompt", "sample"]
_RESAMPLES = 10_000  # all sign flips up to 13 subjects
_DECIMALS = 12  # scores have six; what lies below these is rounding of sums


@dataclass(frozen=True)
class Difference:
    """A mean over subjects that is 0 if nothing differs, in the metric's unit.

    `low` and `high` bound its 95 % bootstrap interval; `p` is that of `sign_flip_p`. NaN where
    there are too few subjects, the mean too where there are none.
    """

    mean: float
    low: float
    high: float
    p: float
    subjects: int

    @property
    def shown(self) -> bool:
        """Whether test and interval both tell it from 0."""
        # Both, since a percentile interval of a handful of subjects is somewhat too narrow.
        return self.p < LEVEL and (self.low > 0 or self.high < 0)


def by_image(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """metric -> its scores, a row an image (subject, seed, prompt, sample), a column a method."""
    found = {}
    for metric, rows in scores.groupby("metric", observed=True):
        values = rows.groupby([*_IMAGE, "method"], observed=True)["value"].mean()
        table = values.unstack("method")
        found[str(metric)] = table.set_axis([str(name) for name in table.columns], axis="columns")
    return found


def paired(images: pd.DataFrame, method: str, reference: str) -> np.ndarray:
    """`method` minus `reference` for each subject that has both, (subjects,), by subject's name.

    The mean over the images both made for one prompt, sample and seed. Where they share none
    (real images have no prompt), it is the difference of the two means of the subject.
    """
    import numpy as np

    if not {method, reference} <= set(images.columns):
        return np.empty(0)
    found = (images[method] - images[reference]).dropna().groupby(level="subject", observed=True)
    differences = found.mean()
    if differences.empty:
        means = images[[method, reference]].groupby(level="subject", observed=True).mean()
        differences = (means[method] - means[reference]).dropna()
    return differences.to_numpy().round(_DECIMALS)


def assess(samples: Sequence[np.ndarray]) -> list[Difference]:
    """What `samples`, each (subjects,), show; their p-values corrected as one family by Holm."""
    found = [_difference(sample) for sample in samples]
    tested = [i for i, difference in enumerate(found) if not math.isnan(difference.p)]
    corrected = holm([found[i].p for i in tested])
    for i, p in zip(tested, corrected, strict=True):
        found[i] = replace(found[i], p=p)
    return found


def _difference(values: np.ndarray) -> Difference:
    mean = float(values.mean()) if len(values) else math.nan
    low, high = interval(values)
    return Difference(mean, low, high, sign_flip_p(values), len(values))


def sign_flip_p(values: np.ndarray) -> float:
    """Two-sided p-value of `values`, (subjects,), by flipping their signs.

    All sign flips up to 13 subjects, 10,000 random ones beyond. NaN where even the smallest
    possible p-value is not below 0.05.
    """
    import numpy as np
    from scipy.stats import permutation_test

    if smallest_p(len(values)) >= LEVEL:
        return math.nan
    # Not Wilcoxon: it tests ranks, and may contradict the mean that is printed. Flipping signs
    # tests the mean itself, and assumes only differences symmetric about 0 where methods do not
    # differ.
    found = permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def smallest_p(subjects: int) -> float:
    """The smallest two-sided p-value that `sign_flip_p` can give: all subjects agree in sign."""
    flips = 2**subjects
    return 2 / (flips if flips <= _RESAMPLES else _RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values`, corrected for there being several (Holm, 1979), in the same order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
