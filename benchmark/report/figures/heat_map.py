"""The per-subject heat map: methods by subjects, a panel per metric, every value written out.

figure = draw_heat_map(run.under("pocket-1"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.figures.drawing import SCREEN, Style, name_lines, plain
from benchmark.report.markdown import heading
from benchmark.results.run import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Its lightness only rises, so it can be read in grey and with any colour vision.
_COLOURS = "cividis"
_NAME = 26  #: letters of a line of a method's name
_CELL = 0.4  #: inches that a value takes on a screen; in narrower cells colours alone are shown
_MOST = 40  #: subjects; with more, a figure has no room for each value
_LIGHT = 0.5  #: above this share of the range, black text is easier to read than white


def draw_heat_map(run: Run, style: Style = SCREEN) -> Any | None:
    """Means over each subject's images and seeds, in the first metric of each fidelity.

    None without such a metric, and of a single subject, whose means are all in the tables.
    """
    wanted = [*run.about("subject fidelity")[:1], *run.about("prompt fidelity")[:1]]
    metrics = [metric for metric in wanted if metric in run.by_image]
    if not metrics:
        return None
    scores = run.scores[run.scores["metric"].isin(metrics)]
    scored = set(scores["method"])
    methods = [method for method in run.methods if method in scored]
    subjects = sorted(scores["subject"].unique())
    if len(subjects) < 2:
        return None
    height = 0.9 + len(metrics) * (0.65 + 0.3 * len(methods))
    figure = style.figure(2.6 + 0.46 * min(max(6, len(subjects)), _MOST), height)
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False).flatten()
    written = figure.get_figwidth() - style.scale * 2.6 >= style.scale * _CELL * len(subjects)
    for axes, metric in zip(panels, metrics, strict=True):
        values = _values(scores[scores["metric"] == metric], methods, subjects)
        _draw_panel(axes, values, style if written else None)
        axes.set_title(plain(heading(run.metric(metric))), fontsize=style.points(10), loc="left")
        names = [name_lines(method, _NAME) for method in methods]
        axes.set_yticks(range(len(methods)), names, fontsize=style.points(9))
        if not written:
            bar = figure.colorbar(axes.images[0], ax=axes, pad=0.01, aspect=12)
            bar.ax.tick_params(labelsize=style.points(9))
            bar.outline.set_visible(False)
    panels[-1].set_xticks(
        range(len(subjects)), [plain(subject) for subject in subjects],
        fontsize=style.points(9),
        rotation=40, ha="right", rotation_mode="anchor",
    )  # fmt: skip
    return figure


def _values(scores: pd.DataFrame, methods: Sequence[str], subjects: Sequence[str]) -> np.ndarray:
    """(methods, subjects), NaN where there is no score."""
    means = scores.groupby(["method", "subject"], observed=True)["value"].mean()
    return means.unstack("subject").reindex(index=methods, columns=subjects).to_numpy()


def _draw_panel(axes: Any, values: np.ndarray, style: Style | None) -> None:
    """`style`: of the values that are written out; None: none is."""
    import numpy as np

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    axes.imshow(values, cmap=_COLOURS, vmin=low, vmax=high, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if style is None:
        return
    for (row, column), value in np.ndenumerate(values):
        light = np.isnan(value) or value - low >= _LIGHT * (high - low)
        axes.text(
            column, row, "none" if np.isnan(value) else f"{value:.2f}",
            ha="center", va="center", fontsize=style.points(7.5),
            color="black" if light else "white",
        )  # fmt: skip
