"""Several runs as one: other seeds, methods, subjects or machines, scored alike.

    run = join([read_run(Path("runs/seed-0")), read_run(Path("runs/seed-1"))], Path("both"))

What has to agree for scores to compare is checked, and named where it differs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.results.completeness import check_complete
from benchmark.results.run import Run, in_order
from benchmark.results.scores import CATEGORIES, SCORED, union_of_scorings
from benchmark.store.directory import Plan
from benchmark.store.files import read_bytes, resolved, toml_of
from benchmark.store.records import SCORE_COLUMNS, JobRecord, PriorRecord, Scoring

if TYPE_CHECKING:
    import pandas as pd

SOURCES = "sources.toml"
_WRITER = "python -m benchmark report"


def check_folder(directory: Path) -> None:
    """Raise UserError unless `directory` is new, empty, or holds a report of several runs."""
    try:
        if not directory.exists() or not any(directory.iterdir()):
            return
        sources = toml_of(read_bytes(directory / SOURCES))
        written = sources.get("written_by") == _WRITER
    except (FileNotFoundError, ValueError):
        written = False
    except OSError as error:
        raise UserError(f"cannot use {directory} as --out: {error.strerror}") from error
    if not written:
        raise UserError(
            f"{directory} is not empty and holds no report of several runs (no {SOURCES} of "
            "ours); nothing was written: choose another --out"
        )


def join(runs: Sequence[Run], directory: Path, *, partial: bool = False) -> Run:
    """`runs` as one, whose report is to go to `directory`; their order does not matter.

    Raises UserError if they differ in what makes scores comparable, if one score has two values,
    or if, without `partial`, a method lacks what others have.
    """
    parts = tuple({resolved(run.directory): run for run in sorted(runs, key=_place)}.values())
    _check_alike(parts)
    jobs = {record.job.name: record for part in reversed(parts) for record in part.records}
    scored = {(r.scoring.protocol, r.name): r for part in reversed(parts) for r in part.scored}
    asked = {job.name: job for part in reversed(parts) for job in part.plan.jobs}
    order = dict.fromkeys(job.name for part in parts for job in part.plan.jobs)
    labels = tuple(dict.fromkeys(label for part in parts for label in part.protocols))
    planned = tuple(dict.fromkeys(label for part in parts for label in part.plan.protocols))
    plan = Plan(tuple(asked[name] for name in order), planned, {})
    records = in_order(jobs.values(), [part.suite for part in parts], plan)
    scorings = union_of_scorings(scored.values())
    methods = list(dict.fromkeys(record.job.method for record in records))
    metrics = list(dict.fromkeys(name for label in labels for name in scorings[label].metrics))
    orders = {"protocol": list(labels), "method": methods, "metric": metrics}
    rows = _joined_rows(parts, orders)
    without = rows["value"].isna()
    run = Run(
        directory=directory,
        suite={
            key: ", ".join(dict.fromkeys(part.suite[key] for part in parts if key in part.suite))
            for key in ("name", "description")
        },
        plan=plan,
        declarations={k: v for part in parts for k, v in part.declarations.items()},
        scores=rows[~without],
        unscored=rows[without],
        records=records,
        drawn=tuple(record for part in parts for record in part.drawn),
        scored=tuple(scored[key] for key in sorted(scored)),
        priors=_priors(parts),
        scorings={label: scorings[label] for label in labels},
        answers={key: answer for part in parts for key, answer in part.answers.items()},
        agreements=tuple(one for part in parts for one in part.agreements),
        parts=parts,
    )
    if not partial:
        check_complete(run)
    return run


def _place(run: Run) -> tuple[str, str]:
    return resolved(run.directory).name, str(run.directory)


def run_names(runs: Sequence[Run]) -> list[str]:
    """The runs' folder names, or where these are not enough, their paths as given."""
    names = [resolved(run.directory).name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.directory)
        for name, run in zip(names, runs, strict=True)
    ]


def _check_alike(runs: Sequence[Run]) -> None:
    seen: dict[str, tuple[str, Path]] = {}
    for run in runs:
        of_scorings = (pair for s in run.scorings.values() for pair in of_scoring(s))
        of_jobs = (pair for record in run.records for pair in _of_job(record))
        for what, value in (*of_scorings, *of_jobs):
            text = json.dumps(value, sort_keys=True)
            known, where = seen.setdefault(what, (text, run.directory))
            if known != text:
                raise UserError(
                    f"{where} and {run.directory} differ in {what}: {known} and {text}; "
                    "report them apart"
                )


