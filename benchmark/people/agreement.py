"""How well each metric tells what people prefer, pair by pair.

rows = agreements(study, ballots(study, votes))

Which of a pair's two pictures comes first is nobody's choice, so each pair counts in both orders:
a correlation is one through the origin.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.people.preferences import Ballot
from benchmark.people.records import QUESTIONS, Pair, Question, Study
from benchmark.results.statistics import CONFIDENCE, MINIMUM_SUBJECTS

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval, which resamples subjects; NaN where there are too few."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """One metric and one question."""

    metric: str  #: "protocol/metric"
    question: Question
    accuracy: Figure  #: of pairs with a majority: the metric prefers the same; a tie is a half
    pearson: Figure  #: of the score's difference and the share of answers for, less against
    auc: Figure  #: of the score's difference, as it tells which one the majority prefers
    pairs: int


@dataclass(frozen=True)
class _Told:
    """Pairs as both see them: (pairs,) each."""

    subjects: np.ndarray  #: of each pair, its subject's place
    better: np.ndarray  #: by how much the metric prefers a to b
    preferred: np.ndarray  #: answers for a less those for b, as a share of all, from -1 to 1


def agreements(study: Study, cast: Sequence[Ballot]) -> list[Agreement]:
    """A row for each metric and question with at least one pair."""
    rows = []
    for question in QUESTIONS:
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for ballot in cast:
            if ballot.question == question:
                answers[ballot.pair.id][_side(ballot)] += 1
        for name, metric in study.metrics.items():
            pairs = [p for p in study.pairs if name in p.scores and p.id in answers]
            if pairs:
                sign = -1 if metric.lower_is_better else 1
                rows.append(_agreement(name, question, _told(pairs, answers, name, sign)))
    return rows


def _side(ballot: Ballot) -> str:
    if ballot.prefers is None:
        return ""
    return "a" if ballot.prefers == ballot.pair.a.method else "b"


def _told(pairs: Sequence[Pair], answers: dict[str, Counter[str]], name: str, sign: int) -> _Told:
    subjects = sorted({pair.subject for pair in pairs})
    return _Told(
        np.array([subjects.index(pair.subject) for pair in pairs]),
        np.array([sign * (pair.scores[name][0] - pair.scores[name][1]) for pair in pairs]),
        np.array([(c["a"] - c["b"]) / c.total() for c in (answers[pair.id] for pair in pairs)]),
    )


def _agreement(name: str, question: Question, told: _Told) -> Agreement:
    return Agreement(
        name,
        question,
        _figure(accuracy, told),
        _figure(pearson, told),
        _figure(auc, told),
        len(told.better),
    )


def accuracy(better: np.ndarray, preferred: np.ndarray) -> float:
    """The share of pairs with a majority where the metric prefers the same; a tie is a half."""
    decided = preferred != 0
    if not decided.any():
        return math.nan
    agrees = np.sign(better[decided]) * np.sign(preferred[decided])
    return float(np.mean((agrees + 1) / 2))


def pearson(better: np.ndarray, preferred: np.ndarray) -> float:
    """Pearson's correlation, each pair in both orders."""
    scale = math.sqrt(float((better**2).sum() * (preferred**2).sum()))
    return float((better * preferred).sum()) / scale if scale else math.nan


def auc(better: np.ndarray, preferred: np.ndarray) -> float:
    """The area under the ROC curve, each pair with a majority in both orders."""
    decided = preferred != 0
    if not decided.any():
        return math.nan
    for_it = better[decided] * np.sign(preferred[decided])
    # For one picture the majority and against it: the same differences with the other sign.
    above = for_it[:, None] + for_it[None, :]
    return float(np.mean((np.sign(above) + 1) / 2))


def _figure(of: Callable[[np.ndarray, np.ndarray], float], told: _Told) -> Figure:
    value = of(told.better, told.preferred)
    count = int(told.subjects.max()) + 1
    if count < MINIMUM_SUBJECTS:
        return Figure(value, math.nan, math.nan)
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(told.subjects == subject) for subject in range(count)]
    drawn = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([places[i] for i in rng.integers(count, size=count)])
        drawn.append(of(told.better[rows], told.preferred[rows]))
    known = np.array(drawn)[~np.isnan(drawn)]
    if not known.size:
        return Figure(value, math.nan, math.nan)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return Figure(value, float(low), float(high))
