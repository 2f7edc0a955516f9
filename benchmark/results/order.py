"""The order of every table: methods by role and by what they vary, metrics by what they are about.

Upper bounds come first, then the methods in the order of the suite's groups and of the plan, each
followed by its variants, by the numbers in their settings, and lower bounds last. Metrics follow
`benchmark.api.ABOUT`, then the protocol's own order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmark.api import ABOUT
from benchmark.config.tables import fits
from benchmark.store.records import Job, Scoring

_ROLES = ("upper bound", "method", "lower bound")


def order_methods(
    jobs: Iterable[Job], suites: Iterable[Mapping[str, Any]], planned: Iterable[str]
) -> list[str]:
    """The methods of `jobs`: as the groups of `suites` name them, then as they were `planned`."""
    known = {job.method: job for job in jobs}
    named = [
        name for suite in suites for group in suite.get("groups", {}).values() for name in group
    ]

    def place(method: str) -> int:
        fitting = (i for i, pattern in enumerate(named) if fits(method, pattern))
        return next(fitting, len(named))

    there = [name for name in dict.fromkeys(planned) if name in known]
    names = sorted([*there, *sorted(known.keys() - set(there))], key=place)
    variants: dict[str | None, list[str]] = defaultdict(list)
    for name in names:
        parent = varied(known[name])
        variants[parent if parent in known else None].append(name)
    for siblings in variants.values():
        first = {known[name].fit.method: i for i, name in reversed([*enumerate(siblings)])}
        siblings.sort(key=lambda name: (first[known[name].fit.method], _by_numbers(name)))
    found: dict[str, None] = {}
    # Methods that name each other as parents come last.
    for name in (*_descend(None, variants), *names):
        found.setdefault(name)
    return sorted(found, key=lambda name: _ROLES.index(known[name].role))


def varied(job: Job) -> str | None:
    """The method that `job`'s is a variant of, if any."""
    return job.fit.method if job.fit.method != job.method else job.variant_of


def _by_numbers(name: str) -> list[str | float]:
    """What sorts `a[steps=50]` before `a[steps=100]`: texts and numbers by turns."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def _descend(parent: str | None, variants: dict[str | None, list[str]]) -> Iterator[str]:
    for name in variants.get(parent, ()):
        yield name
        yield from _descend(name, variants)


def order_metrics(scoring: Scoring, declared: Iterable[str]) -> list[str]:
    """The metrics of a protocol, which declares them in this order; others after these.

    Metrics about something that ABOUT does not name come last, sorted by it.
    """
    order = [
        name for name in dict.fromkeys([*declared, *scoring.metrics]) if name in scoring.metrics
    ]

    def place(name: str) -> tuple[int, str]:
        about = scoring.metrics[name].about
        return (ABOUT.index(about), "") if about in ABOUT else (len(ABOUT), about)

    return sorted(order, key=place)
