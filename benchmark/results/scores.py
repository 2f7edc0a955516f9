"""Scores as they were written: the rows of a scores.csv, typed once, and what decided them.

scores, unscored = read_scores(Path("runs/pocket-1a2b3c4d/scores.csv"))
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.store.directory import HEADER, Name
from benchmark.store.files import check_regular, sha256
from benchmark.store.records import SCORE_COLUMNS, Job, ScoreRecord, Scoring

if TYPE_CHECKING:
    import pandas as pd

#: What a row is of.
SCORED = (
    "protocol",
    "method",
    "subject",
    "seed",
    "prompt_kind",
    "prompt",
    "sample",
    "metric",
)
_NUMBERS = ("sample", "seed")
#: Columns of few different texts: categories in memory.
CATEGORIES = tuple(name for name in SCORE_COLUMNS if name not in (*_NUMBERS, "value"))
_NO_ROWS = sha256(HEADER.encode())  #: `ScoreRecord.rows` where no metric applies to the images


def read_scores(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with a value (SCORE_COLUMNS), and those without one, whose `reason` says why.

    Texts are categories, `sample` and `seed` int64, `value` float64. Raises UserError if there
    are none, or one is no score.
    """
    import numpy as np
    import pandas as pd

    try:
        check_regular(path)
        # No text means "missing": a prompt may be empty, and a subject may be called "null".
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {path.parent} a run directory?") from None
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    missing = [column for column in SCORE_COLUMNS if column not in rows.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}")
    if rows.empty:
        raise UserError(f"{path} has no scores: no job has finished; run the same command again")
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in (*_NUMBERS, "value")}
    without = (rows["value"] == "") & (rows["reason"] != "")
    bad = ~without & (~np.isfinite(numbers["value"].astype(float)) | (rows["reason"] != ""))
    for name in _NUMBERS:
        bad |= ~rows[name].str.fullmatch("[0-9]{1,19}")
    for row in np.flatnonzero(bad)[:1]:
        raise UserError(f"{path} line {row + 2}: '{rows['value'].iloc[row]}' is no score")
    # Not categories from the start: pandas would read "007" as 7.
    typed = rows[list(SCORE_COLUMNS)].assign(
        value=numbers["value"].astype(float),
        **{name: numbers[name].astype("int64") for name in _NUMBERS},
    )
    typed = typed.astype(dict.fromkeys(CATEGORIES, "category"))
    if without.all():
        raise UserError(f"{path}: no image has a score: {rows['reason'].iloc[0]}")
    return typed[~without], typed[without]


def check_rows(
    path: Path, scored: Mapping[tuple[str, Name], ScoreRecord], jobs: Collection[Name]
) -> None:
    """Raise UserError unless the scores.csv at `path`, which can be read, is what records say.

    `scored`: (protocol, job) -> the record of its scores. `jobs`: those that have a record.
    """
    rows = _digests(path)
    for label, name in sorted({*rows, *scored}):
        record = scored.get((label, name))
        what = f"{' / '.join(map(str, name))} under {label}"
        mend = f"score the run again: python -m benchmark score {path.parent}"
        if name not in jobs:
            problem, mend = f"has scores of {what}, a job without a record", "run it again"
        elif record is None:
            problem = f"has scores of {what}, and there is no record of them"
        elif record.rows == rows.get((label, name), _NO_ROWS):
            continue
        elif (label, name) in rows:
            problem = f"does not have the scores of {what} as they were written"
        else:
            problem = f"lacks the scores of {what}"
        raise UserError(f"{path} {problem}: {mend}")


def without(
    rows: pd.DataFrame,
    stale: Collection[tuple[str, Name]],
    scored: Mapping[tuple[str, Name], ScoreRecord],
) -> pd.DataFrame:
    """`rows` but for those of `stale` jobs, and of metrics that lack a job's later images."""
    import numpy as np

    gone = np.zeros(len(rows), bool)
    partial = {(key, metric) for key, record in scored.items() for metric in record.partial}
    for key, metric in [*((key, "") for key in sorted(stale)), *sorted(partial)]:
        label, (method, subject, seed) = key
        own = (rows["protocol"] == label) & (rows["method"] == method)
        own &= (rows["subject"] == subject) & (rows["seed"] == seed)
        gone |= (own & (rows["metric"] == metric)) if metric else own
    return rows[~gone]


def only(rows: pd.DataFrame, jobs: Iterable[Job]) -> pd.DataFrame:
    """`rows` of the images that `jobs` ask for."""
    import pandas as pd

    asked = {
        (*job.name, request.prompt.template, request.prompt.kind, request.index)
        for job in jobs
        for request in job.requests
    }
    columns = ["method", "subject", "seed", "prompt", "prompt_kind", "sample"]
    return rows[pd.MultiIndex.from_frame(rows[columns].astype(object)).isin(asked)]


def _digests(path: Path) -> dict[tuple[str, Name], str]:
    """(protocol, job) -> the SHA-256 of its rows in a scores.csv, as `ScoreRecord.rows` has it."""
    texts: dict[tuple[str, Name], io.StringIO] = defaultdict(io.StringIO)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader)
        label, method, subject, seed = map(header.index, ("protocol", "method", "subject", "seed"))
        for row in reader:
            text = texts[row[label], (row[method], row[subject], int(row[seed]))]
            csv.writer(text, lineterminator="\n").writerow(row)
    return {job: sha256((HEADER + text.getvalue()).encode()) for job, text in texts.items()}


def union_of_scorings(records: Iterable[ScoreRecord]) -> dict[str, Scoring]:
    """protocol -> its encoders and metrics, all that any job was scored by.

    Raises UserError naming two jobs that were not scored alike.
    """
    found: dict[str, Scoring] = {}
    first: dict[tuple[str, str], ScoreRecord] = {}
    for record in records:
        own = record.scoring
        for metric in own.metrics:
            other = first.setdefault((own.protocol, metric), record)
            if other.scoring != own and other.scoring.key(metric) != own.key(metric):
                raise UserError(
                    f"{' / '.join(map(str, other.name))} and {' / '.join(map(str, record.name))} "
                    f"were scored in other ways by {metric} under {own.protocol}: score them again"
                )
        known = found.setdefault(own.protocol, own)
        if not own.metrics.keys() <= known.metrics.keys():
            found[own.protocol] = replace(
                known, encoders=known.encoders | own.encoders, metrics=known.metrics | own.metrics
            )
    return found


def scores_csv(scores: pd.DataFrame, unscored: pd.DataFrame) -> str:
    """Both as the text of a scores.csv, as runs write it, in the order that they were read in."""
    import pandas as pd

    rows = pd.concat([scores, unscored]).sort_index()
    return rows.to_csv(index=False, float_format="%.6f", na_rep="", lineterminator="\n")
