"""The paper's orderings, as data, and whether scores agree with them.

    verdicts = judge(load_orderings(), by_image(scores))

Each says that one of two methods scores higher, or that they lie no further apart than a bound.
Either way its margin, paired over subjects, is above 0 if the ordering holds.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.results.significance import Difference, assess, paired
from benchmark.results.statistics import interval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Ordering:
    """One claim: `higher` minus `lower` is above 0, or `at_most` a bound, or `within` it of 0."""

    id: str
    claim: str  #: in words
    metric: str
    higher: str
    lower: str
    at_most: float | None = None
    within: float | None = None
    paper: tuple[float, float] | None = None  #: the published values of `higher` and `lower`
    source: str = ""  #: the paper's table and backbone

    @property
    def bound(self) -> float | None:
        return self.at_most if self.within is None else self.within

    @property
    def published_difference(self) -> float | None:
        return None if self.paper is None else self.paper[0] - self.paper[1]

    def scaled(self, factor: float) -> Ordering:
        """The same for scores times `factor`; without published values, which are raw scores."""
        if factor == 1:
            return self
        at_most, within = (
            None if bound is None else bound * factor for bound in (self.at_most, self.within)
        )
        return replace(self, at_most=at_most, within=within, paper=None)

    def margins(self, differences: np.ndarray) -> np.ndarray:
        """What is above 0 where the ordering holds, (subjects,), from `higher` minus `lower`."""
        if self.within is not None:
            # Both bounds have to be kept: the one that is nearer to the mean decides.
            return self.within - math.copysign(1.0, differences.mean()) * differences
        return differences if self.at_most is None else self.at_most - differences


@dataclass(frozen=True)
class Verdict:
    """An ordering beside what the scores say of it."""

    ordering: Ordering
    mean: float  #: of `higher` minus `lower`, paired over subjects; NaN if a method is missing
    low: float
    high: float
    margin: Difference  #: the same seen from the ordering's bound; its p is corrected

    @property
    def words(self) -> str:
        """The verdict, no stronger than what the scores show."""
        if not self.margin.subjects:
            return "not in this run"
        bounded = self.ordering.bound is not None
        if self.margin.mean == 0 and not bounded:
            return "no difference in the mean"
        # A mean exactly on its bound keeps it.
        word = "holds" if self.margin.mean >= 0 else ("exceeded" if bounded else "reversed")
        return word if self.margin.shown else f"{word} in the mean, not shown"


def published() -> dict[str, Any]:
    """What the paper published: published.toml."""
    return tomllib.loads((Path(__file__).parent / "published.toml").read_text("utf-8"))


@functools.cache
def load_orderings() -> tuple[Ordering, ...]:
    """The paper's orderings, in the order they are printed."""
    return tuple(
        Ordering(**entry | {"paper": tuple(entry["paper"]) if "paper" in entry else None})
        for entry in published()["ordering"]
    )


def judge(orderings: Sequence[Ordering], images: dict[str, pd.DataFrame]) -> list[Verdict]:
    """A verdict for each ordering, from the values by image; p-values corrected as one family."""
    import numpy as np

    differences = [
        paired(images[o.metric], o.higher, o.lower) if o.metric in images else np.empty(0)
        for o in orderings
    ]
    margins = [
        o.margins(values) if len(values) else values
        for o, values in zip(orderings, differences, strict=True)
    ]
    return [
        Verdict(o, float(values.mean()) if len(values) else math.nan, *interval(values), margin)
        for o, values, margin in zip(orderings, differences, assess(margins), strict=True)
    ]
