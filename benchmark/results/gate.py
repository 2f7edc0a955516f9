"""The gate: a run's scores against a baseline, for people and for continuous integration.

    verdicts, notes = compare(load_runs([Path("runs/pocket-1a2b3c4d")]), read_baseline(path))

A method may not get worse by more than its tolerance; a control may not move at all, for nothing
in it learns: what moves real images is the measuring, what moves the untuned model the drawing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmark.api import UserError
from benchmark.data.manifest import some
from benchmark.results.baseline import Baseline, measure_baseline, read_baseline, subject_means
from benchmark.results.comparability import (
    Task,
    conditions_of,
    differences,
    provenance_of,
    run_seeds,
    sampler_of,
    task_of,
)
from benchmark.results.merge import join, uneven_prompts
from benchmark.results.run import Run, check_finished, missing_jobs, read_run
from benchmark.store.directory import write_atomically

_WHY = {
    "real-images": "nothing is drawn here: encoders, preprocessing or the subject's images changed",
    "untuned": "nothing is trained here: model, sampler or prompts changed",
}


class Outcome(StrEnum):
    """What became of a score."""

    WITHIN = "within tolerance"
    BETTER = "better"
    REGRESSION = "regression"


@dataclass(frozen=True)
class Verdict:
    """One metric of one method; numbers in the metric's unit."""

    method: str
    metric: str
    before: float  #: the baseline's mean over subjects and seeds
    after: float  #: the run's
    tolerance: float  #: for as many seeds as the run has
    outcome: Outcome

    def __str__(self) -> str:
        text = (
            f"{self.method} / {self.metric}: {self.before:.4f} before, {self.after:.4f} now "
            f"({self.after - self.before:+.4f}), tolerance {self.tolerance:.4f}"
        )
        if self.outcome is Outcome.REGRESSION and self.method in _WHY:
            text += f"; {_WHY[self.method]}"
        if self.outcome is Outcome.BETTER:
            text += "; better than baseline: consider --update"
        return text


def check_runs(
    runs: Sequence[Path], path: Path, *, update: bool = False, junit: Path | None = None
) -> int:
    """Print how `runs` compare with the baseline at `path`, or with `update` make it of them.

    Returns the exit code: 1 if a score is worse than its tolerance lets it be, else 0. Raises
    UserError, and writes nothing, if the runs are incomplete or of another task than the baseline.
    """
    run = load_runs(runs)
    if update:
        _update(run, path)
        return 0
    verdicts, notes = compare(run, read_baseline(path), path)
    if junit:
        _write(junit, junit_xml(verdicts, notes, path))
    outcomes = [verdict.outcome for verdict in verdicts]
    for verdict in verdicts:
        if verdict.outcome is not Outcome.WITHIN:
            print(f"{verdict.outcome:<10}  {verdict}")
    for note in notes:
        print(f"note        {note}")
    failed, better = (outcomes.count(one) for one in (Outcome.REGRESSION, Outcome.BETTER))
    word = "FAILED" if failed else "passed"
    print(
        f"{word}: {len(verdicts)} scores against {path}: {failed} worse than their tolerance, "
        f"{better} better, {len(verdicts) - failed - better} within it"
    )
    return 1 if failed else 0


def load_runs(directories: Sequence[Path]) -> Run:
    """The finished runs as one. Raises UserError if a job is missing, or they do not compare."""
    runs = [read_run(directory) for directory in directories]
    for run in runs:
        check_finished(run)
    run = join(runs, directories[0], partial=True)
    lacking = [f"{m} lacks {', '.join(what)}" for m, what in missing_jobs(run.scores).items()]
    if uneven := uneven_prompts(run):
        lacking.append(f"not every method drew the same prompts of {', '.join(uneven)}")
    if lacking:
        raise UserError(f"the grid is incomplete: {some(lacking)}; run what is missing")
    return run


def compare(run: Run, baseline: Baseline, path: Path) -> tuple[list[Verdict], list[str]]:
    """A verdict for each of the baseline's scores, and what else is worth knowing.

    Raises UserError naming what differs if `run` is no run of the baseline's task.
    """
    tables = subject_means(run.scores)
    task = task_of(run)
    _check_task(run, task, baseline, path)
    absent = [
        f"{method} / {metric}"
        for method, entry in baseline.methods.items()
        for metric in entry.scores
        if (method, metric) not in tables
    ]
    if absent:
        raise UserError(
            f"{_places(run)} lacks {some(absent)}, which {path} has: run those methods too, or "
            "make the baseline anew with --update"
        )
    seeds = len(run_seeds(run))
    verdicts = [
        _verdict(
            baseline,
            method,
            metric,
            after=float(tables[method, metric].to_numpy().mean()),
            seeds=seeds,
        )
        for method, entry in baseline.methods.items()
        for metric in entry.scores
    ]
    known = {(verdict.method, verdict.metric) for verdict in verdicts}
    gated = {key for key in tables if key[1] in task.metrics}
    new = sorted(f"{method} / {metric}" for method, metric in gated - known)
    return verdicts, _notes(run, baseline, new)


