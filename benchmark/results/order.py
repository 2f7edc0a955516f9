"""The order of every table: methods by role and by what they vary, metrics by what they are about.

Upper bounds come first, then the methods in the order of the plan, each followed by its variants,
and lower bounds last. Metrics follow `benchmark.api.ABOUT`, then the protocol's own order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from benchmark.api import ABOUT
from benchmark.store.records import Job, Scoring

_ROLES = ("upper bound", "method", "lower bound")


def order_methods(jobs: Iterable[Job], planned: Iterable[str]) -> list[str]:
    """The methods of `jobs`; those that are not `planned` come after those that are, by name."""
    known = {job.method: job for job in jobs}
    names = [name for name in dict.fromkeys(planned) if name in known]
    names += sorted(known.keys() - set(names))
    variants: dict[str | None, list[str]] = defaultdict(list)
    for name in names:
        parent = varied(known[name])
        variants[parent if parent in known else None].append(name)
    found: dict[str, None] = {}
    # Those that name each other in a circle hang from nothing: they come last.
    for name in (*_descend(None, variants), *names):
        found.setdefault(name)
    return sorted(found, key=lambda name: _ROLES.index(known[name].role))


def varied(job: Job) -> str | None:
    """The method that `job`'s differs from in its settings, if it is no method of its own."""
    return job.fit.method if job.fit.method != job.method else job.variant_of


def _descend(parent: str | None, variants: dict[str | None, list[str]]) -> Iterator[str]:
    for name in variants.get(parent, ()):
        yield name
        yield from _descend(name, variants)


def order_metrics(scoring: Scoring) -> list[str]:
    """The metrics of a protocol; what is about something else than ABOUT comes last, by that."""

    def place(name: str) -> tuple[int, str]:
        about = scoring.metrics[name].about
        return (ABOUT.index(about), "") if about in ABOUT else (len(ABOUT), about)

    return sorted(scoring.metrics, key=place)
