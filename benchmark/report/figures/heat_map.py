"""The per-subject heat map: methods by subjects, a panel a metric, every value written out.

figure = draw_heat_map(read_scores(Path("runs/pocket-1a2b3c4d/scores.csv")))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.figures.scatter_and_bars import new_figure, plain
from benchmark.report.markdown import LABELS
from benchmark.results.statistics import sort_methods

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_METRICS = ("dino", "clip_t")
# Its lightness only ever rises, so it reads the same in grey and with any colour vision.
_COLOURS = "cividis"
_LIGHT = 0.5  #: from this share of the range on, black can be read on the colour better than white


def draw_heat_map(scores: pd.DataFrame) -> Any | None:
    """Means over each subject's images and seeds. None if no method has DINO or CLIP-T."""
    metrics = [metric for metric in _METRICS if metric in set(scores["metric"])]
    if not metrics:
        return None
    scores = scores[scores["metric"].isin(metrics)]
    methods = sort_methods(scores["method"].unique())
    subjects = sorted(scores["subject"].unique())
    height = 0.9 + len(metrics) * (0.65 + 0.3 * len(methods))
    figure = new_figure(2.6 + 0.46 * max(6, len(subjects)), height)
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False).flatten()
    for axes, metric in zip(panels, metrics, strict=True):
        values = _values(scores[scores["metric"] == metric], methods, subjects)
        _draw_panel(axes, values)
        axes.set_title(LABELS[metric], fontsize=10, loc="left")
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
