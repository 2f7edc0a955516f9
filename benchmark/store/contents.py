"""All that a run directory holds, as it was found, and what of it is not as it was written.

contents = read_contents(Path("runs/pocket-1a2b3c4d"))      # in benchmark.store.reading
contents.altered        # (Altered("scores.csv", "changed"),)
contents.check()        # raises UserError that names it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from benchmark.api import UserError
from benchmark.store.answers import Answer, SelfAgreement
from benchmark.store.directory import HEADER, SCORES, Name, Plan, RunDirectory
from benchmark.store.records import JobRecord, PriorRecord, ScoreRecord
from benchmark.store.wording import AGAIN

_SHOWN = 5  #: so many altered files are named, the others counted


@dataclass(frozen=True, order=True)
class Altered:
    """A file that is not as it was written."""

    path: str  #: relative to the run directory
    what: str  #: "changed", "missing", "of another job", "of no planned job"

    def __str__(self) -> str:
        return f"{self.path} ({self.what})"


@dataclass
class Contents:
    """What there is, as it was found, the altered records that can be read among it."""

    directory: RunDirectory
    plan: Plan | None  #: None: the folder is new or empty, or run.json cannot be read
    kept: bool = False  #: whether it is a published run, which has few images
    jobs: dict[Name, JobRecord] = field(default_factory=dict)
    scores: dict[tuple[str, Name], ScoreRecord] = field(default_factory=dict)
    priors: dict[str, PriorRecord] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    agreements: dict[str, SelfAgreement] = field(default_factory=dict)  #: by the protocol's label
    #: (protocol, job) -> its rows as they lie on disk, without the header
    rows: dict[tuple[str, Name], bytes] = field(default_factory=dict)
    altered: tuple[Altered, ...] = ()
    plan_digest: str = ""  #: `RunDirectory.plan_digest` when it was read

    def is_altered(self, path: str) -> bool:
        return path in self.altered_paths

    @cached_property
    def altered_paths(self) -> frozenset[str]:
        return frozenset(one.path for one in self.altered)

    @property
    def in_order(self) -> list[tuple[str, Name]]:
        """The protocols and jobs that there are records of scores of, as the plan has them."""
        if self.plan is None:
            return []
        names = [job.name for job in self.plan.jobs]
        found = ((label, name) for label in self.plan.protocols for name in names)
        return [key for key in found if key in self.scores]

    @property
    def all_rows(self) -> bytes:
        """The rows of a scores.csv, as `in_order` has them."""
        return b"".join(self.rows.get(key, b"") for key in self.in_order)

    def write_scores(self) -> int:
        """Write scores.csv from the jobs' own rows, not into a published run. How many there are.

        Raises UserError.
        """
        text = self.all_rows
        if self.plan is not None and not self.kept:
            self.directory.write_files(self.plan, {SCORES: HEADER.encode() + text})
        return text.count(b"\n")

    def check(self, way_out: str = "") -> None:
        """Raise UserError naming what was altered, if anything was; `way_out` is beside ours."""
        if self.altered:
            mend = "publish the run again" if self.kept else AGAIN
            raise UserError(
                f"{self.directory.path} has files that are not as they were written: "
                f"{in_words(self.altered)}: {mend} to make them anew{way_out}"
            )


def in_words(altered: Sequence[Altered], shown: int = _SHOWN) -> str:
    """The first few files, and how many more there are."""
    more = len(altered) - shown
    named = ", ".join(map(str, altered[:shown]))
    return named + (f" and {more} more" if more > 0 else "")
