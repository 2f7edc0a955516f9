"""The tables of scores as data, for Markdown, CSV and LaTeX alike.

    for table in score_tables(run.under("pocket-1")):
        print(csv_text(table))

`run` is under one protocol throughout. A table's metrics are chosen by what they are about; tables
of ablations are declared (`benchmark.config.tables`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.api import ABOUT, PROMPT_KINDS
from benchmark.config.tables import AblationTable, declared_tables
from benchmark.report.markdown import heading, shown
from benchmark.report.table_formats import Column, Content, Mean, ReportTable, TableRow
from benchmark.results.claims import published
from benchmark.results.completeness import incomparable
from benchmark.results.run import Run
from benchmark.results.statistics import means_by_subject, summarise

if TYPE_CHECKING:
    import pandas as pd

FIDELITY = ("subject fidelity", "prompt fidelity")
_SUBJECTS = Column("subjects")


@dataclass(frozen=True)
class Topic:
    """What a table of all methods is about."""

    name: str
    title: str
    about: tuple[str, ...]
    beside: tuple[str, ...] = ()  #: the first metric about each of these is shown too
    note: str = ""


PRESERVATION = Topic(
    "preservation-and-diversity",
    "Prior preservation and diversity",
    ("prior preservation", "diversity"),
    note="Preservation: how much images of the prior prompt (`a [class noun]`) look like the "
    "subject, which is language drift. Diversity: how much images of one prompt differ.",
)
COPYING = Topic(
    "copying",
    "Copying",
    ("copying",),
    ("subject fidelity", "diversity"),
    note="How near images come to a single real image. Compare with the upper bound's row: a "
    "method that comes near it, with images of a prompt that are all alike (low diversity), "
    "repeats a real image. Metrics in which neither direction is better are no part of the gate.",
)


def paper_of(run: Run) -> dict[str, Any]:
    """What the paper published; no rows if the protocol rescales scores: those are raw cosines."""
    paper = published()
    if all(metric.factor == 1 for metric in run.scoring.metrics.values()):
        return paper
    return {key: [] if isinstance(rows, list) else rows for key, rows in paper.items()}


def noticed(run: Run) -> dict[str, float]:
    """metric -> the difference that the paper's authors call significant to users, as scored here.

    Of the metrics that look at whole images through the encoder that this was measured with.
    """
    paper = published()
    found = {}
    for name, limit in paper["user_significance"].items():
        metric = run.scoring.metrics.get(name)
        if metric is not None:
            tables = [run.scoring.encoders[encoder] for encoder in metric.encoders]
            seen = {(table.get("model"), "view" in table) for table in tables}
            if seen == {(paper["user_significance_model"][name], False)}:
                found[name] = limit * metric.factor
    return found


def ablations_of(run: Run) -> list[AblationTable]:
    """The declared tables of which `run` has two members, controls aside, and a metric."""
    return [
        table
        for table in declared_tables(part.suite for part in run.origins)
        if len(table.chosen(run.competitors)) > 1 and set(table.metrics) & set(run.metrics)
    ]


def score_tables(run: Run) -> list[ReportTable]:
    """All tables of scores that `run` has rows for, in the report's order."""
    tables = [
        comparison(run),
        about_table(run, PRESERVATION),
        *(ablation(run, table) for table in ablations_of(run)),
        about_table(run, COPYING),
        other_metrics(run),
        by_prompt_group(run),
        by_subject(run),
    ]
    return [table for table in tables if any(not row.published for row in table.rows)]


def comparison(run: Run) -> ReportTable:
    """Every method's fidelity, as the paper's Table 1, with its rows."""
    metrics = run.about(*FIDELITY)
    rows = _score_rows(run, run.summary, run.methods, metrics) if _scored(run, metrics) else []
    rows += _published(run, "fidelity", metrics)
    caption = "Subject and prompt fidelity: means over subjects and 95 % intervals"
    return ReportTable("comparison", caption, _columns(run, metrics), tuple(rows))


def about_table(run: Run, topic: Topic) -> ReportTable:
    """Every method in the metrics of a topic; no rows if there are none."""
    own = run.about(*topic.about)
    metrics = [*own, *(name for about in topic.beside for name in run.about(about)[:1])]
    methods = [method for method in run.methods if any((method, m) in run.means for m in own)]
    rows = _score_rows(run, run.summary, methods, metrics)
    return ReportTable(topic.name, topic.title, _columns(run, metrics), tuple(rows))


def other_metrics(run: Run) -> ReportTable:
    """The metrics that are about something else; no rows if there are none."""
    others = [name for name in run.metrics if run.metric(name).about not in ABOUT]
    rows = _score_rows(run, run.summary, run.methods, others) if _scored(run, others) else []
    return ReportTable("other-metrics", "Other metrics", _columns(run, others), tuple(rows))


