"""Two runs of the same methods: what differs between them, and how far their scores moved.

    found = compare(read_run(Path("runs/last-week")), read_run(Path("runs/today")))
    found.conditions            # (Condition("torch", ("2.9.0",), ("2.10.0",)), ...)
    found.moved["pocket-1"]     # a Moved for each metric and pair of methods

A pair's scores are subtracted image by image (subject, seed, prompt and sample), where both runs
have the image; tests and intervals are over subjects, as in `benchmark.results.significance`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.results.conditions import Condition, conditions_between
from benchmark.results.merge import of_scoring
from benchmark.results.run import Run
from benchmark.results.significance import Difference, assess, images_of, paired
from benchmark.store.records import ImageRecord, MetricRecord

if TYPE_CHECKING:
    import pandas as pd

A, B = "A", "B"  #: what the runs are called
#: Of a metric, what may differ: it is named. Anything else would be another scale or protocol.
_NAMED = ("version", "label", "about")


@dataclass(frozen=True)
class Pair:
    """A method of run A, and that of run B which it is compared with."""

    before: str
    after: str

    @property
    def label(self) -> str:
        return self.before if self.before == self.after else f"{self.before} → {self.after}"


@dataclass(frozen=True)
class Moved:
    """How far a pair's scores in one metric lie apart, on the images, or subjects, of both."""

    pair: Pair
    metric: MetricRecord  #: as run B was scored
    before: float  #: mean over subjects in A
    after: float  #: the same in B
    difference: Difference  #: B minus A; its p is corrected for all pairs of the metric
    images: int  #: how many are compared; 0: they share none, and subjects' means are
    only_before: int  #: how many have a score in A alone
    only_after: int
    identical: bool  #: whether all images of both have the same score


@dataclass(frozen=True)
class Pictures:
    """Of the pictures that both runs have on record, how many are the same file."""

    pair: Pair
    both: int
    identical: int
    asked_alike: int  #: have one `image_key`: the same fit, prompt, sampler and noise
    unlike: int  #: of these, how many differ: by the machine or the libraries


@dataclass(frozen=True)
class Apart:
    """What one run has and the other lacks, in words."""

    what: str  #: "methods", "metrics of toy-1", "jobs of my-method"
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Run B beside run A."""

    before: Run
    after: Run
    pairs: tuple[Pair, ...]
    subjects: tuple[str, ...]  #: those that are the same in both

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.before, self.after

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(label for label in self.before.protocols if label in self.after.protocols)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What differs in settings, versions, libraries and machine."""
        names = [(pair.before, pair.after) for pair in self.pairs]
        return tuple(conditions_between(*self.runs, names))

    @cached_property
    def moved(self) -> dict[str, list[Moved]]:
        """protocol -> every metric's pairs, in the tables' order."""
        return {label: [*_moved(self, label)] for label in self.protocols}

    @cached_property
    def pictures(self) -> list[Pictures]:
        return [_pictures(self, pair) for pair in self.pairs]

    @cached_property
    def apart(self) -> list[Apart]:
        return [one for one in _apart(self) if one.before or one.after]


def compare(before: Run, after: Run, pairs: Sequence[Pair] = ()) -> Comparison:
    """`after` beside `before`: `pairs` of methods, or else every method that both have.

    Raises UserError naming what each has if they share no protocol, metric, method or subject, or
    if one protocol is not the same in both.
    """
    _check_protocols(before, after)
    _check_metrics(before, after)
    chosen = _chosen(before, after, pairs)
    mine = _subjects(before, [pair.before for pair in chosen])
    theirs = _subjects(after, [pair.after for pair in chosen])
    same = tuple(name for name in sorted(mine) if theirs.get(name) == mine[name])
    if not same:
        other = sorted(mine.keys() & theirs.keys())
        why = f"; {', '.join(other)} have other photographs or another class noun" if other else ""
        raise UserError(
            f"{before.directory} and {after.directory} have no subject in common: "
            f"{', '.join(sorted(mine))} and {', '.join(sorted(theirs))}{why}"
        )
    return Comparison(before, after, chosen, same)


