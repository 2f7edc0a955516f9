"""The learning curves: a panel per loss term, a line per method, from the losses of the records.

figure = draw_learning(read_run(Path("runs/pocket-1a2b3c4d")))

Methods differ in colour and marker, so that it can be read in grey and with any colour vision.
There is no band of an interval: the lines are noisy and many, and bands would hide them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.figures.drawing import SCREEN, Style, columns_of, plain, styles, tidy
from benchmark.results.run import Run
from benchmark.store.records import JobRecord

if TYPE_CHECKING:
    import pandas as pd

_IN_LEGEND = 3  #: columns of the legend
_MARKERS = 8  #: on a line, about


def draw_learning(run: Run, style: Style = SCREEN) -> Any | None:
    """The matplotlib figure of the jobs' records. None if none of them has losses.

    Panels in the order in which the methods report their terms.
    """
    from matplotlib.ticker import MaxNLocator

    losses = _losses(run.records)
    if losses.empty:
        return None
    terms = list(dict.fromkeys(term for record in run.records for term in record.losses))
    methods = [method for method in run.methods if method in set(losses["method"])]
    looks = styles(run)
    columns = columns_of(len(terms))
    lines = math.ceil(len(terms) / columns)
    figure = style.figure(1.0 + 4.2 * columns, 1.4 + 2.9 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    handles: dict[str, Any] = {}
    for axes, term in zip(panels, terms, strict=False):
        handles |= _draw_term(axes, losses[losses["term"] == term], methods, looks, style)
        axes.set_title(plain(f"{term} term"), fontsize=style.points(10))
        axes.set_xlabel("training steps", fontsize=style.points(9))
        axes.set_ylabel("denoising loss", fontsize=style.points(9))
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        tidy(axes, style)
    for axes in panels[len(terms) :]:
        axes.set_visible(False)
    figure.legend(
        [handles[method] for method in methods],
        [plain(method) for method in methods],
        loc="outside lower center",
        ncols=min(_IN_LEGEND, len(methods)),
        fontsize=style.points(9),
        frameon=False,
    )
    return figure


def _losses(records: Sequence[JobRecord]) -> pd.DataFrame:
    """One row per term, method and step: the mean over each subject's seeds, then over subjects."""
    import pandas as pd

    rows = [
        (term, record.job.method, step, record.job.subject, loss)
        for record in records
        for term, points in record.losses.items()
        for step, loss in points
    ]
    keys = ["term", "method", "step"]
    losses = pd.DataFrame(rows, columns=[*keys, "subject", "loss"])
    return losses.groupby([*keys, "subject"])["loss"].mean().groupby(keys).mean().reset_index()


def _draw_term(
    axes: Any,
    losses: pd.DataFrame,
    methods: Sequence[str],
    looks: dict[str, tuple[str, str]],
    style: Style,
) -> dict[str, Any]:
    """method -> its line."""
    handles = {}
    for method in methods:
        points = losses[losses["method"] == method]
        if points.empty:
            continue
        colour, marker = looks[method]
        every = math.ceil(len(points) / _MARKERS)
        # Shifted, so that markers of methods with the same steps do not cover each other.
        first = methods.index(method) % every
        (handles[method],) = axes.plot(
            points["step"], points["loss"], color=colour, marker=marker,
            markersize=style.points(5), markevery=(first, every), linewidth=style.points(1.3),
        )  # fmt: skip
    if losses["loss"].min() > 0:
        # From 0: otherwise noise alone would fill a panel with level lines.
        axes.set_ylim(0, 1.05 * losses["loss"].max())
    return handles
