"""A grid beside what its run directory holds: what is left to do, and how that stands.

ready = Ready.of(grid, Path("runs/pocket-1a2b3c4d"))
ready.left          # prior images, fits, images, scores
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.runs.agenda import Task, Work, work_left
from benchmark.runs.existing_run import (
    Existing,
    check_images,
    check_scoring,
    extra_metrics,
    missing,
    read_existing,
)
from benchmark.runs.joining import joined, joined_plan, joined_suite
from benchmark.runs.plan import Grid
from benchmark.runs.provisions import in_short
from benchmark.runs.score import Assessment
from benchmark.runs.shared import State, failed_since, written_since
from benchmark.runs.texts import check_captions
from benchmark.runs.time_left import Forecast
from benchmark.runs.unscored import to_score, unscored
from benchmark.store.directory import SUITE, Plan, RunDirectory, protocol_path, scores_path
from benchmark.store.files import read_text
from benchmark.store.records import Job, Prior


@dataclass(frozen=True)
class Ready:
    """A grid beside what its run directory holds: what is left to do."""

    grid: Grid
    existing: Existing
    jobs: tuple[Job, ...]
    assessment: Assessment
    left: list[Work]
    forecast: Forecast

    @classmethod
    def of(
        cls, grid: Grid, path: Path, *, keep_weights: bool = False, metrics: Sequence[str] = ()
    ) -> Ready:
        """`metrics`: beside the protocol's, and those that the directory has.

        Raises UserError if the directory is another's, or if `grid` would change what it has.
        """
        existing = read_existing(RunDirectory(path), keep_weights=keep_weights)
        jobs = joined(grid, existing)
        check_images(jobs, grid.settled, existing)
        extra = extra_metrics(grid.suite.protocol, existing, metrics)
        assessment = Assessment.of(grid.suite, extra)
        with in_short(grid.suite):
            check_scoring(assessment, existing)
        left = work_left(jobs, grid.priors, assessment.scoring, existing)
        check_captions(assessment, [work.task for work in left if isinstance(work.task, Job)])
        return cls(grid, existing, jobs, assessment, left, _forecast(grid, existing))

    @property
    def label(self) -> str:
        """The protocol's."""
        return self.assessment.scoring.protocol

    def tell(self, keep_weights: bool) -> None:
        """Tell a person of what is there: altered, of other versions or texts, unkept."""
        self.existing.tell_altered(self.jobs, self.grid.suite.protocol.label)
        self.existing.tell_versions(self.grid.suite.protocol)
        self.existing.tell_edited(self.grid.suite.protocol.label)
        if keep_weights:
            self.existing.tell_unkept(self.jobs)

    def write_plan(self) -> None:
        """Forget what was altered, and write what is asked for."""
        self.existing.forget_altered()
        self.existing.directory.write_plan(self._plan, suite=self._suite, protocols=self._protocols)

    @property
    def _plan(self) -> Plan:
        return joined_plan(self.jobs, self.grid.settled, self.grid.suite.protocol, self.existing)

    @property
    def _suite(self) -> str:
        return joined_suite(self.grid, self.jobs, self.existing)

    @property
    def _protocols(self) -> dict[str, str]:
        protocol = self.grid.suite.protocol
        return {protocol.label: protocol.dump_toml()}

    def is_done(self) -> bool:
        """Whether the run directory holds all that is asked for, and what `write_plan` writes."""
        if self.left or self.existing.contents.altered or self._plan != self.existing.plan:
            return False
        texts = {protocol_path(label): text for label, text in self._protocols.items()}
        texts[SUITE] = self._suite
        folder = self.existing.directory.path
        return all(read_text(folder / name) == text for name, text in texts.items())

    def state(self, task: Task, began: float) -> State:
        """How it stands with `task` by now: failed, if that was since `began`."""
        directory, scoring = self.existing.directory, self.assessment.scoring
        if isinstance(task, Prior):
            return "open" if directory.prior_record(task.key) is None else "done"
        record = directory.job_record(task.name)
        if record is not None and not missing(task, record):
            scored = directory.score_record(scoring.protocol, task.name)
            if not to_score(record, scored, scoring):
                return "done"
            # What judges gave no answer to is asked for again, but once by each command.
            path = directory.path / f"{scores_path(scoring.protocol, task.name)}.json"
            if not unscored(record, scored, scoring) and written_since(path, began):
                return "done"
        return "failed" if failed_since(directory, task, began) else "open"


def _forecast(grid: Grid, existing: Existing) -> Forecast:
    """How long things take, by the suite's estimate and by what `existing` says they took."""
    forecast = Forecast(grid.suite)
    priors = [existing.priors[key] for key in grid.priors if key in existing.priors]
    forecast.learn_existing(existing.jobs.values(), existing.scores.values(), priors)
    return forecast
