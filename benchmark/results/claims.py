"""The paper's orderings, as data, and whether scores agree with them.

    verdicts = verdicts_on(load_orderings(), by_image(scores))

Each says that one of two methods scores higher, or that they lie no further apart than a bound.
Either way its margin, paired over subjects, is above 0 if the ordering holds.
"""

from __future__ import annotations

import functools
import itertools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.results.significance import Difference, assess, paired
from benchmark.results.statistics import interval

if TYPE_CHECKING:
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

    def margins(self, differences: pd.Series) -> list[pd.Series]:
        """By subject, what is above 0 where the ordering holds; `differences`: `higher` - `lower`.

        Nearness has two margins, one from either bound, and needs both.
        """
        if self.within is not None:
            return [self.within - differences, self.within + differences]
        return [differences if self.at_most is None else self.at_most - differences]


@dataclass(frozen=True)
class Verdict:
    """An ordering beside what the scores say of it."""

    ordering: Ordering
    mean: float  #: of `higher` minus `lower`, paired over subjects; NaN if a method is missing
    low: float
    high: float
    margin: Difference  #: what decides: the same seen from the bound; its p is corrected

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


def verdicts_on(orderings: Sequence[Ordering], images: dict[str, pd.DataFrame]) -> list[Verdict]:
    """A verdict for each ordering, from the values by image; p-values corrected as one family."""
    # Every margin is tested on both sides, as a claim is called reversed or exceeded as readily as
    # it is said to hold. The family is fixed beforehand: nearness brings both its bounds into it,
    # instead of the one that the scores come nearer to.
    import pandas as pd

    differences = [
        paired(images[o.metric], o.higher, o.lower)
        if o.metric in images
        else pd.Series(dtype=float)
        for o in orderings
    ]
    margins = [o.margins(values) for o, values in zip(orderings, differences, strict=True)]
    found = iter(assess([margin for several in margins for margin in several]))
    verdicts = []
    for ordering, values, several in zip(orderings, differences, margins, strict=True):
        # A bound that is not certainly kept decides, else the nearer one.
        margin = min(itertools.islice(found, len(several)), key=lambda m: (m.shown, m.mean))
        mean = float(values.to_numpy().mean()) if len(values) else math.nan
        verdicts.append(Verdict(ordering, mean, *interval(values.to_numpy()), margin))
    return verdicts
