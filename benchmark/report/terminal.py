"""A run's means, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.report.markdown import NOTHING
from benchmark.results.completeness import subjects_in_words
from benchmark.results.run import Run


def print_table(run: Run) -> None:
    """Print a run's means: a row a method, a column a metric, over its 95 % interval."""
    # Off a terminal rich assumes 80 columns, and would break the rows.
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    for label in run.protocols:
        part = run.under(label)
        cells = {(row.method, row.metric): _cell(row) for row in part.summary.itertuples()}
        title = f"{label}: mean over subjects; below it, its 95 % interval"
        table = Table(title=title, box=None, pad_edge=False)
        table.add_column("method", overflow="fold")
        for metric in part.metrics:
            table.add_column(part.metric(metric).label, justify="right", overflow="fold")
        for method in part.methods:
            table.add_row(Text(method), *(cells.get((method, m), NOTHING) for m in part.metrics))
        console.print(table)
        if lacking := subjects_in_words(part):
            said = f"not every method has every subject ({lacking}): their means do not compare"
            console.print(Text(said), soft_wrap=True)


def _cell(row: Any) -> str:
    mean = f"{row.mean:.3f}"
    if row.low != row.low:  # NaN: too few subjects for an interval
        return mean
    return f"{mean}\n[dim]{row.low:.3f} {row.high:.3f}[/dim]"
