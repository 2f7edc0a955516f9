"""Scores along one setting: where a method overfits, how many subject images it needs.

    python -m benchmark curve dreambooth,textual-inversion --over steps=25,50,100,200
    python -m benchmark curve dreambooth --over subject_images=1,2,3,4,5

Each point is a variant of its method, `my-method[steps=25]`, trained from the start and scored on
the same prompts and noise. The controls are drawn beside the curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.api import SUBJECT_IMAGES, UserError
from benchmark.config.registry import variant
from benchmark.config.suite import Suite
from benchmark.grid.running import run_grid
from benchmark.report.caveats import under
from benchmark.report.markdown import NOTHING, escape, heading, markdown_table, with_interval
from benchmark.report.what_was_run import made_with
from benchmark.results.claims import published
from benchmark.results.comparability import run_seeds
from benchmark.results.run import Run, read_run
from benchmark.results.statistics import MINIMUM_SUBJECTS
from benchmark.runs.machine import ALL, Resources
from benchmark.runs.plan import Grid
from benchmark.store.files import write_atomically
from benchmark.store.records import Job

DEVELOPMENT = "development"  #: the split on which settings may be chosen
COLUMNS = ("method", "value", "metric", "mean", "low", "high", "subjects")


@dataclass(frozen=True)
class Curve:
    """What is asked for: each of `methods` with each of `values` for `setting`."""

    methods: tuple[str, ...]
    setting: str
    values: tuple[str, ...]  #: as they were written, the lowest first

    def point(self, method: str, value: str) -> str:
        """`my-method` -> `my-method[steps=25]`; `a[b=1]` -> `a[b=1,steps=25]`."""
        opened = f"{method.removesuffix(']')}," if method.endswith("]") else f"{method}["
        return f"{opened}{self.setting}={value}]"

    @property
    def runs(self) -> list[str]:
        """The methods to run beside the suite's controls: every point."""
        return [self.point(method, value) for method in self.methods for value in self.values]


def read_curve(methods: Sequence[str], over: str) -> Curve:
    """`["my-method"], "steps=50,25"` -> a Curve. Raises UserError for what cannot be drawn."""
    setting, equals, text = over.partition("=")
    values = [value.strip() for value in text.split(",") if value.strip()]
    if not equals or not setting.strip() or not values:
        raise UserError(f"--over '{over}' should read KEY=VALUE,VALUE[,VALUE...]")
    numbers = [_number(value, over) for value in values]
    if len(set(numbers)) < max(2, len(numbers)):
        raise UserError(
            f"--over '{over}': a curve needs at least two different values, each given once"
        )
    curve = Curve(tuple(dict.fromkeys(methods)), setting.strip(), tuple(sorted(values, key=float)))
    if not methods:
        raise UserError("no method chosen: name one or more, as `list methods` does")
    for method in curve.methods:
        if curve.setting in variant(method)[1]:
            raise UserError(f"method '{method}' sets '{curve.setting}' already: leave that out")
    return curve


def _number(value: str, over: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"--over '{over}': '{value}' is not a finite number; for other settings use `sweep`"
        )
    return number


def on_split(suite: Suite, split: str) -> Suite:
    """`suite` on those subjects of `split` that it chooses, or if it chooses none there, on all.

    Raises UserError if it has no development split.
    """
    if split == DEVELOPMENT and suite.data.split is None:
        raise UserError(
            f"suite '{suite.name}' has no split, so no development subjects to choose settings on: "
            "name one in its [data] table"
        )
    data = suite.data.model_copy(update={"split": split})
    there = {subject.name for subject in data.load().subjects}
    chosen = [name for name in data.subjects if name in there]
    data = data.model_copy(update={"subjects": chosen})
    return suite.model_copy(update={"data": data})


def run_curve(
    curve: Curve,
    grid: Grid,
    path: Path,
    *,
    resources: Resources = ALL,
    dry_run: bool = False,
) -> int:
    """Run `grid`, the plan of `curve.runs`, then write the curve; returns `run_grid`'s exit code.

    Raises UserError if a method of the curve is a bound.
    """
    for job in grid.jobs:
        if job.role != "method" and job.method in curve.runs:
            raise UserError(
                f"'{job.method}' is the {job.role} and has no curve: leave it out; the suite's "
                "controls are drawn beside every curve"
            )
    print(f"curve       over {curve.setting}: {', '.join(curve.values)}")
    print(f"split       {_about_split(grid.suite.data.split)}")
    code = run_grid(grid, path, resources=resources, dry_run=dry_run)
    if not dry_run and code != 130 and (path / "summary.csv").is_file():
        print(write_curve(path, curve, grid.jobs))
    return code


