"""The gate: a run's scores against a baseline, for people and for continuous integration.

    run, baseline = load_runs([Path("runs/pocket-1a2b3c4d")]), read_baseline(path)
    checks, notes = check_scores(run.under(baseline.task.protocol), baseline, path)

A method may not get worse by more than its tolerance. Any change in a bound beyond tolerance fails
the check: nothing is trained in one, so if it moves, the scoring or the model has changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.data.manifest import some
from benchmark.results.baseline import (
    Baseline,
    means_by_seed,
    measure_baseline,
    read_baseline,
    subjects_without,
)
from benchmark.results.comparability import (
    Basis,
    basis_of,
    changes,
    conditions_of,
    precisions_of,
    provenance_of,
    run_seeds,
    sampler_of,
)
from benchmark.results.completeness import check_finished, lacking_of, unscored_counts
from benchmark.results.gated import GatedScore, Outcome, check_place, junit_xml
from benchmark.results.merge import join
from benchmark.results.run import Run, read_run
from benchmark.results.tolerances import check_tolerances, table_of, too_wide
from benchmark.store.files import write_atomically, writing
from benchmark.store.names import shown_text

if TYPE_CHECKING:
    import pandas as pd


def check_runs(
    runs: Sequence[Path],
    path: Path,
    *,
    update: bool = False,
    force: bool = False,
    junit: Path | None = None,
    protocol: str = "",
) -> int:
    """Print how `runs` compare with the baseline at `path`; with `update`, make it from them.

    `force`: also one whose tolerances let too much pass. `protocol`: a label that the runs have,
    else the baseline's, or the only one. Returns the exit code: 1 if a score is worse by more than
    its tolerance, else 0. Raises UserError, and writes nothing, if the runs are incomplete, do not
    compare with the baseline, or make none that can fail.
    """
    if junit:
        check_place(junit)
        with writing(junit):  # an earlier verdict is none of what is refused now
            junit.unlink(missing_ok=True)
    baseline = read_baseline(path) if path.exists() or not update else None
    run = load_runs(runs, protocol, known=baseline.task.protocol if baseline else "")
    if update:
        _update(run, path, baseline, force=force)
        return 0
    assert baseline is not None
    checks, notes = check_scores(run, baseline, path)
    if junit:
        write_atomically(junit, junit_xml(checks, notes, path))
    outcomes = [check.outcome for check in checks]
    for check in checks:
        if check.outcome is not Outcome.WITHIN:
            print(shown_text(f"{check.outcome:<10}  {check}"))
    for note in notes:
        print(shown_text(f"note        {note}"))
    failed, better = (outcomes.count(one) for one in (Outcome.REGRESSION, Outcome.BETTER))
    word = "FAILED" if failed else "passed"
    print(
        f"{word}: {len(checks)} scores against {path}: {failed} worse beyond tolerance, "
        f"{better} better, {len(checks) - failed - better} within it"
    )
    return 1 if failed else 0


def load_runs(directories: Sequence[Path], protocol: str = "", *, known: str = "") -> Run:
    """The finished runs as one, under `protocol`, else under `known`, else under their only one.

    Raises UserError if a job is missing or not scored under it, or if the runs do not compare.
    """
    runs = [read_run(directory) for directory in directories]
    run = join(runs, directories[0], partial=True)
    label = _chosen(run, protocol, known)
    for part in runs:
        if label not in part.plan.protocols:
            raise UserError(
                f"{part.directory} has no scores under {label}: score it too, or leave it out"
            )
        check_finished(part.under(label))
    run = run.under(label)
    if lacking := lacking_of(run):
        raise UserError(f"the grid is incomplete: {some(lacking)}; run what is missing")
    return run


def _chosen(run: Run, protocol: str, known: str) -> str:
    """The label of the protocol whose scores are meant."""
    planned = run.plan.protocols
    wanted = protocol or (known if known in planned else "")
    if wanted in planned:
        return wanted
    if wanted or len(planned) > 1:
        raise UserError(
            f"{_places(run)} has scores under {', '.join(planned)}"
            + (f", none under {wanted}" if wanted else "")
            + ": choose one of these with --protocol"
        )
    return planned[0]


def check_scores(run: Run, baseline: Baseline, path: Path) -> tuple[list[GatedScore], list[str]]:
    """A check for each of the baseline's scores, and what else is worth knowing.

    `run` is under one protocol. Raises UserError naming what differs if their bases do.
    """
    tables = means_by_seed(run.scores)
    basis = basis_of(run)
    _check_basis(run, basis, baseline, path)
    absent = [
        f"{method} / {metric}"
        for method, entry in baseline.methods.items()
        for metric in entry.scores
        if (method, metric) not in tables
    ]
    if absent:
        raise UserError(
            f"{_places(run)} lacks {some(absent)}, which {path} has: run those methods too, or "
            "regenerate the baseline with --update"
        )
    _check_subjects(run, tables, baseline, path)
    seeds = len(run_seeds(run))
    checks = [
        _judged(
            baseline,
            method,
            metric,
            after=float(tables[method, metric].to_numpy().mean()),
            seeds=seeds,
        )
        for method, entry in baseline.methods.items()
        for metric in entry.scores
    ]
    known = {(check.method, check.metric) for check in checks}
    gated = {key for key in tables if key[1] in basis.metrics}
    new = sorted(f"{method} / {metric}" for method, metric in gated - known)
    return checks, _notes(run, baseline, new)


def _judged(
    baseline: Baseline, method: str, metric: str, *, after: float, seeds: int
) -> GatedScore:
    entry = baseline.methods[method]
    before = entry.scores[metric].mean
    tolerance = baseline.allowed(method, metric, seeds=seeds)
    gain = after - before
    if baseline.task.metrics[metric].better == "lower":
        gain = -gain
    outcome = Outcome.WITHIN
    if abs(gain) > tolerance:
        two_sided = baseline.two_sided(method)
        outcome = Outcome.REGRESSION if gain < 0 or two_sided else Outcome.BETTER
    return GatedScore(method, entry.role, metric, before, after, tolerance, outcome)


def _check_basis(run: Run, basis: Basis, baseline: Baseline, path: Path) -> None:
    found = basis.model_dump()
    # A metric that the baseline does not know yet is no obstacle.
    known = baseline.task.metrics
    found["metrics"] = {name: entry for name, entry in found["metrics"].items() if name in known}
    differing = [
        f"{key} ({_short(before)} in the baseline, {_short(after)} in the run)"
        for key, before, after in changes(baseline.task.model_dump(), found)
    ]
    if differing:
        raise UserError(
            f"{_places(run)} does not compare with {path}; they differ in {some(differing)}: run "
            "what the baseline was made of, or regenerate it with --update"
        )


def _check_subjects(
    run: Run, tables: dict[tuple[str, str], pd.DataFrame], baseline: Baseline, path: Path
) -> None:
    """Refuse a mean over other subjects: one that lost its hardest subject would look better."""
    for method, entry in baseline.methods.items():
        for metric, cell in entry.scores.items():
            now = subjects_without(tables[method, metric], baseline.task)
            if now != (before := cell.without or []):
                raise UserError(
                    f"{_places(run)} does not compare with {path} in {method} / {metric}: subjects "
                    f"without a score are {', '.join(now) or 'none'} in the run, and "
                    f"{', '.join(before) or 'none'} in the baseline: see why in the run's report, "
                    "or regenerate the baseline with --update"
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
    notes = [f"{key}: {_short(a)} before, {_short(b)} now" for key, a, b in changes(before, after)]
    machines = {
        "device": (baseline.measured.devices, provenance_of(run, "device")),
        "precision": (baseline.measured.precisions, precisions_of(run)),
    }
    for what, (measured, now) in machines.items():
        if not set(now) <= set(measured):
            notes.append(f"{what}: {', '.join(measured)} before, {', '.join(now)} now")
    if wide := too_wide(baseline):
        notes.append(f"of no use, since half of it could be lost unnoticed: {some(wide)}")
    for row in unscored_counts(run).itertuples():
        notes.append(f"without a score: {row.images} of {row.method} / {row.metric}: {row.reason}")
    if new:
        notes.append(f"not in the baseline, so not checked: {some(list(new))}")
    return notes


def _update(run: Run, path: Path, before: Baseline | None, *, force: bool) -> None:
    """Write the baseline that `run` makes to `path`, and print what differs from the old one."""
    after = measure_baseline(run)
    print(table_of(after), flush=True)
    if not force:
        check_tolerances(after)
    write_atomically(path, after.dump_toml())
    if before is None:
        print(f"made {path}: {sum(len(entry.scores) for entry in after.methods.values())} scores")
        return
    old, new = before.model_dump(), after.model_dump()
    changed = 0
    for key, a, b in changes(old, new):
        changed += 1
        print(f"{key}: {_short(a)} -> {_short(b)}")
    print(f"rewrote {path}: {changed} values differ" if changed else f"{path} stays as it was")


def _places(run: Run) -> str:
    return ", ".join(str(part.directory) for part in run.origins)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
