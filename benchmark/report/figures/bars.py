"""All metrics: a panel per metric, a bar per method, with the intervals."""

from __future__ import annotations

import math
from typing import Any

from benchmark.report.figures.drawing import (
    SCREEN,
    Style,
    columns_of,
    error_bar,
    name_lines,
    plain,
    rows_by_method,
    styles,
    tidy,
)
from benchmark.report.markdown import heading
from benchmark.results.run import Run

_NAME = 26  #: letters of a line of a method's name


def draw_bars(run: Run, style: Style = SCREEN) -> Any | None:
    """A panel per metric, a bar per method, with the intervals. None without a mean."""
    rows = rows_by_method(run)
    metrics = [metric for metric in run.metrics if metric in set(run.summary["metric"])]
    if not metrics:
        return None
    names = [name_lines(method, _NAME) for method in rows]
    columns = columns_of(len(metrics))
    lines = math.ceil(len(metrics) / columns)
    high = 0.27 + 0.14 * max(name.count("\n") for name in names)
    figure = style.figure(2.2 + 2.9 * columns, 0.7 + lines * (0.9 + high * len(names)))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for axes, metric in zip(panels, metrics, strict=False):
        _draw_panel(axes, {method: own.get(metric) for method, own in rows.items()}, run, style)
        axes.set_title(plain(heading(run.metric(metric))), fontsize=style.points(10))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        tidy(axes, style)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    return figure


def _draw_panel(axes: Any, rows: dict[str, Any], run: Run, style: Style) -> None:
    colours = styles(run)
    for place, (method, row) in enumerate(rows.items()):
        if row is None:
            axes.annotate(
                "none", (0, place), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=style.points(8), color="#777777",
            )  # fmt: skip
            continue
        axes.barh(place, row.mean, color=colours[method][0], alpha=0.85, height=0.7)
        if not math.isnan(row.low):
            axes.errorbar(
                row.mean, place, xerr=error_bar(row), color="black",
                elinewidth=style.points(1.2), capsize=style.points(3),
            )  # fmt: skip