def ablation(run: Run, table: AblationTable) -> ReportTable:
    """A declared table, with the paper's rows."""
    metrics = [name for name in table.metrics if name in run.metrics]
    settings = {record.job.method: record.job.fit.settings for record in run.records}
    rows = [
        TableRow(
            (row.cells[0], *(_setting(settings, row, key) for key in table.settings))
            + row.cells[1:]
        )
        for row in _score_rows(run, run.summary, table.chosen(run.methods), metrics)
    ]
    for row in _published(run, table.paper, metrics):
        none = (None,) * len(table.settings)
        rows.append(TableRow((row.cells[0], *none, *row.cells[1:]), published=True))
    columns = _columns(run, metrics)
    named = (columns[0], *map(Column, table.settings), *columns[1:])
    return ReportTable(table.name, table.title, named, tuple(rows))


def _setting(settings: dict[str, dict[str, Any]], row: TableRow, key: str) -> Content:
    value = settings[str(row.cells[0])].get(key)
    return None if value in (None, "") else str(value)


def by_prompt_group(run: Run) -> ReportTable:
    """Fidelity by kind of prompt, a row a method and kind, the methods of a kind together."""
    metrics = run.about(*FIDELITY)
    rows = []
    for kind in PROMPT_KINDS:
        scores = run.scores[run.scores["prompt_kind"] == kind]
        summary = summarise(scores, methods=run.methods, metrics=run.metrics)
        methods = [method for method in run.methods if method in set(summary["method"])]
        rows += [
            TableRow((kind, *row.cells)) for row in _score_rows(run, summary, methods, metrics)
        ]
    columns = (Column("prompts"), *_columns(run, metrics))
    return ReportTable("by-prompt-group", "By prompt group", columns, tuple(rows))


def by_subject(run: Run) -> ReportTable:
    """Fidelity by subject, a row a subject and method; means over the subject's images."""
    means = means_by_subject(run.scores)
    metrics = [metric for metric in run.about(*FIDELITY) if _scored(run, [metric])]
    rows = []
    for subject in sorted({record.job.subject for record in run.records}):
        for method in run.methods:
            values = [means.get((method, metric, subject)) for metric in metrics]
            if any(value is not None for value in values):
                rows.append(TableRow((subject, method, *values)))
    columns = (Column("subject"), Column("method"), *_columns(run, metrics)[1:-1])
    return ReportTable("by-subject", "By subject", columns, tuple(rows))


def best(run: Run, summary: pd.DataFrame, methods: Sequence[str], metric: str) -> set[str]:
    """The best mean of `methods` in `metric` as it is shown; empty if fewer than two compete."""
    rivals = [method for method in methods if method in run.competitors]
    rows = (summary["metric"] == metric) & summary["method"].isin(rivals)
    means = summary.loc[rows, "mean"].tolist()
    higher = run.metric(metric).higher_is_better
    if len(means) < 2 or higher is None:
        return set()
    return {shown(max(means) if higher else min(means))}


def _scored(run: Run, metrics: Sequence[str]) -> bool:
    return any(metric in metrics for _, metric in run.means)


def _columns(run: Run, metrics: Sequence[str]) -> tuple[Column, ...]:
    scored = (Column(metric, heading(run.metric(metric)), 3) for metric in metrics)
    return (Column("method"), *scored, _SUBJECTS)


def _score_rows(
    run: Run, summary: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str]
) -> list[TableRow]:
    """A row a method: a mean for each metric, and over how many subjects."""
    found: dict[Any, Any] = {(row.method, row.metric): row for row in summary.itertuples()}
    comparable = not incomparable(run, methods)
    winners = {m: best(run, summary, methods, m) if comparable else set() for m in metrics}
    rows = []
    for method in methods:
        own = {m: found[method, m] for m in metrics if (method, m) in found}
        cells = [
            Mean(
                own[metric].mean, own[metric].low, own[metric].high,
                best=method in run.competitors and shown(own[metric].mean) in winners[metric],
            )
            if metric in own
            else None
            for metric in metrics
        ]  # fmt: skip
        subjects = max((int(row.subjects) for row in own.values()), default=0)
        rows.append(TableRow((method, *cells, subjects)))
    return rows


def _published(run: Run, table: str | None, metrics: Sequence[str]) -> Iterator[TableRow]:
    """The paper's rows for the same columns, named after their method and backbone."""
    for row in paper_of(run).get(table or "", []):
        means = (Mean(row[metric]) if metric in row else None for metric in metrics)
        name = f"{row['label']} ({row['backbone']})"
        yield TableRow((name, *means, None), published=True)
