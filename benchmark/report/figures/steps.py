"""Scores against training steps, where a run has a method with several numbers of steps.

    python -m benchmark run --methods 'mine:METHOD,mine:METHOD[steps=50]'
    figure = draw_steps(run.under("pocket-1"))

Each point was trained from the start: a run keeps no checkpoints. `curve` lays out such a run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmark.report.figures.curve import draw_curve
from benchmark.report.figures.drawing import SCREEN, Style
from benchmark.results.run import Run
from benchmark.store.records import JobRecord


def draw_steps(run: Run, style: Style = SCREEN) -> Any | None:
    """A panel per metric, a line per method, with the controls. None without a line to draw."""
    import pandas as pd

    lines = [
        (line, str(steps), name) for line, points in _lines(run.records) for steps, name in points
    ]
    if not lines or not run.metrics:
        return None
    rows = [
        (line, steps, row.metric, row.mean, row.low, row.high)
        for line, steps, name in [*lines, *((bound, "", bound) for bound in run.controls)]
        for row in run.summary[run.summary["method"] == name].itertuples()
    ]
    table = pd.DataFrame(rows, columns=["method", "value", "metric", "mean", "low", "high"])
    return draw_curve(run, table, setting="steps", published=[], style=style)


def _lines(records: Sequence[JobRecord]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Methods that differ only in their steps: the name without them, and (steps, method) in order.

    Only what has two points or more.
    """
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for record in records:
        method, steps = record.job.method, record.job.fit.settings.get("steps")
        if isinstance(steps, int) and not isinstance(steps, bool):
            name = re.sub(r"(?<=[\[,])steps=\d+,?", "", method)
            found[re.sub(r",?\]$", "]", name).removesuffix("[]")][steps] = method
    return [(name, sorted(points.items())) for name, points in found.items() if len(points) > 1]
