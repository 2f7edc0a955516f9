"""The report's plots. Every method keeps its colour and marker from one run to the next.

png = png_of(draw_bars(summarise(read_scores(Path("runs/pocket-1a2b3c4d/scores.csv")))))
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.report.markdown import LABELS
from benchmark.results.statistics import sort_methods, sort_metrics

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's colours, told apart by people with any colour vision; markers differ as well.
STYLES = {
    "real-images": ("#000000", "*"),
    "dreambooth": ("#0072B2", "o"),
    "dreambooth-no-prior": ("#D55E00", "s"),
    "dreambooth-wrong-class": ("#E69F00", "^"),
    "dreambooth-no-class": ("#CC79A7", "v"),
    "textual-inversion": ("#009E73", "D"),
    "untuned": ("#7F7F7F", "X"),
}
_OTHERS = (("#56B4E9", "P"), ("#8C6D1F", "h"), ("#5B3A8C", "<"), ("#A33B3B", ">"))
# In points from a method's point, the best first.
_NEAR = 11  #: further away, a line leads from the point to its name
_LABEL_PLACES = [
    (dx, dy)
    for reach in (_NEAR, 20, 34, 50)
    for dy in (reach, -reach, 0)
    for dx in (8, -8, reach, -reach)
]


def styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """method -> (colour, marker)."""
    others = [method for method in sort_methods(methods) if method not in STYLES]
    given = {method: _OTHERS[i % len(_OTHERS)] for i, method in enumerate(others)}
    return {method: STYLES.get(method) or given[method] for method in methods}


def draw_fidelity(summary: pd.DataFrame) -> Any | None:
    """Subject fidelity (DINO) against prompt fidelity (CLIP-T), a point a method.

    Real images have no prompt: they are a line. None if no method has both scores.
    """
    points = {
        method: (rows["dino"], rows["clip_t"])
        for method, rows in _rows(summary).items()
        if "dino" in rows and "clip_t" in rows
    }
    if not points:
        return None
    colours = styles(list(_rows(summary)))
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    for method, (x, y) in points.items():
        colour, marker = colours[method]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_error_bar(x),
            yerr=_error_bar(y),
            color=colour,
            marker=marker,
            markersize=9,
            capsize=3,
            elinewidth=1.2,
        )
    axes.set_xlabel("subject fidelity: DINO, higher is better")
    axes.set_ylabel("prompt fidelity: CLIP-T, higher is better")
    axes.margins(0.12)
    tidy(axes)
    real = _rows(summary).get("real-images", {}).get("dino")
    if real is not None:
        _draw_real_images(axes, real)
    _label(axes, points, None if real is None else real.mean)
    return figure


def _draw_real_images(axes: Any, dino: Any) -> None:
    axes.axvline(dino.mean, color="black", linestyle="--", linewidth=1)
    if not math.isnan(dino.low):
        axes.axvspan(dino.low, dino.high, color="black", alpha=0.08, linewidth=0)
    axes.annotate(
        "real images ",
        (dino.mean, 0.02),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="bottom",
        fontsize=9,
    )


def draw_bars(summary: pd.DataFrame) -> Any:
    """A panel a metric, a bar a method, with the intervals."""
    rows = _rows(summary)
    methods = list(rows)
    metrics = sort_metrics(summary["metric"])
    columns = min(3, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = new_figure(2.2 + 2.9 * columns, 0.7 + lines * (0.9 + 0.27 * len(methods)))
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    colours = styles(methods)
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
                    row.mean, place, xerr=_error_bar(row), color="black", elinewidth=1.2, capsize=3
                )
        axes.set_title(LABELS.get(metric, metric), fontsize=10)
        axes.set_yticks(range(len(methods)), [plain(method) for method in methods], fontsize=9)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        tidy(axes)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    return figure


def _rows(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {m: {} for m in sort_methods(summary["method"])}
    for row in summary.itertuples():
        rows[str(row.method)][str(row.metric)] = row
    return rows


def _error_bar(row: Any) -> list[list[float]] | None:
    if math.isnan(row.low):
        return None
    return [[row.mean - row.low], [row.high - row.mean]]


def _label(axes: Any, points: dict[str, tuple[Any, Any]], line: float | None) -> None:
    """Write each method beside its point: nearest to it, crossing the fewest marks and labels."""
    from matplotlib.colors import to_rgb
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    axes.figure.draw_without_rendering()
    inside = axes.get_window_extent(renderer)
    marks = [mark for x, y in points.values() for mark in _marks(axes, x, y)]
    if line is not None:
        across = axes.transData.transform((line, 0))[0]
        marks.append(Bbox.from_extents(across - 1, inside.y0, across + 1, inside.y1))
    colours = styles(list(points))
    labels: list[Any] = []

    places = {m: axes.transData.transform((x.mean, y.mean)) for m, (x, y) in points.items()}

    def cost(text: Any, method: str) -> int:
        box = text.get_window_extent(renderer)
        away = {m: _distance(box, place) for m, place in places.items()}
        ambiguous = min(away.values()) < away[method]
        corners = [(box.x0, box.y0), (box.x1, box.y1)]
        outside = sum(not inside.contains(*corner) for corner in corners)
        crossed = box.count_overlaps(marks) + 3 * box.count_overlaps(labels)
        return crossed + 2 * ambiguous + 5 * outside

    for method, (x, y) in points.items():
        dark = [0.7 * part for part in to_rgb(colours[method][0])]  # legible on white
        texts = [
            axes.annotate(
                plain(method),
                (x.mean, y.mean),
                xytext=place,
                textcoords="offset points",
                ha="left" if place[0] > 0 else "right",
                va="center",
                fontsize=9.5,
                color=dark,
            )
            for place in _LABEL_PLACES
        ]
        chosen = min(texts, key=partial(cost, method=method))
        labels.append(chosen.get_window_extent(renderer))
        if max(map(abs, chosen.xyann)) > _NEAR:
            line_to_it = {"arrowstyle": "-", "color": dark, "linewidth": 0.7, "shrinkB": 4}
            axes.annotate(
                "", (x.mean, y.mean), xytext=chosen.xyann, textcoords="offset points",
                arrowprops=line_to_it,
            )  # fmt: skip
        for text in texts:
            if text is not chosen:
                text.remove()


def _distance(box: Any, point: Any) -> float:
    """From a box to a point, in pixels; 0 if it lies within."""
    across = max(box.x0 - point[0], 0, point[0] - box.x1)
    return math.hypot(across, max(box.y0 - point[1], 0, point[1] - box.y1))


def _marks(axes: Any, x: Any, y: Any) -> list[Any]:
    """The boxes, in pixels, of a point's marker and of its two error bars."""
    from matplotlib.transforms import Bbox

    def box(x0: float, y0: float, x1: float, y1: float, margin: float) -> Any:
        corners = axes.transData.transform([(x0, y0), (x1, y1)])
        return Bbox.from_extents(*(corners[0] - margin), *(corners[1] + margin))

    marks = [box(x.mean, y.mean, x.mean, y.mean, 9)]
    if not math.isnan(x.low):
        marks.append(box(x.low, y.mean, x.high, y.mean, 5))
    if not math.isnan(y.low):
        marks.append(box(x.mean, y.low, x.mean, y.high, 5))
    return marks


def plain(name: str) -> str:
    """`name` on one line, as matplotlib is to write it: it reads text between dollars as maths."""
    return " ".join(name.split()).replace("$", r"\$")


def tidy(axes: Any) -> None:
    """A faint grid behind what is drawn, and no box around it."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of that many inches."""
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Any) -> bytes:
    """The figure as a PNG: the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg_of(figure: Any) -> bytes:
    """The figure as an SVG: its words are text in it, and the same bytes each time."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmark"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
