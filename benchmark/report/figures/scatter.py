"""Subject fidelity against prompt fidelity: a point per method, its name beside it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from benchmark.report.figures.drawing import (
    SCREEN,
    Style,
    error_bar,
    name_lines,
    plain,
    rows_by_method,
    styles,
    tidy,
)
from benchmark.results.run import Run

# In points from a method's point, the best first.
_NEAR = 11  #: further away, a line leads from the point to its name
_NAME = 26  #: letters of a line of a name
_LABEL_PLACES = [
    (dx, dy)
    for reach in (_NEAR, 20, 34, 50)
    for dy in (reach, -reach, 0)
    for dx in (8, -8, reach, -reach)
]


def draw_fidelity(run: Run, style: Style = SCREEN) -> Any | None:
    """The first metric of subject fidelity against the first of prompt fidelity.

    An upper bound without a prompt is a line. None if no method has both scores.
    """
    axes_of = [run.about(f"{what} fidelity")[:1] for what in ("subject", "prompt")]
    if not all(axes_of):
        return None
    (across,), (up,) = axes_of
    rows = rows_by_method(run)
    points = {m: (own[across], own[up]) for m, own in rows.items() if {across, up} <= own.keys()}
    if not points:
        return None
    colours = styles(run)
    figure = style.figure(6.4, 4.6)
    axes = figure.subplots()
    for method, (x, y) in points.items():
        colour, marker = colours[method]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=error_bar(x),
            yerr=error_bar(y),
            color=colour,
            marker=marker,
            markersize=style.points(9),
            capsize=style.points(3),
            elinewidth=style.points(1.2),
        )
    axes.set_xlabel(_axis_label(run, across), fontsize=style.points(10))
    axes.set_ylabel(_axis_label(run, up), fontsize=style.points(10))
    axes.margins(0.12)
    tidy(axes, style)
    bound = run.bound("upper bound")
    line = None if bound in points else rows.get(str(bound), {}).get(across)
    if line is not None:
        _draw_bound(axes, line, str(bound), style)
    _label(axes, points, None if line is None else line.mean, colours, style)
    return figure


def _axis_label(run: Run, name: str) -> str:
    metric = run.metric(name)
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    return plain(f"{metric.about}: {metric.label}{better[metric.higher_is_better]}")


def _draw_bound(axes: Any, row: Any, name: str, style: Style) -> None:
    axes.axvline(row.mean, color="black", linestyle="--", linewidth=style.points(1))
    if not math.isnan(row.low):
        axes.axvspan(row.low, row.high, color="black", alpha=0.08, linewidth=0)
    axes.annotate(
        f"{plain(name)} ",
        (row.mean, 0.02),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="bottom",
        fontsize=style.points(9),
    )


def _label(
    axes: Any,
    points: dict[str, tuple[Any, Any]],
    line: float | None,
    colours: dict[str, tuple[str, str]],
    style: Style,
) -> None:
    """Write each name beside its point: nearest to it, across the fewest marks and labels."""
    from matplotlib.colors import to_rgb
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    axes.figure.draw_without_rendering()
    inside = axes.get_window_extent(renderer)
    marks = [mark for x, y in points.values() for mark in _marks(axes, x, y)]
    if line is not None:
        across = axes.transData.transform((line, 0))[0]
        marks.append(Bbox.from_extents(across - 1, inside.y0, across + 1, inside.y1))
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
                name_lines(method, _NAME),
                (x.mean, y.mean),
                xytext=tuple(map(style.points, place)),
                textcoords="offset points",
                ha="left" if place[0] > 0 else "right",
                va="center",
                fontsize=style.points(9.5),
                color=dark,
            )
            for place in _LABEL_PLACES
        ]
        chosen = min(texts, key=partial(cost, method=method))
        labels.append(chosen.get_window_extent(renderer))
        _lead_to(axes, chosen, (x.mean, y.mean), style)
        for text in texts:
            if text is not chosen:
                text.remove()


def _lead_to(axes: Any, label: Any, point: tuple[float, float], style: Style) -> None:
    """A line from a label to its point, if they lie apart."""
    if max(map(abs, label.xyann)) <= style.points(_NEAR):
        return
    line = {
        "arrowstyle": "-",
        "color": label.get_color(),
        "linewidth": style.points(0.7),
        "shrinkB": 4,
    }
    axes.annotate("", point, xytext=label.xyann, textcoords="offset points", arrowprops=line)


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
