"""Several runs as one: other seeds, methods, subjects or machines, of one protocol.

    run = join([read_run(Path("runs/seed-0")), read_run(Path("runs/seed-1"))], Path("both"))

Nothing is averaged that was not measured alike: what has to agree is checked, and named.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import REAL, UserError
from benchmark.data.manifest import some
from benchmark.results.run import Run, in_order, missing_jobs, unfinished
from benchmark.results.statistics import sort_methods, sort_metrics
from benchmark.store.records import ELSEWHERE, SCORE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

SOURCES = "sources.toml"
_WRITER = "python -m benchmark report"
#: What a score is a score of, in the order of the rows.
_SCORED = ["method", "subject", "seed", "prompt_kind", "prompt", "sample", "metric"]


def check_folder(directory: Path) -> None:
    """Raise UserError unless `directory` is new, empty, or holds a report of several runs."""
    try:
        if not directory.exists() or not any(directory.iterdir()):
            return
        text = (directory / SOURCES).read_text("utf-8")
        written = tomllib.loads(text).get("written_by") == _WRITER
    except FileNotFoundError:
        written = False
    except (tomllib.TOMLDecodeError, UnicodeError):
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
    parts = tuple({run.directory.resolve(): run for run in sorted(runs, key=_place)}.values())
    _check_alike(parts)
    scores = _joined_scores(parts)
    records = {
        (job["method"], job["subject"], str(job["seed"])): record
        for part in reversed(parts)
        for record in part.records
        if (job := record["job"])
    }
    suite = {
        key: ", ".join(dict.fromkeys(part.suite[key] for part in parts if key in part.suite))
        for key in ("name", "description")
    }
    run = Run(directory, suite, scores, in_order(records, scores), parts)
    if not partial:
        check_complete(run)
    return run


def _place(run: Run) -> tuple[str, str]:
    return run.directory.resolve().name, str(run.directory)


def run_names(runs: Sequence[Run]) -> list[str]:
    """The runs' folder names, or where these are not enough, their paths as given."""
    names = [run.directory.resolve().name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.directory)
        for name, run in zip(names, runs, strict=True)
    ]


def _check_alike(runs: Sequence[Run]) -> None:
    seen: dict[str, tuple[str, Path]] = {}
    for run in runs:
        of_records = (pair for record in run.records for pair in _must_agree(record))
        for what, value in (*of_records, *_declared(run)):
            text = json.dumps(value, sort_keys=True)
            known, where = seen.setdefault(what, (text, run.directory))
            if known != text:
                raise UserError(
                    f"{where} and {run.directory} differ in {what}: {known} and {text}; "
                    "report them apart"
                )


def _declared(run: Run) -> Iterator[tuple[str, Any]]:
    """What the run's own copy of its protocol says beyond its label: name, and value."""
    protocol = run.suite.get("protocol")
    if isinstance(protocol, dict):
        for rule in ("references", "reference", "caption", "aggregation", "metrics"):
            yield f"the protocol's {rule}", protocol.get(rule, {})


