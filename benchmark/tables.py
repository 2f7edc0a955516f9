"""Tables as Markdown: aligned in the source too, safe for any name, the best value in bold."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.stats import CONTROLS

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "dino": "DINO ↑",
    "clip_i": "CLIP-I ↑",
    "clip_t": "CLIP-T ↑",
    "pres": "PRES ↓",
    "div": "DIV ↑",
    "prior_div": "prior DIV ↑",
}
NOTHING = "-"


def escape(text: str) -> str:
    """`text` so that Markdown shows exactly it, in a table cell as well: no markup, one line."""
    return re.sub(r"([\\`*_~|<>\[\]{}#&])", r"\\\1", " ".join(text.split()))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right. Cells as they are."""
    table = [list(header), *map(list, rows)]
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(header))]
    lines = [
        f"| {row[0]:<{widths[0]}} | "
        + " | ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        + " |"
        for row in table
    ]
    rule = f"| {'-' * widths[0]} | " + " | ".join(f"{'-' * (w - 1)}:" for w in widths[1:]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def count(number: int, noun: str) -> str:
    """`1 subject`, `2 subjects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def title(metric: str) -> str:
    """The metric's name without its arrow, escaped."""
    return LABELS[metric].rstrip(" ↑↓") if metric in LABELS else escape(metric)


def score_rows(
    summary: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str]
) -> list[list[str]]:
    """A row a method: `mean [low, high]` for each metric, and over how many subjects.

    The best of the methods that are no controls is bold, ties included; of one alone, none is.
    """
    found = {(row.method, row.metric): row for row in summary.itertuples()}
    best = {metric: _best(summary, methods, metric) for metric in metrics}
    rows = []
    for method in methods:
        cells = [escape(method)]
        for metric in metrics:
            row = found.get((method, metric))
            text = NOTHING if row is None else with_interval(row.mean, row.low, row.high)
            is_best = (
                row is not None and method not in CONTROLS and _shown(row.mean) in best[metric]
            )
            cells.append(f"**{text}**" if is_best else text)
        counts = [found[method, m].subjects for m in metrics if (method, m) in found]
        rows.append([*cells, str(max(counts, default=0))])
    return rows


def with_interval(mean: float, low: float, high: float) -> str:
    """`0.842 [0.811, 0.870]`, or the mean alone where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return _shown(mean)
    return f"{_shown(mean)} [{_shown(low)}, {_shown(high)}]"


def signed(mean: float, low: float, high: float) -> str:
    """A difference: `+0.050 [-0.011, +0.110]`, or the mean alone where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return f"{mean:+.3f}"
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def probability(p: float) -> str:
    """A p-value: `0.031`, `< 0.001`, or nothing where there is none."""
    if math.isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def published_rows(rows: Sequence[dict], metrics: Sequence[str]) -> list[list[str]]:
    """The paper's rows for the same columns, named as the paper's and by their backbone."""
    return [
        [
            f"*paper: {escape(row['label'])} ({escape(row['backbone'])})*",
            *(f"*{_shown(row[metric])}*" if metric in row else NOTHING for metric in metrics),
            NOTHING,
        ]
        for row in rows
    ]


def _best(summary: pd.DataFrame, methods: Sequence[str], metric: str) -> set[str]:
    rivals = [method for method in methods if method not in CONTROLS]
    means = summary.loc[
        (summary["metric"] == metric) & summary["method"].isin(rivals), "mean"
    ].tolist()
    if len(means) < 2:
        return set()
    if metric not in LABELS:  # an outside metric: nobody has told us which end is the good one
        return set()
    return {_shown(min(means) if LABELS[metric].endswith("↓") else max(means))}


def _shown(value: float) -> str:
    return f"{value:.3f}"