def read_pair(text: str) -> Pair:
    """`a=b[steps=200]`: method `a` of A, and `b[steps=200]` of B. Raises UserError."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "=" and not depth:
            before, after = text[:place].strip(), text[place + 1 :].strip()
            if before and after:
                return Pair(before, after)
    raise UserError(f"--pair '{text}' should read METHOD=METHOD: one of A, and one of B")


def _chosen(before: Run, after: Run, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    for pair in pairs:
        for name, run in ((pair.before, before), (pair.after, after)):
            if name not in run.methods:
                raise UserError(
                    f"{run.directory} has no scores of a method '{name}'; it has: "
                    f"{', '.join(run.methods)}"
                )
    found = tuple(dict.fromkeys(pairs)) or tuple(
        Pair(name, name) for name in before.methods if name in after.methods
    )
    if not found:
        raise UserError(
            f"no method in common: {before.directory} has {', '.join(before.methods)}, and "
            f"{after.directory} has {', '.join(after.methods)}; name two with --pair A=B"
        )
    return found


def _check_protocols(before: Run, after: Run) -> None:
    labels = [label for label in before.protocols if label in after.protocols]
    if not labels:
        raise UserError(
            f"{before.directory} was scored under {', '.join(before.protocols)}, and "
            f"{after.directory} under {', '.join(after.protocols)}: score one of them under the "
            "other's protocol (python -m benchmark score RUN --protocol)"
        )
    for label in labels:
        theirs = dict(of_scoring(after.scorings[label], but=_NAMED))
        for what, value in of_scoring(before.scorings[label], but=_NAMED):
            if what in theirs and _text(theirs[what]) != _text(value):
                raise UserError(
                    f"{before.directory} and {after.directory} differ in {what}: {_text(value)} "
                    f"and {_text(theirs[what])}: score one of them again as the other was"
                )


def _check_metrics(before: Run, after: Run) -> None:
    found = [
        {f"{name} ({label})" for label in run.protocols for name in run.under(label).metrics}
        for run in (before, after)
    ]
    if not found[0] & found[1]:
        mine, theirs = (", ".join(sorted(names)) for names in found)
        raise UserError(
            f"no metric in common: {before.directory} has {mine}, and {after.directory} has "
            f"{theirs}: score one of them in the other's metrics (python -m benchmark score RUN "
            "--metrics)"
        )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _subjects(run: Run, methods: Collection[str]) -> dict[str, tuple[str, str]]:
    """subject -> what makes it this one: class noun, and digest of its photographs."""
    jobs = (record.job for record in run.records if record.job.method in methods)
    return {job.subject: (job.fit.class_noun, job.references_digest) for job in jobs}


# Scores --------------------------------------------------------------------------------------


def _moved(found: Comparison, label: str) -> Iterator[Moved]:
    before, after = (run.under(label) for run in found.runs)
    for metric in (name for name in after.metrics if name in before.scoring.metrics):
        tables = {
            pair: _side_by_side(before, after, metric, pair, found.subjects) for pair in found.pairs
        }
        samples = {pair: paired(table, B, A) for pair, table in tables.items()}
        samples = {pair: values for pair, values in samples.items() if len(values)}
        assessed = assess(list(samples.values()))
        for pair, difference in zip(samples, assessed, strict=True):
            table = tables[pair]
            both = table.dropna()
            # As `paired` does: where no image is in both runs, subjects are compared.
            means = (both if len(both) else table).groupby(level="subject").mean().dropna().mean()
            yield Moved(
                pair=pair,
                metric=after.metric(metric),
                before=float(means[A]),
                after=float(means[B]),
                difference=difference,
                images=len(both),
                only_before=int(table[B].isna().sum()),
                only_after=int(table[A].isna().sum()),
                identical=len(both) > 0 and bool((both[A] == both[B]).all()),
            )


def _side_by_side(
    before: Run, after: Run, metric: str, pair: Pair, subjects: Sequence[str]
) -> pd.DataFrame:
    """A row an image that either run has a score of: columns A and B, NaN where one has none."""
    import pandas as pd

    columns = {}
    for name, run, method in ((A, before, pair.before), (B, after, pair.after)):
        scores = images_of(run.by_image.get(metric), method)
        if scores is None:
            return pd.DataFrame()
        columns[name] = scores[scores.index.isin(subjects, level="subject")]
    return pd.DataFrame(columns)


# Pictures, and what one run lacks ------------------------------------------------------------


def _pictures(found: Comparison, pair: Pair) -> Pictures:
    mine = dict(_images(found.before, pair.before))
    theirs = dict(_images(found.after, pair.after))
    shared = [key for key in mine if key in theirs and key[0] in found.subjects]
    both = [(mine[key], theirs[key]) for key in shared]
    alike = [(one, other) for one, other in both if one.key == other.key]
    return Pictures(
        pair,
        both=len(both),
        identical=sum(one.sha256 == other.sha256 for one, other in both),
        asked_alike=len(alike),
        unlike=sum(one.sha256 != other.sha256 for one, other in alike),
    )


def _images(run: Run, method: str) -> Iterator[tuple[Any, ImageRecord]]:
    for record in run.records_of(method):
        for image in record.images.values():
            yield (record.job.subject, record.job.seed, image.prompt, image.index), image


def _apart(found: Comparison) -> Iterator[Apart]:
    before, after = found.runs
    if all(pair.before == pair.after for pair in found.pairs):
        yield _lacking("methods", before.methods, after.methods)
    yield _lacking("protocols", before.protocols, after.protocols)
    for label in found.protocols:
        metrics = (run.under(label).metrics for run in found.runs)
        yield _lacking(f"metrics of {label}", *metrics)
    for pair in found.pairs:
        cells = _cells(before, pair.before), _cells(after, pair.after)
        yield _lacking_cells(f"jobs of {pair.label}", *cells)
    mine = _subjects(before, [pair.before for pair in found.pairs])
    theirs = _subjects(after, [pair.after for pair in found.pairs])
    other = tuple(sorted((mine.keys() & theirs.keys()) - {*found.subjects}))
    yield Apart("subjects of other photographs or another class noun", other, other)


def _cells(run: Run, method: str) -> dict[str, set[int]]:
    """subject -> the seeds of its jobs; none of a method without a prompt, which needs no seed."""
    found: dict[str, set[int]] = defaultdict(set)
    for job in (record.job for record in run.records_of(method)):
        found[job.subject] |= {job.seed} if job.prompted else set()
    return found


def _lacking_cells(what: str, before: dict[str, set[int]], after: dict[str, set[int]]) -> Apart:
    def only(mine: dict[str, set[int]], theirs: dict[str, set[int]]) -> tuple[str, ...]:
        lacking = {
            subject: seeds - theirs.get(subject, set())
            for subject, seeds in sorted(mine.items())
            if subject not in theirs or seeds - theirs[subject]
        }
        return tuple(
            f"{subject} (seed {', '.join(map(str, sorted(seeds)))})" if seeds else subject
            for subject, seeds in lacking.items()
        )

    return Apart(what, only(before, after), only(after, before))


def _lacking(what: str, before: Sequence[str], after: Sequence[str]) -> Apart:
    return Apart(
        what,
        tuple(name for name in before if name not in after),
        tuple(name for name in after if name not in before),
    )