def write_curve(run_directory: Path, curve: Curve, jobs: Sequence[Job]) -> Path:
    """Write curve.csv, curve.md and curve.png, .svg and .pdf of a run; returns the PNG's path.

    Of `jobs` and their images alone, so that points and level lines are of the same prompts,
    seeds and subjects. If the run has several protocols, under the first.
    """
    from benchmark.report.figures.curve import draw_curve
    from benchmark.report.figures.drawing import figure_files, plain

    run = read_run(run_directory)
    run = run.under(run.protocols[0]).only(jobs)
    table = curve_table(run, curve)
    paper = published()
    # The paper's values are raw cosines: shown only beside raw cosines.
    alike = all(run.factor(metric) == 1 for metric in table["metric"].unique())
    rows = [row for row in paper["curve"] if alike and row["setting"] == curve.setting]
    text = _text(run, table, curve, rows, source=paper["source"])
    figure = draw_curve(run, table, setting=curve.setting, published=rows)
    figure.suptitle(plain(_title(run)), fontsize=10)
    contents = {
        "curve.csv": table.to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        "curve.md": text,
        **figure_files("curve", figure),
    }
    for name, content in contents.items():
        write_atomically(run_directory / name, content)
    print(text)
    return run_directory / "curve.png"


def curve_table(run: Run, curve: Curve) -> pd.DataFrame:
    """Columns COLUMNS: a row per method, value and metric with scores; then the controls.

    `run` is under one protocol. `value` is as it was written, and empty for a bound.
    """
    found = {(row.method, row.metric): row for row in run.summary.itertuples()}
    points = [(m, value, curve.point(m, value)) for m in curve.methods for value in curve.values]
    rows = []
    for method, value, name in [*points, *((bound, "", bound) for bound in run.controls)]:
        for metric in run.metrics:
            row: Any = found.get((name, metric))
            if row is not None:
                rows.append((method, value, metric, row.mean, row.low, row.high, row.subjects))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _text(
    run: Run, table: pd.DataFrame, curve: Curve, published: Sequence[dict[str, Any]], *, source: str
) -> str:
    words = escape(curve.setting.replace("_", " "))
    metrics = [metric for metric in run.metrics if metric in set(table["metric"])]
    header = ["method", words, *(escape(heading(run.metric(m))) for m in metrics), "subjects"]
    rows = [*_rows(table, metrics), *_published_rows(published, metrics)]
    text = [
        f"# {escape(run.suite['name'])}: scores by {words} {under(run)}\n",
        f"Subjects: {_about_split(run.suite['data'].get('split'))}. {made_with(run)}\n",
        markdown_table(header, rows),
        "Means over subjects, with 95 % bootstrap intervals over subjects in brackets, which need "
        f"{MINIMUM_SUBJECTS} subjects.\n",
    ]
    missing = [name for name in curve.runs if name not in run.methods]
    if missing:
        text.append(f"**Not finished**: {', '.join(map(escape, missing))}.\n")
    if table.groupby(["method", "value"])["subjects"].max().nunique() > 1:
        text.append(
            "**Not every point has every subject**, so these means are over different subjects and "
            "do not compare.\n"
        )
    if curve.setting == SUBJECT_IMAGES:
        text.append("Trained on a subject's first images, scored against all of its real images.\n")
    if published:
        text.append(
            f"The *paper* rows are of single subjects, from {escape(source)}: measured on another "
            "backbone, other subjects and encoders. They show directions and are no targets.\n"
        )
    return "\n".join([*text, f"![Scores by {words}](curve.png)\n"])


def _rows(table: pd.DataFrame, metrics: Sequence[str]) -> list[list[str]]:
    rows = []
    for (method, value), group in table.groupby(["method", "value"], sort=False):
        scores = {row.metric: row for row in group.itertuples()}
        cells = [
            with_interval(scores[m].mean, scores[m].low, scores[m].high) if m in scores else NOTHING
            for m in metrics
        ]
        rows.append([escape(method), value or NOTHING, *cells, str(group["subjects"].max())])
    return rows


def _published_rows(published: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[list[str]]:
    return [
        [
            f"*paper: {escape(row['label'])} ({escape(row['backbone'])})*",
            str(value),
            *(f"*{row[metric][i]:.3f}*" if metric in row else NOTHING for metric in metrics),
            NOTHING,
        ]
        for row in published
        for i, value in enumerate(row["values"])
    ]


def _about_split(split: str | None) -> str:
    if split == DEVELOPMENT:
        return "development, on which settings may be chosen"
    return f"{split}, on which no setting may be chosen"


def _title(run: Run) -> str:
    subjects = len({record.job.subject for record in run.records})
    seeds = len(run_seeds(run))
    return (
        f"{run.suite['data'].get('split')} subjects: {subjects}, seeds: {seeds}; "
        "shaded: 95 % interval over subjects"
    )
