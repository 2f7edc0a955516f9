"""Paired differences between methods: mean over subjects, 95 % interval, corrected p-value.

    images = by_image(run.scores)
    (found,) = assess([paired(images[metric], method, reference)])

Methods share prompts, and noise where they ran here, so they are compared image by image. The
images of a subject are not independent, so their differences are averaged: the test is over
subjects, by flipping the signs of their differences. Comparisons that are read together are
flipped and corrected together: the step-down max-T of Westfall and Young (1993).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.results.statistics import interval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LEVEL = 0.05  #: a difference is shown below this p-value, corrected
_IMAGE = ["subject", "seed", "prompt_kind", "prompt", "sample"]
_EXACT_SUBJECTS = 16  # up to here every sign flip, 2 ** 15 of them
_CHUNK = 1024  # sign flips held in memory at a time
_DECIMALS = 12  # scores have six; what lies below these is rounding of sums
_TIE = 1e-9  # statistics this near to each other are equal but for rounding


@dataclass(frozen=True)
class Difference:
    """A mean over subjects that is 0 if nothing differs, in the metric's unit.

    `low` and `high` bound its 95 % bootstrap interval; `p` is two-sided, corrected for the family
    it was assessed in. NaN where there are too few subjects, the mean too where there are none.
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


def images_of(images: pd.DataFrame | None, method: str) -> pd.Series | None:
    """The method's column of a `by_image` table, as it can be joined with another run's.

    Images without a score are left out; None if the method has none.
    """
    if images is None or method not in images.columns:
        return None
    scores = images[method].dropna()
    levels = [level.astype(object) for level in scores.index.levels]  # not categories of one run
    return scores.set_axis(scores.index.set_levels(levels))


def paired(images: pd.DataFrame, method: str, reference: str) -> pd.Series:
    """Subject's name -> `method` minus `reference`, for each subject that has both.

    The mean over the images both made for one prompt, sample and seed. Where they share none
    (real images have no prompt), it is the difference of the two means of the subject.
    """
    import pandas as pd

    if not {method, reference} <= set(images.columns):
        return pd.Series(dtype=float)
    found = (images[method] - images[reference]).dropna().groupby(level="subject", observed=True)
    differences = found.mean()
    if differences.empty:
        means = images[[method, reference]].groupby(level="subject", observed=True).mean()
        differences = (means[method] - means[reference]).dropna()
    return differences.rename(index=str).round(_DECIMALS)


def assess(samples: Sequence[pd.Series]) -> list[Difference]:
    """What `samples`, each subject's name -> value, show; p-values corrected as one family.

    A sample with too few subjects for a test is no part of the family.
    """
    import pandas as pd

    rounded = [sample.round(_DECIMALS) for sample in samples]
    tested = [i for i, sample in enumerate(rounded) if smallest_p(len(sample)) < LEVEL]
    p_values = dict.fromkeys(range(len(rounded)), math.nan)
    if tested:
        # By name: a subject's sign flips in every comparison it takes part in.
        table = pd.concat([rounded[i] for i in tested], axis="columns").sort_index()
        p_values.update(zip(tested, map(float, max_t(table.to_numpy())), strict=True))
    return [_difference(sample, p_values[i]) for i, sample in enumerate(rounded)]


def _difference(sample: pd.Series, p: float) -> Difference:
    mean = float(sample.to_numpy().mean()) if len(sample) else math.nan
    return Difference(mean, *interval(sample.to_numpy()), p, len(sample))


def max_t(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-values of comparisons, (comparisons,), corrected by step-down max-T.

    `differences`: (subjects, comparisons), NaN where a comparison lacks the subject. The flips are
    all there are up to 16 subjects in the family; beyond, 32,768 random ones, the same in every
    process. Raises ValueError for infinite values.
    """
    # Westfall and Young, Resampling-Based Multiple Testing (1993), algorithm 4.1: each comparison
    # is measured against the largest statistic of itself and all weaker ones, flip by flip.
    #
    # What holds: a comparison's flips depend on its own values alone, and the largest of fewer
    # statistics is never larger. So (Romano and Wolf, 2005) the chance of any p < level among the
    # comparisons without a difference is at most the level, whatever the others are, if flipping
    # the signs of a subject's differences in these, all at once, leaves their distribution as it
    # was. For skewed differences of mean 0 that is an approximation. It covers whether a mean
    # differs from 0; the side is read off the mean.
    import numpy as np

    if np.isinf(differences).any():
        raise ValueError("differences are finite, or NaN for a missing subject")
    values = np.nan_to_num(differences)  # a missing subject adds nothing, whatever its sign
    # Flips leave the sum of squares as it is, and Student's |t| grows with |sum| over its root,
    # which has no 0 / 0 for equal values, and variance 1 under flips for any number of subjects.
    length = np.sqrt((values**2).sum(axis=0))
    units = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    observed = np.abs(units.sum(axis=0))
    order = np.argsort(observed, kind="stable")  # weakest first
    units, observed = units[:, order], observed[order]
    flips, reached = 0, np.zeros(len(order))
    for signs in _sign_flips(len(values)):
        largest = np.maximum.accumulate(np.abs(signs @ units), axis=1)
        reached += (largest >= observed - _TIE).sum(axis=0)
        flips += len(signs)
    # No comparison has a smaller p than a stronger one.
    ordered = np.maximum.accumulate(reached[::-1] / flips)[::-1]
    found = np.empty_like(ordered)
    found[order] = ordered
    return found


def _sign_flips(subjects: int) -> Iterator[np.ndarray]:
    """Signs, (flips, subjects), in chunks; without a flip's mirror image, as tests are two-sided.

    No flip at all is always one of them, so that no p-value is 0.
    """
    import numpy as np

    free = min(subjects, _EXACT_SUBJECTS) - 1  # the first subject keeps its sign
    rng = np.random.default_rng(0)
    for start in range(0, 2**free, _CHUNK):
        codes = np.arange(start, min(start + _CHUNK, 2**free))
        if subjects <= _EXACT_SUBJECTS:
            bits = codes[:, None] >> np.arange(subjects - 1) & 1
        else:
            bits = rng.integers(2, size=(len(codes), subjects - 1))
            bits[codes == 0] = 0
        yield np.insert(1.0 - 2.0 * bits, 0, 1.0, axis=1)


def smallest_p(subjects: int) -> float:
    """The smallest p-value that a comparison can have: all its subjects agree.

    However many comparisons there are, if they share their subjects: all may be as clear.
    """
    return 2.0 ** (1 - min(subjects, _EXACT_SUBJECTS))
