"""The report's tables as data, for Markdown, CSV and LaTeX alike.

for table in report_tables(run):
    print(csv_text(table))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.api import PROMPT_KINDS
from benchmark.report.markdown import LABELS, best, shown
from benchmark.report.table_formats import Column, Content, Estimate, Row, Table
from benchmark.results.claims import published
from benchmark.results.run import Run
from benchmark.results.statistics import CONTROLS, FIRST_METHODS, sort_metrics, summarise
from benchmark.store.directory import job_path
from benchmark.store.records import Job

if TYPE_CHECKING:
    import pandas as pd

FIDELITY = ("dino", "clip_i", "clip_t")
PRIOR = ("pres", "div", "prior_div", *FIDELITY)
PRIOR_METHODS = ("dreambooth", "dreambooth-no-prior", "untuned")
CLASS_NOUN = ("dino", "clip_i")
CLASS_NOUN_METHODS = (
    "dreambooth",
    "dreambooth-wrong-class",
    "dreambooth-no-prior",
    "dreambooth-no-class",
)
IDENTIFIER = (*FIDELITY, "pres")
COPYING = ("dino_nearest", "dino", "div")
_IDENTIFIERS = "identifier-"
_SUBJECTS = Column("subjects")
_STAGES = ("train", "sample", "score")
_NOT_DRAWN = "real-images"


def paper_of(run: Run) -> dict[str, Any]:
    """What the paper published, but no rows beside scores of another scale than its raw cosines."""
    paper = published()
    if all(run.factor(metric) == 1 for metric in run.defined or ()):
        return paper
    return {key: [] if isinstance(rows, list) else rows for key, rows in paper.items()}


def report_tables(run: Run) -> list[Table]:
    """All tables that `run` has rows for, in the report's order."""
    tables = [
        comparison(run),
        prior_preservation(run),
        class_noun(run),
        identifier(run),
        copying(run),
        other_metrics(run),
        by_prompt_group(run),
        by_subject(run),
        cost(run),
    ]
    return [table for table in tables if any(not row.published for row in table.rows)]


def comparison(run: Run) -> Table:
    """Every method's fidelity, as the paper's Table 1, with its rows."""
    rows = [*_scores(run.summary, run.methods, FIDELITY), *_published(run, "fidelity", FIDELITY)]
    caption = "Subject and prompt fidelity: means over subjects and 95 % intervals"
    return Table("comparison", caption, _columns(FIDELITY), tuple(rows))


def prior_preservation(run: Run) -> Table:
    """What the prior term does, as the paper's Table 3, with its rows."""
    methods = [method for method in PRIOR_METHODS if method in run.methods]
    scored = set(run.summary.loc[run.summary["metric"].isin(["pres", "div"]), "method"])
    methods += [m for m in run.methods if m in scored - {*methods, *FIRST_METHODS}]
    rows = [*_scores(run.summary, methods, PRIOR), *_published(run, "prior_preservation", PRIOR)]
    return Table("prior-preservation", "Prior preservation", _columns(PRIOR), tuple(rows))


def class_noun(run: Run) -> Table:
    """What the class noun does, as the paper's Table 4, with its rows."""
    methods = [method for method in CLASS_NOUN_METHODS if method in run.methods]
    rows = [*_scores(run.summary, methods, CLASS_NOUN), *_published(run, "class_noun", CLASS_NOUN)]
    return Table("class-noun", "Class noun", _columns(CLASS_NOUN), tuple(rows))


def identifier(run: Run) -> Table:
    """DreamBooth under other identifiers; no rows if none of these was run."""
    others = [method for method in run.methods if method.startswith(_IDENTIFIERS)]
    methods = [m for m in run.methods if m == "dreambooth" or m in others] if others else []
    words = {
        record["job"]["method"]: str(record["job"]["settings"].get("identifier", ""))
        for record in run.records
    }
    rows = [
        Row((row.cells[0], words.get(str(row.cells[0])) or None, *row.cells[1:]))
        for row in _scores(run.summary, methods, IDENTIFIER)
    ]
    columns = (Column("method"), Column("identifier"), *_columns(IDENTIFIER)[1:])
    return Table("identifier", "What the subject is called", columns, tuple(rows))


def copying(run: Run) -> Table:
    """How near images come to a single real one; no rows where that was not measured."""
    measured = "dino_nearest" in set(run.summary["metric"])
    rows = _scores(run.summary, run.methods, COPYING) if measured else []
    return Table("copying", "Nearness to a single real image", _columns(COPYING), tuple(rows))


def other_metrics(run: Run) -> Table:
    """Metrics that come from outside; no rows if there are none."""
    others = [m for m in sort_metrics(run.summary["metric"]) if m not in LABELS]
    rows = _scores(run.summary, run.methods, others) if others else []
    return Table("other-metrics", "Other metrics", _columns(others), tuple(rows))