def _must_agree(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What scores are of: name, and value."""
    job = record["job"]
    yield "the protocol", job["protocol"]
    for name, encoder in job["encoders"].items():
        yield f"the encoder {name}", encoder
    for name, version in record["provenance"].get("metrics", {}).items():
        yield f"the version of the metric {name}", version
    yield f"the class noun of the subject {job['subject']}", job["class_noun"]
    yield f"the images of the subject {job['subject']}", job["images_digest"]
    yield f"the version of the method {job['method']}", job["method_version"]
    if job["method_version"] == ELSEWHERE:
        return
    yield f"the settings of the method {job['method']}", sorted(job["settings"])
    for name, value in job["settings"].items():
        yield f"the setting {name} of the method {job['method']}", value


def _joined_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """All rows, each score once, in the tables' order."""
    import numpy as np
    import pandas as pd
    from pandas.api.types import union_categoricals

    orders = {
        "method": sort_methods,
        "metric": sort_metrics,
        "seed": lambda texts: sorted(texts, key=int),
        "sample": lambda texts: sorted(texts, key=int),
    }
    columns: dict[str, Any] = {}
    for name in (*SCORE_COLUMNS,):
        if name == "value":
            columns[name] = np.concatenate([run.scores[name] for run in runs])
            continue
        texts = union_categoricals([run.scores[name] for run in runs])
        order = orders.get(name, sorted)
        columns[name] = texts.set_categories(order(texts.categories))
    rows = pd.DataFrame(columns)
    sources = np.repeat(np.arange(len(runs)), [len(run.scores) for run in runs])
    again = rows.duplicated(_SCORED, keep=False)
    _check_same_values(rows[again].assign(source=sources[again]), runs)
    return rows.drop_duplicates(_SCORED).sort_values(_SCORED, ignore_index=True)


def _check_same_values(rows: pd.DataFrame, runs: Sequence[Run]) -> None:
    """Raise UserError naming the first of `rows`, each there twice, that has two values."""
    if rows.empty:
        return
    values = rows.groupby(_SCORED, observed=True)["value"].agg(["min", "max"])
    unlike = values[values["min"] != values["max"]]
    if unlike.empty:
        return
    score = dict(zip(_SCORED, unlike.index[0], strict=True))
    same = (rows[list(score)] == list(score.values())).all(axis="columns")
    found = "; ".join(
        f"{row.value:g} in {runs[row.source].directory}" for row in rows[same].itertuples()
    )
    raise UserError(
        f"one score has several values: {score['metric']} of {score['method']}, "
        f"{score['subject']}, seed {score['seed']}, prompt '{score['prompt']}', sample "
        f"{score['sample']}: {found}; leave one of the runs out"
    )


def check_complete(run: Run) -> None:
    """Raise UserError naming what is missing of `run`'s grid."""
    lacking = [f"{m} lacks {', '.join(what)}" for m, what in missing_jobs(run.scores).items()]
    uneven = uneven_prompts(run)
    if uneven:
        lacking.append(f"not every method drew the same prompts of {', '.join(uneven)}")
    if not lacking and (missing := unfinished(run)):
        lacking.append(f"not finished: {some(missing)}")
    if lacking:
        raise UserError(
            f"the grid is incomplete: {'; '.join(lacking)}; run what is missing, or report what "
            "there is with --partial"
        )


def uneven_prompts(run: Run) -> list[str]:
    """The subjects whose jobs asked for different prompts, or numbers of images of them."""
    kinds = run.scores[["method", "prompt_kind"]].drop_duplicates()
    unprompted = set(kinds.loc[kinds["prompt_kind"] == REAL, "method"])
    asked: dict[str, set[str]] = {}
    for job in (record["job"] for record in run.records):
        if job["method"] not in unprompted:
            wanted = (job["prompts"], job["images_per_prompt"], job["prior_prompt_images"])
            asked.setdefault(job["subject"], set()).add(json.dumps(wanted, sort_keys=True))
    return sorted(subject for subject, wanted in asked.items() if len(wanted) > 1)


def scores_csv(scores: pd.DataFrame) -> str:
    """`scores` as the text of a scores.csv, as runs write it."""
    return scores.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def sources_toml(run: Run) -> str:
    """Which runs a report was made from; also the mark by which it knows its own folder."""
    import tomli_w

    entries = [
        {
            "name": name,
            "protocol": sorted(part.scores["protocol"].unique()),
            "commit": sorted({str(r["provenance"].get("commit")) for r in part.records}),
            "methods": part.methods,
            "seeds": sorted(int(seed) for seed in part.scores["seed"].unique()),
            "jobs": len(part.records),
        }
        for name, part in zip(run_names(run.parts), run.parts, strict=True)
    ]
    return tomli_w.dumps({"written_by": _WRITER, "run": entries})