def of_scoring(scoring: Scoring, *, but: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """What decides what scores mean: name, and value; `but` for these fields of the metrics."""
    label = scoring.protocol
    yield f"the identifier in the captions of the protocol {label}", scoring.identifier
    for rule, value in scoring.declaration.items():
        yield f"the {rule} of the protocol {label}", value
    for name, encoder in scoring.encoders.items():
        yield f"the encoder {name} of the protocol {label}", encoder
    for name, metric in scoring.metrics.items():
        for key, value in asdict(metric).items():
            if key in but:
                continue
            yield f"the {key} of the metric {name} of the protocol {label}", value


def _of_job(record: JobRecord) -> Iterator[tuple[str, Any]]:
    """What scores are of: name, and value."""
    job = record.job
    yield f"the class noun of the subject {job.subject}", job.fit.class_noun
    yield f"the images of the subject {job.subject}", job.references_digest
    yield f"the role of the method {job.method}", job.role
    yield f"the version of the method {job.method}", job.fit.version
    if job.elsewhere:
        return
    yield f"the settings of the method {job.method}", sorted(job.fit.settings)
    for name, value in job.fit.settings.items():
        yield f"the setting {name} of the method {job.method}", value


def _priors(parts: Sequence[Run]) -> tuple[PriorRecord, ...]:
    """All of them, each once. Images that two runs drew have two records: both took time."""
    found: list[PriorRecord] = []
    for prior in (prior for part in parts for prior in part.priors):
        if prior not in found:
            found.append(prior)
    return tuple(found)


def _joined_rows(runs: Sequence[Run], orders: dict[str, list[str]]) -> pd.DataFrame:
    """All rows, each score once, in the tables' order; those without a value among them."""
    import numpy as np
    import pandas as pd
    from pandas.api.types import union_categoricals

    tables = [pd.concat([run.scores, run.unscored]) for run in runs]
    columns: dict[str, Any] = {}
    for name in SCORE_COLUMNS:
        if name in CATEGORIES:
            texts = union_categoricals([table[name] for table in tables])
            columns[name] = texts.set_categories(orders.get(name, sorted(texts.categories)))
        else:
            columns[name] = np.concatenate([table[name] for table in tables])
    rows = pd.DataFrame(columns)
    sources = np.repeat(np.arange(len(runs)), [len(table) for table in tables])
    again = rows.duplicated(SCORED, keep=False)
    _check_same_values(rows[again].assign(source=sources[again]), runs)
    return rows.drop_duplicates(SCORED).sort_values(list(SCORED), ignore_index=True)


def _check_same_values(rows: pd.DataFrame, runs: Sequence[Run]) -> None:
    """Raise UserError naming the first of `rows`, each there twice, that has two values."""
    if rows.empty:
        return
    aggregates = ["min", "max", "count", "size"]
    values = rows.groupby(list(SCORED), observed=True)["value"].agg(aggregates)
    some_have = (values["count"] > 0) & (values["count"] < values["size"])
    unlike = values[(values["min"] < values["max"]) | some_have]
    if unlike.empty:
        return
    score = dict(zip(SCORED, unlike.index[0], strict=True))
    same = (rows[list(score)] == list(score.values())).all(axis="columns")
    found = "; ".join(
        f"{row.reason or f'{row.value:g}'} in {runs[row.source].directory}"
        for row in rows[same].itertuples()
    )
    raise UserError(
        f"one score has several values: {score['metric']} of {score['method']}, "
        f"{score['subject']}, seed {score['seed']}, prompt '{score['prompt']}', sample "
        f"{score['sample']}: {found}; leave one of the runs out"
    )


def sources_toml(run: Run) -> str:
    """Which runs a report was made from. The file also marks the folder as a report of ours."""
    import tomli_w

    entries = [
        {
            "name": name,
            "protocols": list(part.protocols),
            "commit": sorted({str(r.provenance.get("commit")) for r in part.records}),
            "methods": part.methods,
            "seeds": sorted({record.job.seed for record in part.records}),
            "jobs": len(part.records),
        }
        for name, part in zip(run_names(run.parts), run.parts, strict=True)
    ]
    return tomli_w.dumps({"written_by": _WRITER, "run": entries})