def by_prompt_group(run: Run) -> Table:
    """Fidelity by kind of prompt, a row a method and kind, the methods of a kind together."""
    rows = []
    for kind in PROMPT_KINDS:
        scores = run.scores[run.scores["prompt_kind"] == kind]
        if scores.empty:
            continue
        summary = summarise(scores)
        methods = [method for method in run.methods if method in set(summary["method"])]
        rows += [Row((kind, *row.cells)) for row in _scores(summary, methods, FIDELITY)]
    columns = (Column("prompts"), *_columns(FIDELITY))
    return Table("by-prompt-group", "By prompt group", columns, tuple(rows))


def by_subject(run: Run) -> Table:
    """Fidelity by subject, a row a subject and method; means over the subject's images."""
    means = subject_means(run.scores)
    metrics = [metric for metric in FIDELITY if metric in set(run.scores["metric"])]
    rows = []
    for subject in sorted(run.scores["subject"].unique()):
        for method in run.methods:
            values = [means.get((method, metric, subject)) for metric in metrics]
            if any(value is not None for value in values):
                rows.append(Row((subject, method, *values)))
    scored = (Column(metric, LABELS[metric], 3) for metric in metrics)
    columns = (Column("subject"), Column("method"), *scored)
    return Table("by-subject", "By subject", columns, tuple(rows))


def subject_means(scores: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """(method, metric, subject) -> mean over its images and seeds, in the metric's unit."""
    means = scores.groupby(["method", "metric", "subject"], observed=True)["value"].mean()
    return {key: float(value) for key, value in means.items()}


def cost(run: Run) -> Table:
    """Time, memory and bytes of a job, from the jobs' records and what they left on disk."""
    rows = []
    for method in run.methods:
        records = [record for record in run.records if record["job"]["method"] == method]
        if not records:
            continue
        left = [bytes_left(run, record) for record in records]
        known = [size for size in left if size is not None]
        cells: tuple[Content, ...] = (
            method,
            len(records),
            sum(record["images"] for record in records),
            *(_mean([record[f"{stage}_seconds"] for record in records]) for stage in _STAGES),
            _steps_per_second(records),
            _images_per_second(records),
            max(record["peak_memory_mb"] for record in records),
            _mean(known) / 1e6 if len(known) == len(left) else None,
        )
        rows.append(Row(cells))
    columns = (
        Column("method"),
        Column("jobs"),
        Column("images"),
        *(Column(f"{stage}_s", f"{stage} s", 1) for stage in _STAGES),
        Column("steps_per_s", "steps/s", 3),
        Column("images_per_s", "images/s", 3),
        Column("peak_memory_mb", "peak memory MB"),
        Column("left_mb", "left MB", 2),
    )
    return Table("cost", "Cost: means a job; of memory, the most", columns, tuple(rows))


def _steps_per_second(records: Sequence[dict[str, Any]]) -> float | None:
    """Training steps a second, over the jobs that measured them (older records did not)."""
    paces = [pace for record in records if (pace := record.get("steps_per_second"))]
    return _mean(paces) if paces else None


def _images_per_second(records: Sequence[dict[str, Any]]) -> float | None:
    """Images drawn in a second of sampling; None where none was drawn, as of real images."""
    if records[0]["job"]["method"] == _NOT_DRAWN:
        return None
    seconds = sum(record["sample_seconds"] for record in records)
    return sum(record["images"] for record in records) / seconds if seconds else None


def bytes_left(run: Run, record: dict[str, Any]) -> int | None:
    """What a job left on disk: images, scores and record. None of a copy that does not say."""
    if "bytes_left" in record:
        return record["bytes_left"]
    directory = run.origin(record).directory
    job = job_path(Job(**record["job"]))
    files = [directory / name for name in (*record["files"], f"{job}.csv", f"{job}.json")]
    if len(record["files"]) < record["images"] or not all(path.is_file() for path in files):
        return None
    return sum(path.stat().st_size for path in files)


def _columns(metrics: Sequence[str]) -> tuple[Column, ...]:
    scored = (Column(metric, LABELS.get(metric, metric), 3) for metric in metrics)
    return (Column("method"), *scored, _SUBJECTS)


def _scores(summary: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str]) -> list[Row]:
    """A row a method: an estimate for each metric, and over how many subjects."""
    found = {(row.method, row.metric): row for row in summary.itertuples()}
    winners = {metric: best(summary, methods, metric) for metric in metrics}
    rows = []
    for method in methods:
        own: dict[str, Any] = {m: found[method, m] for m in metrics if (method, m) in found}
        cells = [
            Estimate(
                own[metric].mean, own[metric].low, own[metric].high,
                best=method not in CONTROLS and shown(own[metric].mean) in winners[metric],
            )
            if metric in own
            else None
            for metric in metrics
        ]  # fmt: skip
        subjects = max((int(row.subjects) for row in own.values()), default=0)
        rows.append(Row((method, *cells, subjects)))
    return rows


def _published(run: Run, table: str, metrics: Sequence[str]) -> list[Row]:
    """The paper's rows for the same columns, named as the paper's and by their backbone."""
    return [
        Row(
            (
                f"{row['label']} ({row['backbone']})",
                *(Estimate(row[metric]) if metric in row else None for metric in metrics),
                None,
            ),
            published=True,
        )
        for row in paper_of(run)[table]
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
