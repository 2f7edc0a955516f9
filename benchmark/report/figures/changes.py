"""How far two runs lie apart: a panel per metric, a line per method, 0 in the middle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmark.report.figures.drawing import (
    PALETTE,
    SCREEN,
    Style,
    columns_of,
    error_bar,
    name_lines,
    plain,
    tidy,
)
from benchmark.report.markdown import heading
from benchmark.results.comparison import Moved

_NAME = 26  #: letters of a line of a method's name


def draw_changes(moved: Sequence[Moved], style: Style = SCREEN) -> Any:
    """B minus A of each metric, with the intervals; filled where the difference is shown."""
    metrics = list(dict.fromkeys(heading(one.metric) for one in moved))
    labels = list(dict.fromkeys(one.pair.label for one in moved))
    names = [name_lines(label, _NAME) for label in labels]
    columns = columns_of(len(metrics))
    lines = math.ceil(len(metrics) / columns)
    high = 0.27 + 0.14 * max(name.count("\n") for name in names)
    figure = style.figure(2.4 + 2.9 * columns, 0.7 + lines * (0.9 + high * len(names)))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    (colour, marker), *_ = PALETTE
    for axes, metric in zip(panels, metrics, strict=False):
        axes.axvline(0, color="#777777", linewidth=style.points(1))
        for one in (one for one in moved if heading(one.metric) == metric):
            axes.errorbar(
                one.difference.mean, labels.index(one.pair.label),
                xerr=error_bar(one.difference), color=colour, marker=marker,
                markerfacecolor=colour if one.difference.shown else "white",
                capsize=3, elinewidth=1.2,
            )  # fmt: skip
        axes.set_title(plain(metric), fontsize=style.points(10))
        axes.set_xlabel("B - A", fontsize=style.points(8))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        tidy(axes, style)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    return figure