def _verdict(baseline: Baseline, method: str, metric: str, *, after: float, seeds: int) -> Verdict:
    before = baseline.methods[method].scores[metric].mean
    tolerance = baseline.allowed(method, metric, seeds=seeds)
    gain = after - before
    if baseline.task.metrics[metric].better == "lower":
        gain = -gain
    outcome = Outcome.WITHIN
    if abs(gain) > tolerance:
        two_sided = baseline.two_sided(method, metric)
        outcome = Outcome.REGRESSION if gain < 0 or two_sided else Outcome.BETTER
    return Verdict(method, metric, before, after, tolerance, outcome)


def _check_task(run: Run, task: Task, baseline: Baseline, path: Path) -> None:
    found = task.model_dump()
    # A metric that the baseline does not know yet is no obstacle, and where better lies is its.
    found["metrics"] = {
        name: entry | {"better": baseline.task.metrics[name].better}
        for name, entry in found["metrics"].items()
        if name in baseline.task.metrics
    }
    differing = [
        f"{key} ({_short(before)} in the baseline, {_short(after)} in the run)"
        for key, before, after in differences(baseline.task.model_dump(), found)
    ]
    if differing:
        raise UserError(
            f"{_places(run)} does not compare with {path}; they differ in {some(differing)}: run "
            "what the baseline was made of, or make it anew with --update"
        )


def _notes(run: Run, baseline: Baseline, new: Sequence[str]) -> list[str]:
    """What differs and may, and what the baseline does not have."""
    conditions = conditions_of(run)
    before = {"sampler": baseline.sampler} | {
        method: {"version": entry.version, "settings": entry.settings}
        for method, entry in baseline.methods.items()
    }
    after = {"sampler": sampler_of(run)} | {
        method: conditions[method] for method in baseline.methods
    }
    notes = [
        f"{key}: {_short(a)} before, {_short(b)} now" for key, a, b in differences(before, after)
    ]
    known = {"device": baseline.measured.devices, "precision": baseline.measured.precisions}
    for what, measured in known.items():
        now = provenance_of(run, what)
        if not set(now) <= set(measured):
            notes.append(f"{what}: {', '.join(measured)} before, {', '.join(now)} now")
    if new:
        notes.append(f"not in the baseline, so not checked: {some(list(new))}")
    return notes


def _update(run: Run, path: Path) -> None:
    """Write the baseline that `run` makes to `path`, and print what differs from the old one."""
    before = read_baseline(path) if path.exists() else None
    after = measure_baseline(run)
    _write(path, after.dump_toml())
    if before is None:
        print(f"made {path}: {sum(len(entry.scores) for entry in after.methods.values())} scores")
        return
    old, new = before.model_dump(), after.model_dump()
    changed = 0
    for key, a, b in differences(old, new):
        changed += 1
        print(f"{key}: {_short(a)} -> {_short(b)}")
    print(f"rewrote {path}: {changed} values differ" if changed else f"{path} stays as it was")


def junit_xml(verdicts: Sequence[Verdict], notes: Sequence[str], path: Path) -> bytes:
    """The verdicts as JUnit XML: a test case for each, a failure for each regression."""
    failures = str(sum(verdict.outcome is Outcome.REGRESSION for verdict in verdicts))
    counts = {"tests": str(len(verdicts)), "failures": failures, "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"scores against {path}"} | counts)
    for verdict in verdicts:
        names = {"classname": verdict.method, "name": verdict.metric}
        case = ElementTree.SubElement(suite, "testcase", names)
        if verdict.outcome is Outcome.REGRESSION:
            kind = {"message": str(verdict), "type": verdict.outcome.value}
            ElementTree.SubElement(case, "failure", kind).text = str(verdict)
        else:
            ElementTree.SubElement(case, "system-out").text = str(verdict)
    if notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(notes)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _write(path: Path, content: str | bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _places(run: Run) -> str:
    return ", ".join(str(part.directory) for part in run.origins)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
