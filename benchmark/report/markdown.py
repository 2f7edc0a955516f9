"""Markdown: tables that are aligned in the source too, safe for any name, and numbers as shown."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from benchmark.store.records import MetricRecord

NOTHING = "-"


def escape(text: str) -> str:
    """`text` escaped so that Markdown shows it literally, on one line, in table cells too.

    Also where dollar signs enclose formulas, as on GitHub.
    """
    return re.sub(r"([\\`*_~|<>\[\]{}#&$])", r"\\\1", " ".join(text.split()))


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text: Collection[int] = (0,)
) -> str:
    """A Markdown table; columns `text` are left-aligned, others right-aligned; cells as given."""
    table = [list(header), *map(list, rows)]
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(header))]
    lines = [
        " | ".join(
            f"{cell:<{width}}" if place in text else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    rule = " | ".join(
        "-" * width if place in text else "-" * (width - 1) + ":"
        for place, width in enumerate(widths)
    )
    return "".join(f"| {line} |\n" for line in (lines[0], rule, *lines[1:]))


def count(number: int, noun: str) -> str:
    """`1 subject`, `2 subjects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def heading(metric: MetricRecord) -> str:
    """The metric's label with an arrow in the better direction, if any: `PRES ↓`. Plain text."""
    arrows = {True: " ↑", False: " ↓", None: ""}
    return metric.label + arrows[metric.higher_is_better]


def with_interval(mean: float, low: float, high: float) -> str:
    """`0.842 [0.811, 0.870]`, or the mean alone where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return shown(mean)
    return f"{shown(mean)} [{shown(low)}, {shown(high)}]"


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


def shown(value: float) -> str:
    """A score as every table shows it."""
    return f"{value:.3f}"
