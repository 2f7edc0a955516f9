"""Scores as they were written: the rows of a scores.csv, typed once, and what decided them.

path = Path("runs/pocket-1a2b3c4d/scores.csv")
scores, unscored = read_scores(path.read_bytes(), str(path))
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.store.contents import Contents
from benchmark.store.directory import HEADER, KEPT_SCORES, Name, scores_path
from benchmark.store.files import sha256
from benchmark.store.records import SCORE_COLUMNS, Job, ScoreRecord, Scoring
from benchmark.store.wording import AGAIN

if TYPE_CHECKING:
    from pandas import DataFrame

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
NO_ROWS = sha256(HEADER.encode())  #: `ScoreRecord.rows` where no metric applies to the images


def read_scores(text: bytes, where: str) -> tuple[DataFrame, DataFrame]:
    """The rows with a value (SCORE_COLUMNS), and those without one, whose `reason` says why.

    That of a row with a value says what befell its image. `text`: that of a scores.csv. Texts are
    categories, `sample` and `seed` int64, `value` float64. Raises UserError naming `where` if there
    are none, or one is no score or is there twice.
    """
    import numpy as np
    import pandas as pd

    try:
        # No text means "missing": a prompt may be empty, and a subject may be called "null".
        rows = pd.read_csv(io.BytesIO(text), dtype=str, keep_default_na=False, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    missing = [column for column in SCORE_COLUMNS if column not in rows.columns]
    if missing:
        raise UserError(f"{where} has no column {', '.join(missing)}")
    if rows.empty:
        raise UserError(f"{where} has no scores: no job has finished; {AGAIN}")
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in (*_NUMBERS, "value")}
    without = (rows["value"] == "") & (rows["reason"] != "")
    bad = ~without & ~np.isfinite(numbers["value"].astype(float))
    for name in _NUMBERS:
        bad |= ~rows[name].str.fullmatch("[0-9]{1,19}")
    for row in np.flatnonzero(bad)[:1]:
        raise UserError(f"{where} line {row + 2}: '{rows['value'].iloc[row]}' is no score")
    # Not categories from the start: pandas would read "007" as 7.
    typed = rows[list(SCORE_COLUMNS)].assign(
        value=numbers["value"].astype(float),
        **{name: numbers[name].astype("int64") for name in _NUMBERS},
    )
    typed = typed.astype(dict.fromkeys(CATEGORIES, "category"))
    _check_once(typed, where)
    if without.all():
        raise UserError(f"{where}: no image has a score: {rows['reason'].iloc[0]}")
    return typed[~without], typed[without]


def _check_once(rows: DataFrame, where: str) -> None:
    """Raise UserError naming the first of `rows` that is there again: it would weigh twice."""
    for row in rows[rows.duplicated(SCORED)][:1].itertuples():
        raise UserError(
            f"{where}: {row.metric} under {row.protocol} of {row.method}, {row.subject}, seed "
            f"{row.seed}, '{row.prompt or row.prompt_kind}', sample {row.sample} is there twice, "
            "and a score counts once: have it written anew by whoever wrote it"
        )


def usable_rows(contents: Contents) -> dict[tuple[str, Name], bytes]:
    """(protocol, job) -> its rows, without those that were altered so that they are no scores."""
    found = {}
    for key, rows in contents.rows.items():
        file = KEPT_SCORES if contents.kept else f"{scores_path(*key)}.csv"
        if not contents.is_altered(file) or _are_scores(rows, *key):
            found[key] = rows
    return found


def _are_scores(rows: bytes, label: str, name: Name) -> bool:
    """Whether `rows` can be read, and are all of one job under one protocol."""
    try:
        scores, unscored = read_scores(HEADER.encode() + rows, "")
    except UserError:
        return False
    whose = {
        key
        for part in (scores, unscored)
        for key in part[["protocol", "method", "subject", "seed"]].itertuples(index=False)
    }
    return whose == {(label, *name)}


def scores_of(
    contents: Contents, scored: Mapping[tuple[str, Name], ScoreRecord]
) -> tuple[DataFrame, DataFrame]:
    """The rows of `scored`, in its order, as `read_scores` has them. Raises UserError.

    But for metrics that lack scores of a job's later images.
    """
    root = contents.directory.path
    if not contents.scores:
        raise UserError(f"{root} has no finished job to report: run it first")
    text = b"".join(contents.rows[key] for key in scored if key in contents.rows)
    if not text:
        raise UserError(
            f"{root} has no scores of the images that it holds: python -m benchmark score {root}"
        )
    tables = read_scores(HEADER.encode() + text, f"the scores of {root}")
    partial = [(key, metric) for key, record in scored.items() for metric in record.partial]
    scores, unscored = (_without(rows, partial) for rows in tables)
    return scores, unscored


def _without(rows: DataFrame, partial: Iterable[tuple[tuple[str, Name], str]]) -> DataFrame:
    """`rows` but for those of `partial`: protocol and job, and a metric."""
    import numpy as np

    gone = np.zeros(len(rows), bool)
    for (label, (method, subject, seed)), metric in partial:
        own = (rows["protocol"] == label) & (rows["method"] == method)
        own &= (rows["subject"] == subject) & (rows["seed"] == seed)
        gone |= own & (rows["metric"] == metric)
    return rows[~gone]


def only(rows: DataFrame, jobs: Iterable[Job]) -> DataFrame:
    """`rows` of the images that `jobs` ask for."""
    import pandas as pd

    asked = {
        (*job.name, request.prompt.template, request.prompt.kind, request.index)
        for job in jobs
        for request in job.requests
    }
    columns = ["method", "subject", "seed", "prompt", "prompt_kind", "sample"]
    return rows[pd.MultiIndex.from_frame(rows[columns].astype(object)).isin(asked)]


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


def scores_csv(scores: DataFrame, unscored: DataFrame) -> str:
    """Both as the text of a scores.csv, as runs write it, in the order that they were read in."""
    import pandas as pd

    rows = pd.concat([scores, unscored]).sort_index()
    return rows.to_csv(index=False, float_format="%.6f", na_rep="", lineterminator="\n")
