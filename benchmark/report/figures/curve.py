"""The figure of a curve: a panel per metric, a line per method, the controls as level lines.

Methods differ in colour, marker and dashes, so that it can be read in grey and with any colour
vision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.api import Role
from benchmark.report.figures.drawing import (
    PALETTE,
    SCREEN,
    Style,
    columns_of,
    plain,
    styles,
    tidy,
)
from benchmark.report.markdown import heading
from benchmark.results.run import Run

if TYPE_CHECKING:
    import pandas as pd

_DASHES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)))
_BOUND_DASHES: dict[Role, Any] = {"upper bound": (0, (9, 2)), "lower bound": (0, (1, 1.5))}
_PAPER_STYLES = (((0, (6, 3)), "1"), ((0, (3, 3)), "2"), ((0, (6, 2, 1, 2)), "3"))
_IN_LEGEND = 3  #: columns of the legend
_WIDE = 10.0  #: values that span more than this are laid out by their logarithm


def draw_curve(
    run: Run,
    table: pd.DataFrame,
    *,
    setting: str,
    published: Sequence[dict[str, Any]],
    style: Style = SCREEN,
) -> Any:
    """The matplotlib figure of `curve.curve_table`'s table, of `run` under one protocol.

    `published`: the paper's rows for this setting, each with `label`, `backbone`, `values` and its
    metrics' scores at these.
    """
    metrics = [metric for metric in run.metrics if metric in set(table["metric"])]
    columns = columns_of(len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = style.figure(1.0 + 3.1 * columns, 1.6 + 2.5 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    method_styles = _styles(table)
    handles: dict[str, Any] = {}
    for axes, metric in zip(panels, metrics, strict=False):
        rows = table[table["metric"] == metric]
        paper = [row for row in published if metric in row]
        _lay_out_values(axes, [*table["value"], *(v for row in paper for v in row["values"])])
        handles |= _draw_methods(axes, rows, method_styles, style)
        handles |= _draw_bounds(axes, rows, run, style)
        handles |= _draw_published(axes, metric, paper, style)
        axes.set_title(plain(heading(run.metric(metric))), fontsize=style.points(10))
        axes.set_xlabel(plain(setting.replace("_", " ")), fontsize=style.points(9))
        tidy(axes, style)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(_IN_LEGEND, len(handles)),
        fontsize=style.points(9),
        handlelength=4,
        frameon=False,
    )
    return figure


def _styles(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """method -> its line's colour, marker and dashes, no two of them alike up to 36 methods."""
    methods = list(dict.fromkeys(table.loc[table["value"] != "", "method"]))
    return {
        method: {
            "color": PALETTE[place % len(PALETTE)][0],
            "marker": PALETTE[place % len(PALETTE)][1],
            "linestyle": _DASHES[place % len(_DASHES)],
        }
        for place, method in enumerate(methods)
    }


def _draw_methods(
    axes: Any, rows: pd.DataFrame, method_styles: dict[str, dict[str, Any]], style: Style
) -> dict[str, Any]:
    handles = {}
    widths = {"linewidth": style.points(1.6), "markersize": style.points(6)}
    for method, look in method_styles.items():
        points = rows[(rows["method"] == method) & (rows["value"] != "")]
        if points.empty:
            continue
        x = points["value"].astype(float)
        (line,) = axes.plot(x, points["mean"], **widths, **look)
        axes.fill_between(
            x, points["low"], points["high"], color=look["color"], alpha=0.15, linewidth=0
        )
        handles[plain(method)] = line
    return handles


def _draw_bounds(axes: Any, rows: pd.DataFrame, run: Run, style: Style) -> dict[str, Any]:
    handles = {}
    for row in rows[rows["value"] == ""].itertuples():
        name = str(row.method)
        colour, role = styles(run)[name][0], run.roles[name]
        handles[plain(f"{name} ({role})")] = axes.axhline(
            row.mean, color=colour, linestyle=_BOUND_DASHES[role], linewidth=style.points(1.3)
        )
        if not math.isnan(row.low):
            axes.axhspan(row.low, row.high, color=colour, alpha=0.07, linewidth=0)
    return handles


def _draw_published(
    axes: Any, metric: str, published: Sequence[dict[str, Any]], style: Style
) -> dict[str, Any]:
    handles = {}
    for place, row in enumerate(published):
        dashes, marker = _PAPER_STYLES[place % len(_PAPER_STYLES)]
        (line,) = axes.plot(
            row["values"], row[metric], color="#555555", linestyle=dashes, marker=marker,
            linewidth=style.points(0.8), markersize=style.points(6),
        )  # fmt: skip
        handles[plain(f"paper: {row['label']} ({row['backbone']})")] = line
    return handles


def _lay_out_values(axes: Any, values: Sequence[Any]) -> None:
    """A tick per value; a logarithmic scale where they span much, linear from 0 to the first."""
    from matplotlib.ticker import NullLocator

    written = {float(value): str(value) for value in reversed(values) if value != ""}
    positive = [number for number in written if number > 0]
    if positive and min(written) >= 0 and max(positive) > _WIDE * min(positive):
        if min(written) > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    axes.set_xticks(list(written), [plain(text) for text in written.values()])
    axes.xaxis.set_minor_locator(NullLocator())
