"""What came out of a study: the paper's Table 2, agreement among people, and that of each metric.

print(write_results(Path("study")))     # the path of study/results.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field

from benchmark.data.manifest import Table
from benchmark.people.agreement import Agreement, Figure, agreements
from benchmark.people.preferences import Preference, Share, alpha, attentive, ballots, preferences
from benchmark.people.records import QUESTIONS, Question, Study, read_study, read_votes
from benchmark.report.markdown import escape
from benchmark.report.table_formats import Column, Mean, ReportTable, TableRow, csv_text, markdown
from benchmark.store.files import toml_of, write_atomically

RESULTS = "results.md"
_HERE = "here"
_ASKED = {"subject": "subject fidelity", "prompt": "prompt fidelity"}


class _Preference(Table):
    source: str
    first: str
    other: str
    #: the shares that prefer the first and the other, and of those who cannot tell
    subject: Annotated[list[float], Field(min_length=3, max_length=3)]
    prompt: Annotated[list[float], Field(min_length=3, max_length=3)]


class _Agreement(Table):
    source: str
    metric: str
    question: Question
    pearson: float | None = None
    auc: float | None = None


class Published(Table):
    """What others print of their studies."""

    preference: list[_Preference] = Field(min_length=1)
    agreement: list[_Agreement] = Field(min_length=1)


def published() -> Published:
    """The rows that ship."""
    text = (files("benchmark.people") / "published.toml").read_text("utf-8")
    return Published.model_validate(toml_of(text))


def write_results(folder: Path) -> Path:
    """Write results.md, preferences.csv and agreement.csv beside the votes in `folder`.

    Raises UserError as `read_study` and `read_votes` do.
    """
    study = read_study(folder)
    votes = read_votes(study, folder)
    passed, failed = attentive(study, votes)
    cast = ballots(study, passed)
    shares, told = preferences(study, cast), agreements(study, cast)
    tables = [_preference_table(shares), _agreement_table(study, told)]
    text = "\n".join(
        [
            f"# What people prefer: {escape(' against '.join(study.methods))}\n",
            _who(study, len(passed), len(failed)),
            "## Preference\n",
            markdown(tables[0]),
            "Shares of answers, with 95 % intervals that resample people and subjects at once; a "
            "lead is the first method's share less the other's. Other sources asked of other "
            "models' images.\n",
            "## Agreement among people\n",
            *(f"{_ASKED[q]}: {_alpha(alpha(cast, q))}\n" for q in QUESTIONS),
            "Krippendorff's alpha, nominal: 1 if all agree, 0 as by chance.\n",
            "## Agreement of metrics with people\n",
            markdown(tables[1]) if told else "The pictures had no scores.\n",
            "Accuracy: of pairs with a majority, where the metric prefers the same; a tie is a "
            "half. Pearson: between the scores' difference and the share of answers for a picture "
            "less that against it. AUC: how well the scores' difference tells the majority's "
            "choice. Intervals resample subjects. Other sources asked of other images.\n",
        ]
    )
    for table in tables:
        write_atomically(folder / f"{table.name}.csv", csv_text(table))
    write_atomically(folder / RESULTS, text)
    return folder / RESULTS


def _who(study: Study, passed: int, failed: int) -> str:
    checks = len(study.checks)
    if not checks:
        told = "The page had no checks of attention: its subjects have one class noun."
    else:
        told = (
            f"{failed} more got one of {checks} checks of attention wrong, and are left out."
            if failed
            else f"All of them got the {checks} checks of attention right that they answered."
        )
    return f"{passed} people, {len(study.pairs)} pairs of {escape(', '.join(study.runs))}. {told}\n"


def _preference_table(rows: Sequence[Preference]) -> ReportTable:
    columns = (
        Column("question"),
        Column("first"),
        Column("other"),
        Column("prefers_first", "prefers first"),
        Column("prefers_other", "prefers other"),
        Column("undecided"),
        Column("lead"),
        Column("answers"),
        Column("people"),
        Column("subjects"),
        Column("source"),
    )
    found = [
        TableRow(
            (
                _ASKED[row.question],
                row.first,
                row.other,
                _mean(row.shares[row.first]),
                _mean(row.shares[row.other]),
                _mean(row.shares[None]),
                _mean(row.lead),
                row.answers,
                row.people,
                row.subjects,
                _HERE,
            )
        )
        for row in rows
    ]
    for one in published().preference:
        for question in QUESTIONS:
            first, other, undecided = getattr(one, question)
            cells = (first, other, undecided, round(first - other, 6))
            found.append(
                TableRow(
                    (
                        _ASKED[question],
                        one.first,
                        one.other,
                        *(Mean(cell) for cell in cells),
                        None,
                        None,
                        None,
                        one.source,
                    )
                )
            )
    return ReportTable("preferences", "What people prefer", columns, tuple(found))


def _agreement_table(study: Study, rows: Sequence[Agreement]) -> ReportTable:
    columns = (
        Column("question"),
        Column("metric"),
        Column("protocol"),
        Column("accuracy"),
        Column("pearson", "Pearson"),
        Column("auc", "AUC"),
        Column("pairs"),
        Column("source"),
    )
    found = [
        TableRow(
            (
                _ASKED[row.question],
                study.metrics[row.metric].label,
                study.metrics[row.metric].protocol,
                *(_mean(figure) for figure in (row.accuracy, row.pearson, row.auc)),
                row.pairs,
                _HERE,
            )
        )
        for row in rows
    ]
    found += [
        TableRow(
            (
                _ASKED[one.question],
                one.metric,
                None,
                None,
                None if one.pearson is None else Mean(one.pearson),
                None if one.auc is None else Mean(one.auc),
                None,
                one.source,
            )
        )
        for one in published().agreement
    ]
    return ReportTable("agreement", "How metrics agree with people", columns, tuple(found))


def _mean(share: Share | Figure) -> Mean | None:
    return None if math.isnan(share.value) else Mean(share.value, share.low, share.high)


def _alpha(value: float) -> str:
    return "not known: no pair has two answers" if math.isnan(value) else f"{value:.2f}"
