"""Results that several people published, joined: one protocol, one prompt set, a row a method.

    board = Board.of([Entry("mine", run.under("pocket-1"), by="me"), ...])
    board.groups        # rows whose images share noise, so that they can be tested

Means of two entries stand beside each other; tests are between rows with the same backbone, seeds
and prompts alone, whose images began from the same noise.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from benchmark.api import UserError
from benchmark.results.comparability import basis_of, changes
from benchmark.results.run import Run
from benchmark.results.significance import Difference, assess, images_of, paired

#: What entries may differ in: it stands in the table, or decides which rows are tested.
_MAY_DIFFER = {"backbone", "images_per_prompt", "prior_prompt_images", "metrics", "encoders"}


@dataclass(frozen=True)
class Entry:
    """One published folder."""

    name: str
    run: Run  #: under the board's protocol
    by: str = ""  #: who says to have published it
    verified: str = ""  #: what `verify` found, in words; empty: nobody asked


@dataclass(frozen=True)
class BoardRow:
    """A method of an entry."""

    entry: Entry
    method: str

    @property
    def label(self) -> str:
        return f"{self.method} ({self.entry.name})"

    @property
    def competes(self) -> bool:
        return self.entry.run.roles[self.method] == "method"

    @property
    def backbone(self) -> str:
        """Its label; empty for a method that uses none."""
        records = self.entry.run.records_of(self.method)
        found = {r.job.fit.backbone.label for r in records if r.job.fit.backbone is not None}
        return ", ".join(sorted(found))

    @property
    def seeds(self) -> list[int]:
        return sorted({r.job.seed for r in self.entry.run.records_of(self.method)})

    @cached_property
    def noise(self) -> str | None:
        """What its images have in common with those of rows that can be tested with it.

        None for images made elsewhere, or without a prompt.
        """
        run = self.entry.run
        jobs = [record.job for record in run.records_of(self.method)]
        if any(job.elsewhere or not job.prompted for job in jobs):
            return None
        samplers = {json.dumps(job.sampler and job.sampler.said()) for job in jobs}
        counts = {job.images_per_prompt for job in jobs}
        return repr((self.backbone, self.seeds, sorted(samplers), sorted(counts)))


@dataclass(frozen=True)
class Board:
    """Entries that compare."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Board:
        """Raises UserError naming the first entry that is of another protocol or prompt set."""
        bases = [(entry, _basis(entry.run)) for entry in entries]
        # Each with each: two may share a metric that the first has not.
        for (first, before), (other, after) in combinations(bases, 2):
            _check_alike(first, before, other, after)
        return cls(tuple(entries))

    @property
    def metrics(self) -> list[str]:
        """All that any entry has, in the order of the first that has it."""
        return list(dict.fromkeys(name for entry in self.entries for name in entry.run.metrics))

    def about(self, metric: str) -> Run:
        """The first run that has the metric, for its declaration."""
        return next(e.run for e in self.entries if metric in e.run.scoring.metrics)

    @cached_property
    def rows(self) -> list[BoardRow]:
        """Real images once, since they are the same for all; else every method of every entry."""
        found: list[BoardRow] = []
        for entry in self.entries:
            for method in entry.run.methods:
                bound = entry.run.roles[method] == "upper bound"
                if not bound or not any(row.method == method for row in found):
                    found.append(BoardRow(entry, method))
        return found

    @cached_property
    def groups(self) -> list[list[BoardRow]]:
        """Competing rows whose images share noise, where there are several."""
        found: dict[str, list[BoardRow]] = defaultdict(list)
        for row in self.rows:
            if row.competes and row.noise is not None:
                found[row.noise].append(row)
        return [rows for rows in found.values() if len(rows) > 1]

    def leader(self, rows: Sequence[BoardRow], metric: str) -> BoardRow | None:
        """The best mean of `rows`; None where fewer than two have one, or nothing is better."""
        higher = self.about(metric).metric(metric).higher_is_better
        means = [(row.entry.run.means.get((row.method, metric)), row) for row in rows]
        known = [(mean, row) for mean, row in means if mean is not None]
        if higher is None or len(known) < 2:
            return None
        choose = max if higher else min
        return choose(known, key=lambda pair: pair[0])[1]

    def behind(self, rows: Sequence[BoardRow], metric: str) -> dict[str, Difference]:
        """Row's label -> its difference from the leader, image by image.

        Corrected over all pairs of `rows`, because the leader was chosen by the same scores.
        """
        import pandas as pd

        leader = self.leader(rows, metric)
        if leader is None:
            return {}
        columns = {
            row.label: images_of(row.entry.run.by_image.get(metric), row.method) for row in rows
        }
        known = {label: column for label, column in columns.items() if column is not None}
        table = pd.DataFrame(known)
        others = [label for label in known if label != leader.label]
        pairs = list(combinations([leader.label, *others], 2))
        found = assess([paired(table, two, one) for one, two in pairs])
        return dict(zip(others, found, strict=False))


def _check_alike(first: Entry, before: dict[str, Any], entry: Entry, after: dict[str, Any]) -> None:
    """Refuse two entries whose bases differ, or a metric that both have, or an encoder of it."""
    shared = [name for name in before["metrics"] if name in after["metrics"]]
    mine, theirs = (
        {k: value for k, value in basis.items() if k != "metrics"}
        | {f"metric {name}": basis["metrics"][name] for name in shared}
        | {
            f"encoder {name}": one.run.scoring.encoders.get(name)
            for metric in shared
            for name in entry.run.scoring.metrics[metric].encoders
        }
        for one, basis in ((first, before), (entry, after))
    )
    for what, old, new in changes(mine, theirs):
        raise UserError(
            f"{entry.name} and {first.name} are of another protocol or prompt set: they differ in "
            f"{what}: {_shown(new)} and {_shown(old)}; a leaderboard has one"
        )


def _basis(run: Run) -> dict[str, Any]:
    basis = basis_of(run).model_dump(mode="json")
    metrics = basis["metrics"]
    return {k: v for k, v in basis.items() if k not in _MAY_DIFFER} | {"metrics": metrics}


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True)[:120]
