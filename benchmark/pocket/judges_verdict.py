"""What intervals say of judges, in sentences that hold whatever the numbers are.

A judge is *behind* another where the interval of their difference lies on its side of 0, and *not
told apart* from it where the interval holds 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.pocket.calibration_scenes import MATCHED
from benchmark.pocket.judges_arithmetic import Compared
from benchmark.pocket.judges_asked import (
    BACKGROUND,
    EFFECTS,
    HEADLINE,
    IDENTITY,
    IN_A_RUN,
    JUDGES,
    NOT_FOUND,
    Criterion,
)
from benchmark.report.markdown import signed, with_interval

#: (judge, against, axis, quantity) -> what was found.
Found = Mapping[tuple[str, str, str, str], Compared]
WHAT = f"a subject from a {MATCHED}"


@dataclass(frozen=True)
class Standing:
    """Judges by one criterion: differences are those from the first, in its unit."""

    first: str
    level: dict[str, Compared]  #: not told apart from the first
    behind: dict[str, Compared]


def found_of(rows: Sequence[Compared]) -> Found:
    """The rows, by what they are of."""
    return {(row.metric, row.against, row.axis, row.quantity): row for row in rows}


def number(found: Found, judge: str, criterion: Criterion) -> Compared | None:
    """A judge's own number, if it has one."""
    return found.get((judge, "", criterion.axis, criterion.quantity))


def difference(found: Found, judge: str, other: str, criterion: Criterion) -> Compared:
    """`judge` minus `other`, whichever way round it was found."""
    key = criterion.axis, criterion.quantity
    if (judge, other, *key) in found:
        return found[judge, other, *key]
    turned = found[other, judge, *key]
    value, low, high = (0 - x for x in (turned.value, turned.high, turned.low))  # 0, not -0
    return replace(turned, metric=judge, against=other, value=value, low=low, high=high)


def better(of: Compared, criterion: Criterion) -> int:
    """1 if a difference is surely for the better, -1 if surely for the worse, else 0."""
    sign = (of.low > 0) - (of.high < 0)
    return sign if criterion.higher_is_better else -sign


def ordered(found: Found, criterion: Criterion, judges: Sequence[str]) -> list[str]:
    """`judges` by their numbers, the best first; equals stay as they are."""
    sign = -1 if criterion.higher_is_better else 1
    return sorted(judges, key=lambda judge: sign * _own(found, judge, criterion).value)


def standing(found: Found, criterion: Criterion, judges: Sequence[str]) -> Standing:
    """Who is first, and who is not told apart from it."""
    first, *others = ordered(found, criterion, judges)
    away = {judge: difference(found, judge, first, criterion) for judge in others}
    behind = {judge: one for judge, one in away.items() if better(one, criterion) < 0}
    return Standing(first, {j: one for j, one in away.items() if j not in behind}, behind)


def verdict(found: Found) -> list[str]:
    """The findings in short, a sentence or two each."""
    return [
        _who_is_best(found),
        _by_other_criteria(found),
        *(_effect(found, what, *views) for what, views in EFFECTS.items()),
        _what_the_background_does(found),
        _how_often_nothing_is_found(found),
    ]


def _who_is_best(found: Found) -> str:
    stand = standing(found, HEADLINE, IN_A_RUN)
    name, own = JUDGES[stand.first].label, _own(found, stand.first, HEADLINE)
    auc = f"an AUC of {_interval(own)}"
    if not stand.level:
        text = f"**{name} tells identity best**: it tells {WHAT} with {auc}. "
        text += f"All others that a run can have are surely behind: {_listed(stand.behind)}."
    else:
        text = f"**{name} is first, and not alone**: it tells {WHAT} with {auc}, and "
        text += f"not told apart from it {_are(stand.level)} {_listed(stand.level)}."
        if stand.behind:
            text += f" Surely behind: {_listed(stand.behind)}."
    if own.low <= 0.5:
        text += " As far as these subjects show, even the first may be no better than a coin."
    return text


def _by_other_criteria(found: Found) -> str:
    first = standing(found, HEADLINE, IN_A_RUN).first
    alone, level, behind = [], [], []
    for criterion in IDENTITY[1:]:
        stand = standing(found, criterion, IN_A_RUN)
        if first in stand.behind:
            leads = f"{JUDGES[stand.first].label} leads, {_signed(stand.behind[first])}"
            behind.append(f"{criterion.label} ({leads})")
        elif stand.first == first and not stand.level:
            alone.append(criterion.label)
        else:
            level.append(criterion.label)
    groups = {
        "first alone": alone,
        "first or not told apart from the first": level,
        "surely behind the first": behind,
    }
    said = [f"{how} in {_joined(names)}" for how, names in groups.items() if names]
    return f"**By the other measures of identity** {JUDGES[first].label} is {'; '.join(said)}."


def _effect(found: Found, what: str, view: str, without: str) -> str:
    """What a view does to each encoder's AUC, beside another that differs in one thing."""
    judges = {(judge.whole, judge.view): name for name, judge in JUDGES.items()}
    said = []
    for whole in dict.fromkeys(judge.whole for judge in JUDGES.values()):
        change = difference(found, judges[whole, view], judges[whole, without], HEADLINE)
        does = {1: "raises", 0: "does not surely change", -1: "lowers"}[better(change, HEADLINE)]
        said.append(f"{does} the AUC of {JUDGES[whole].label} ({_signed(change)})")
    return f"**{what}** {' and '.join(said)}."


def _what_the_background_does(found: Found) -> str:
    shares = {judge: _own(found, judge, BACKGROUND) for judge in JUDGES}
    said = [f"{JUDGES[judge].label} {share.value:.3f}" for judge, share in shares.items()]
    more = [JUDGES[judge].label for judge, share in shares.items() if share.low > 1]
    text = f"**The background alone**, as a share of what a {MATCHED} in its place moves: "
    text += ", ".join(said) + "."
    if more:
        text += f" It surely moves {_joined(more)} further than such a classmate does."
    return text


def _how_often_nothing_is_found(found: Found) -> str:
    lost = {judge.view: number(found, name, NOT_FOUND) for name, judge in JUDGES.items()}
    said = [f"{view} {_interval(one)}" for view, one in lost.items() if one]
    return f"**The segmenter found nothing**, as a share of pictures: {', '.join(said)}."


def _own(found: Found, judge: str, criterion: Criterion) -> Compared:
    return found[judge, "", criterion.axis, criterion.quantity]


def _listed(away: Mapping[str, Compared]) -> str:
    return ", ".join(f"{JUDGES[judge].label} ({_signed(one)})" for judge, one in away.items())


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _are(some: Mapping[str, Compared]) -> str:
    return "is" if len(some) == 1 else "are"


def _interval(one: Compared) -> str:
    return with_interval(one.value, one.low, one.high)


def _signed(one: Compared) -> str:
    return signed(one.value, one.low, one.high)
