"""The per-subject heat map: methods by subjects, a panel per metric, every value written out.

figure = draw_heat_map(run.under("pocket-1"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.figures.drawing import new_figure, plain
from benchmark.report.markdown import heading
from benchmark.results.run import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Its lightness only rises, so it can be read in grey and with any colour vision.
_COLOURS = "cividis"
_LIGHT = 0.5  #: above this share of the range, black text is easier to read than white


def draw_heat_map(run: Run) -> Any | None:
    """Means over each subject's images and seeds, in the first metric of each fidelity, if any."""
    wanted = [*run.about("subject fidelity")[:1], *run.about("prompt fidelity")[:1]]
    metrics = [metric for metric in wanted if metric in run.by_image]
    if not metrics:
        return None
    scores = run.scores[run.scores["metric"].isin(metrics)]
    scored = set(scores["method"])
    methods = [method for method in run.methods if method in scored]
    subjects = sorted(scores["subject"].unique())
    height = 0.9 + len(metrics) * (0.65 + 0.3 * len(methods))
    figure = new_figure(2.6 + 0.46 * max(6, len(subjects)), height)
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False).flatten()
    for axes, metric in zip(panels, metrics, strict=True):
        values = _values(scores[scores["metric"] == metric], methods, subjects)
        _draw_panel(axes, values)
        axes.set_title(plain(heading(run.metric(metric))), fontsize=10, loc="left")
        axes.set_yticks(range(len(methods)), [plain(method) for method in methods], fontsize=9)
    panels[-1].set_xticks(
        range(len(subjects)), [plain(subject) for subject in subjects], fontsize=9,
        rotation=40, ha="right", rotation_mode="anchor",
    )  # fmt: skip
    return figure


def _values(scores: pd.DataFrame, methods: Sequence[str], subjects: Sequence[str]) -> np.ndarray:
    """(methods, subjects), NaN where there is no score."""
    means = scores.groupby(["method", "subject"], observed=True)["value"].mean()
    return means.unstack("subject").reindex(index=methods, columns=subjects).to_numpy()


def _draw_panel(axes: Any, values: np.ndarray) -> None:
    import numpy as np

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    axes.imshow(values, cmap=_COLOURS, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        light = np.isnan(value) or value - low >= _LIGHT * (high - low)
        axes.text(
            column, row, "none" if np.isnan(value) else f"{value:.2f}",
            ha="center", va="center", fontsize=7.5, color="black" if light else "white",
        )  # fmt: skip
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
