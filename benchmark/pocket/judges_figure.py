"""judges.png: each judge's AUC, and how far it is from the first of JUDGES.

Rows are judges; what is compared differs in colour and marker, so that any eye tells it apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.pocket.judges_arithmetic import Compared
from benchmark.pocket.judges_asked import (
    FROM_CLASSMATE,
    HEADLINE,
    JUDGES,
    MAP,
    STANDARD,
    WITHIN,
    Criterion,
)
from benchmark.report.figures.drawing import PALETTE, SCREEN, png_of, tidy


def judges_png(rows: Sequence[Compared]) -> bytes:
    """Two panels, as a PNG."""
    figure = SCREEN.figure(11.5, 5.0)
    own, away = figure.subplots(1, 2, sharey=True)
    _draw(own, rows, (HEADLINE, FROM_CLASSMATE), against="")
    own.axvline(0.5, color="black", linewidth=1)
    own.set_title("AUC: what is told apart (0.5 is a coin)", fontsize=10)
    own.set_yticks(range(len(JUDGES)), [judge.label for judge in JUDGES.values()])
    own.set_ylim(len(JUDGES) - 0.5, -0.5)
    _draw(away, rows, (HEADLINE, WITHIN, MAP), against=STANDARD)
    away.axvline(0, color="black", linewidth=1)
    away.set_title(f"Paired difference from {JUDGES[STANDARD].label}", fontsize=10)
    return png_of(figure)


def _draw(
    axes: Any, rows: Sequence[Compared], criteria: Sequence[Criterion], *, against: str
) -> None:
    """A row a judge, in it a mark with its interval for each criterion."""
    names = list(JUDGES)
    for i, criterion in enumerate(criteria):
        key = criterion.axis, criterion.quantity
        shown = [row for row in rows if (row.axis, row.quantity) == key and row.against == against]
        places = [names.index(row.metric) + 0.2 * (i - (len(criteria) - 1) / 2) for row in shown]
        colour, marker = PALETTE[i]
        axes.hlines(places, [r.low for r in shown], [r.high for r in shown], color=colour)
        axes.plot(
            [row.value for row in shown],
            places,
            color=colour,
            marker=marker,
            linestyle="",
            label=criterion.label,
        )
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.06)}
    axes.legend(fontsize=8, frameon=False, ncols=len(criteria), **place)
    tidy(axes, SCREEN)
