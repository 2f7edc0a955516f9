"""What people prefer, and how sure that is: shares, with intervals over people and subjects.

    table = preferences(study, votes)
    alpha(ballots, "subject")

Intervals: percentile bootstrap, people and subjects drawn with replacement at once (Owen, "The
pigeonhole bootstrap", 2007), which is on the safe side. Agreement among people is Krippendorff's
alpha for nominal data.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.people.records import QUESTIONS, Pair, Question, Study, Votes
from benchmark.results.statistics import CONFIDENCE, MINIMUM_SUBJECTS

_RESAMPLES = 10_000
_AT_ONCE = 500  # resamples: so many fit into some MB
UNDECIDED = None


@dataclass(frozen=True)
class Ballot:
    """One person's answer to one question about one pair."""

    person: str
    question: Question
    pair: Pair
    prefers: str | None  #: a method; None: they could not tell


@dataclass(frozen=True)
class Share:
    """A share of answers, from 0 to 1, with its 95 % interval; NaN where too little was asked."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Preference:
    """A row of the paper's Table 2: one question about two methods."""

    question: Question
    first: str
    other: str
    shares: dict[str | None, Share]  #: by method, and None: undecided
    lead: Share  #: the first's share less the other's, from -1 to 1
    answers: int
    people: int
    subjects: int


def attentive(study: Study, votes: Sequence[Votes]) -> tuple[list[Votes], list[Votes]]:
    """Those who got every check right that they answered, and the others."""
    right = {check.id: check.right for check in study.checks}
    passed: list[Votes] = []
    failed: list[Votes] = []
    for one in votes:
        wrong = any(a.item in right and a.choice != right[a.item] for a in one.answers)
        (failed if wrong else passed).append(one)
    return passed, failed


def ballots(study: Study, votes: Iterable[Votes]) -> list[Ballot]:
    """The answers about pairs; those to checks are left out."""
    pairs = {pair.id: pair for pair in study.pairs}
    found = []
    for one in votes:
        for answer in one.answers:
            if (pair := pairs.get(answer.item)) is not None:
                chosen = None if answer.choice is None else getattr(pair, answer.choice).method
                found.append(Ballot(one.person, answer.question, pair, chosen))
    return found


def preferences(study: Study, cast: Sequence[Ballot]) -> list[Preference]:
    """A row for each question and each method that the first one is compared with."""
    first, *others = study.methods
    rows = []
    for question in QUESTIONS:
        for other in others:
            asked = [
                ballot
                for ballot in cast
                if ballot.question == question
                and {ballot.pair.a.method, ballot.pair.b.method} == {first, other}
            ]
            if asked:
                rows.append(_preference(question, first, other, asked))
    return rows


def _preference(question: Question, first: str, other: str, asked: Sequence[Ballot]) -> Preference:
    choices: tuple[str | None, ...] = (first, other, UNDECIDED)
    people = sorted({ballot.person for ballot in asked})
    subjects = sorted({ballot.pair.subject for ballot in asked})
    counts = np.zeros((len(people), len(subjects), len(choices)))
    for ballot in asked:
        place = people.index(ballot.person), subjects.index(ballot.pair.subject)
        counts[(*place, choices.index(ballot.prefers))] += 1
    value = counts.sum((0, 1)) / counts.sum()
    drawn = resampled(counts)
    shares = {c: _share(value[i], drawn[:, i]) for i, c in enumerate(choices)}
    lead = _share(value[0] - value[1], drawn[:, 0] - drawn[:, 1])
    return Preference(question, first, other, shares, lead, len(asked), len(people), len(subjects))


def resampled(counts: np.ndarray, resamples: int = _RESAMPLES) -> np.ndarray:
    """(resamples, choices): shares of answers with people and subjects drawn with replacement.

    `counts`: (people, subjects, choices). NaN where there are fewer than three of either.
    """
    people, subjects, choices = counts.shape
    if min(people, subjects) < MINIMUM_SUBJECTS:
        return np.full((resamples, choices), math.nan)
    rng = np.random.default_rng(0)
    found = []
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        of_people = rng.multinomial(people, np.full(people, 1 / people), size)
        of_subjects = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size)
        found.append(np.einsum("rp,rs,psc->rc", of_people, of_subjects, counts, optimize=True))
    totals = np.concatenate(found)
    asked = totals.sum(1, keepdims=True)
    return np.divide(totals, asked, out=np.full_like(totals, math.nan), where=asked > 0)


def _share(value: float, drawn: np.ndarray) -> Share:
    tail = 100 * (1 - CONFIDENCE) / 2
    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, [tail, 100 - tail]) if known.size else (math.nan, math.nan)
    return Share(float(value), float(low), float(high))


def alpha(cast: Iterable[Ballot], question: Question) -> float:
    """Krippendorff's alpha of the answers to `question`: 1 all agree, 0 as by chance.

    Units are pairs with two answers or more; "cannot tell" is an answer as others. NaN without
    such a unit. Which of a pair's two comes first is nobody's choice, so each pair counts in both
    orders: by chance, either is preferred as often.
    """
    units: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for ballot in cast:
        if ballot.question == question:
            side = {ballot.pair.a.method: "a", ballot.pair.b.method: "b"}
            other = {ballot.pair.a.method: "b", ballot.pair.b.method: "a"}
            for turned, named in ((False, side), (True, other)):
                value = named.get(ballot.prefers or "", "cannot tell")
                units[ballot.pair.id, turned][value] += 1
    return nominal_alpha(units.values())


def nominal_alpha(units: Iterable[Counter[str]]) -> float:
    """Krippendorff's alpha for nominal data. `units`: how often each value was given to each."""
    told = [unit for unit in units if unit.total() > 1]
    everything = sum(told, Counter[str]())
    n = everything.total()
    if not n:
        return math.nan
    observed = sum(
        (unit.total() ** 2 - sum(count**2 for count in unit.values())) / (unit.total() - 1)
        for unit in told
    )
    expected = (n**2 - sum(count**2 for count in everything.values())) / (n - 1)
    return 1 - observed / expected if expected else math.nan
