"""What all figures share: methods' colours and markers, and how a figure is made and written.

A method has its colour and marker by its role and its place among the methods of the run.
"""

from __future__ import annotations

import io
import math
from typing import Any

from benchmark.api import Role
from benchmark.results.run import Run

# Okabe and Ito's colours and more, which people with any colour vision can tell apart. Markers
# differ too.
PALETTE = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#E69F00", "^"),
    ("#CC79A7", "v"),
    ("#009E73", "D"),
    ("#56B4E9", "P"),
    ("#8C6D1F", "h"),
    ("#5B3A8C", "<"),
    ("#A33B3B", ">"),
)
_PALETTES: dict[Role, tuple[tuple[str, str], ...]] = {
    "upper bound": (("#000000", "*"), ("#4D4D4D", "p")),
    "method": PALETTE,
    "lower bound": (("#7F7F7F", "X"), ("#B0B0B0", "d")),
}


def styles(run: Run) -> dict[str, tuple[str, str]]:
    """method -> (colour, marker)."""
    given = {}
    for role, palette in _PALETTES.items():
        for place, method in enumerate(m for m in run.methods if run.roles[m] == role):
            given[method] = palette[place % len(palette)]
    return given


def rows_by_method(run: Run) -> dict[str, dict[str, Any]]:
    """method -> metric -> its row of the summary, in the tables' order."""
    rows: dict[str, dict[str, Any]] = {method: {} for method in run.methods}
    for row in run.summary.itertuples():
        rows[str(row.method)][str(row.metric)] = row
    return rows


def error_bar(row: Any) -> list[list[float]] | None:
    """A mean's interval as matplotlib takes it; None where there is none."""
    if math.isnan(row.low):
        return None
    return [[row.mean - row.low], [row.high - row.mean]]


def plain(name: str) -> str:
    """`name` on one line, dollars escaped: matplotlib reads text between dollars as maths."""
    return " ".join(name.split()).replace("$", r"\$")


def tidy(axes: Any) -> None:
    """A faint grid behind the plot, and no box around it."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of that many inches."""
    # Without pyplot: no global state, and no display is needed.
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
    """The figure as an SVG, with words as text: the same bytes each time."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmark"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
