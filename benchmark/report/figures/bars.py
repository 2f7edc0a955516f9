"""All metrics: a panel per metric, a bar per method, with the intervals."""

from __future__ import annotations

import math
from typing import Any

from benchmark.report.figures.drawing import (
    error_bar,
    new_figure,
    plain,
    rows_by_method,
    styles,
    tidy,
)
from benchmark.report.markdown import heading
from benchmark.results.run import Run


def draw_bars(run: Run) -> Any:
    """A panel per metric, a bar per method, with the intervals."""
    rows = rows_by_method(run)
    methods = list(rows)
    metrics = [metric for metric in run.metrics if metric in set(run.summary["metric"])]
    columns = min(3, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = new_figure(2.2 + 2.9 * columns, 0.7 + lines * (0.9 + 0.27 * len(methods)))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    colours = styles(run)
    for axes, metric in zip(panels, metrics, strict=False):
        for place, method in enumerate(methods):
            row = rows[method].get(metric)
            if row is None:
                axes.annotate(
                    "none", (0, place), xytext=(4, 0), textcoords="offset points", va="center",
                    fontsize=8, color="#777777",
                )  # fmt: skip
                continue
            axes.barh(place, row.mean, color=colours[method][0], alpha=0.85, height=0.7)
            if not math.isnan(row.low):
                axes.errorbar(
                    row.mean, place, xerr=error_bar(row), color="black", elinewidth=1.2, capsize=3
                )
        axes.set_title(plain(heading(run.metric(metric))), fontsize=10)
        axes.set_yticks(range(len(methods)), [plain(method) for method in methods], fontsize=9)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        tidy(axes)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    return figure
