"""The conditions under which a run was made, as its records tell them, and where two runs differ.

    conditions_between(before, after, [("mine", "mine")])

Conditions are what a change of scores may come from: a method's version and settings, what its
images were drawn with, the metrics' versions, libraries, commit and machine.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.results.run import Run
from benchmark.store.provenance import SOURCES, sources_in
from benchmark.store.records import JobRecord, Prior

Facts = dict[str, tuple[str, ...]]  #: what -> its values in words, each once, sorted


@dataclass(frozen=True)
class Condition:
    """Something that is not the same in two runs; no value where a run does not tell."""

    what: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    methods: tuple[str, ...] = ()  #: of which methods of the second run; none: of the whole run


def conditions_between(
    before: Run, after: Run, methods: Sequence[tuple[str, str]]
) -> Iterator[Condition]:
    """Where `before` and `after` differ, `methods` being those that are compared with each other.

    What is told of methods comes first; where it is the same for all that tell it, only once.
    """
    changed: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    telling: dict[str, set[str]] = defaultdict(set)
    for mine, theirs in methods:
        for what, old, new in _unlike(_of_method(before, mine), _of_method(after, theirs)):
            changed[what, old, new].append(theirs)
        for what in {**_of_method(before, mine), **_of_method(after, theirs)}:
            telling[what].add(theirs)
    for (what, old, new), names in changed.items():
        own = what.startswith(_OWN)
        everywhere = not own and {*names} == telling[what]
        yield Condition(what, old, new, () if everywhere else tuple(names))
    versions = [_of_metrics(run) for run in (before, after)]
    in_both = versions[0].keys() & versions[1].keys()
    for what, old, new in _unlike(*versions):
        if what in in_both:
            yield Condition(what, old, new)
    machines = [
        _of_machine(run, {pair[place] for pair in methods})
        for place, run in enumerate((before, after))
    ]
    for what, old, new in _unlike(*machines):
        # A text that only one run tells is another plugin's, or older than the telling.
        if what.startswith("text of ") and not (old and new):
            continue
        yield Condition(what, old, new)


#: What always belongs to one method, if another has the same by chance too.
_OWN = ("version", "setting ")


def _unlike(before: Facts, after: Facts) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    for what in dict.fromkeys([*before, *after]):
        old, new = before.get(what, ()), after.get(what, ())
        if old != new:
            yield what, old, new


def _of_method(run: Run, method: str) -> Facts:
    priors = {record.prior.key: record.prior for record in run.priors}
    return _gathered(pair for record in run.records_of(method) for pair in _of_job(record, priors))


def _of_job(record: JobRecord, priors: Mapping[str, Prior]) -> Iterator[tuple[str, Any]]:
    job, fit = record.job, record.job.fit
    yield "version", fit.version
    if not job.elsewhere:  # its one setting is a hash of the images
        for name, value in fit.settings.items():
            yield f"setting {name}", value
    if fit.backbone is not None:
        yield "backbone", fit.backbone.label
        yield "backbone kind", f"{fit.backbone.kind} version {fit.backbone.version}"
    yield "precision", fit.precision
    yield "sampler", job.sampler and job.sampler.said()
    yield from fit.assets.items()
    if fit.masks is not None:
        yield f"masks of {job.subject}", fit.masks[:12]
    if (prior := priors.get(fit.prior or "")) is not None:
        yield "prior images", prior.count
        yield "sampler of prior images", prior.sampler.said()
        yield "backbone of prior images", prior.backbone.label


def _of_metrics(run: Run) -> Facts:
    return _gathered(
        (f"version of the metric {name} of {label}", metric.version)
        for label, scoring in run.scorings.items()
        for name, metric in scoring.metrics.items()
    )


def _of_machine(run: Run, methods: set[str]) -> Facts:
    """Libraries, commit and machine of the images and their scores."""
    jobs = [record.provenance for record in run.records if record.job.method in methods]
    scored = [record.provenance for record in run.scored if record.method in methods]
    return _gathered(pair for one in (*jobs, *scored) for pair in _flat(one))


def _flat(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What it says, packages by their names; no time of day."""
    for name, value in provenance.items():
        if name == "packages" and isinstance(value, dict):
            yield from value.items()
        elif name == SOURCES:
            for plugin, digest in sources_in(provenance).items():
                yield f"text of {plugin}", digest
        elif name != "time":
            yield name, value


def _gathered(pairs: Iterable[tuple[str, Any]]) -> Facts:
    found: dict[str, set[str]] = defaultdict(set)
    for what, value in pairs:
        if value is not None:
            found[what].add(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
    return {what: tuple(sorted(values)) for what, values in found.items()}
