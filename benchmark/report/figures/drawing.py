"""What all figures share: methods' colours and markers, and how a figure is made and written.

A method has its colour and marker by its role and its place among the methods of the run. Sizes are
those of a screen, which a `Style` fits to a paper's columns:

    figure = draw_bars(run.under("pocket-1"), PAPER)
    files = figure_files("bars", figure, PAPER.formats)      # bars.png, bars.svg, bars.pdf
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
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


_BETWEEN_WORDS = r"(?=\[)|(?<=[, ])|(?<=-)(?=[^\W\d])"
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Style:
    """How large things are, against what they are on a screen."""

    scale: float = 1.0  #: of text, lines, marks and heights
    #: Inches of one column and of two, one of which every figure has; None: as wide as it needs.
    widths: tuple[float, float] | None = None
    formats: tuple[str, ...] = ("png", "svg")  #: of FORMATS; a PDF takes longer than the others

    def points(self, points: float) -> float:
        """That many points of a screen, in this style."""
        return self.scale * points

    def figure(self, width: float, height: float) -> Any:
        """An empty matplotlib figure, on a screen of that many inches."""
        # Without pyplot: no global state, and no display is needed.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if self.widths is not None:
            one, two = self.widths
            width = one if width < two else two
        size = width, self.scale * height
        figure = Figure(figsize=size, dpi=130 / self.scale, layout="constrained")
        FigureCanvasAgg(figure)
        return figure


SCREEN = Style()
#: Columns as CVPR's style has them, in which the DreamBooth paper is set; text of 7 points or so.
PAPER = Style(scale=0.75, widths=(3.28, 6.875), formats=FORMATS)
STYLES = {"screen": SCREEN, "paper": PAPER}


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


def name_lines(name: str, width: int) -> str:
    """`name` in lines of at most `width` letters if its words are no longer, as `plain`.

    Broken before `[`, after commas and spaces, and between words with a hyphen; never within one.
    """
    lines = [""]
    for part in re.split(_BETWEEN_WORDS, " ".join(name.split())):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(map(plain, lines))


def columns_of(panels: int) -> int:
    """In how many columns panels are laid out: three or more, so that none is alone in its line."""
    return next(n for n in count(3) if panels <= n or panels % n != 1) if panels > 3 else panels


def tidy(axes: Any, style: Style) -> None:
    """A faint grid behind the plot, no box around it, and small numbers."""
    axes.grid(alpha=0.25, linewidth=style.points(0.6))
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_linewidth(style.points(0.8))
    axes.tick_params(
        labelsize=style.points(9), width=style.points(0.8), length=style.points(3.5),
        pad=style.points(3.5),
    )  # fmt: skip


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


def pdf_of(figure: Any) -> bytes:
    """The figure as a PDF, its fonts embedded as TrueType: the same bytes each time."""
    import matplotlib

    nothing = {"CreationDate": None, "Creator": None, "Producer": None}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata=nothing)
    return buffer.getvalue()


def figure_files(name: str, figure: Any, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """The figure in these formats, by the name of its file."""
    written = {"png": png_of, "svg": svg_of, "pdf": pdf_of}
    return {f"{name}.{suffix}": written[suffix](figure) for suffix in formats}
