"""How far two runs lie apart: a panel per metric, a line per method, 0 in the middle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmark.report.figures.drawing import PALETTE, error_bar, new_figure, plain, tidy
from benchmark.report.markdown import heading
from benchmark.results.comparison import Moved


def draw_changes(moved: Sequence[Moved]) -> Any:
    """B minus A of each metric, with the intervals; filled where the difference is shown."""
    metrics = list(dict.fromkeys(heading(one.metric) for one in moved))
    labels = list(dict.fromkeys(one.pair.label for one in moved))
    columns = min(3, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = new_figure(2.4 + 2.9 * columns, 0.7 + lines * (0.9 + 0.27 * len(labels)))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    (colour, marker), *_ = PALETTE
    for axes, metric in zip(panels, metrics, strict=False):
        axes.axvline(0, color="#777777", linewidth=1)
        for one in (one for one in moved if heading(one.metric) == metric):
            axes.errorbar(
                one.difference.mean, labels.index(one.pair.label),
                xerr=error_bar(one.difference), color=colour, marker=marker,
                markerfacecolor=colour if one.difference.shown else "white",
                capsize=3, elinewidth=1.2,
            )  # fmt: skip
        axes.set_title(plain(metric), fontsize=10)
        axes.set_xlabel("B - A", fontsize=8)
        axes.set_yticks(range(len(labels)), [plain(label) for label in labels], fontsize=9)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        tidy(axes)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    return figure
