"""calibration.png: AUC, the score along morphs, and what else moves a score.

Metrics differ in colour, hatch, marker and line, so that any eye and any printer tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.pocket.calibration_arithmetic import Finding, at
from benchmark.pocket.calibration_scenes import (
    AMOUNTS,
    MORPHS,
    OF_PROMPTS,
    OF_SUBJECTS,
    STANDARD,
)
from benchmark.report.figures.drawing import SCREEN, png_of, tidy

# Okabe and Ito's colours, from dark to light: told apart in grey as well.
LOOKS = {
    "dino": ("DINO", "#0072B2", "", "o"),
    "clip_i": ("CLIP-I", "#E69F00", "///", "s"),
    "dino_masked": ("masked DINO", "#56B4E9", "xxx", "^"),
    "clip_t": ("CLIP-T", "#F0E442", "...", "D"),
}


def calibration_png(findings: Sequence[Finding]) -> bytes:
    """Four panels, as a PNG."""
    from matplotlib.patches import Patch

    figure = SCREEN.figure(12.5, 9.0)
    apart, along, subject, prompt = figure.subplots(2, 2).flatten()
    _draw_separations(apart, [f for f in findings if f.quantity == "auc"])
    _draw_morphs(along, findings)
    shares = [f for f in findings if f.quantity == "share" and f.axis != STANDARD[f.metric]]
    _draw_bars(subject, [f for f in shares if f.metric != OF_PROMPTS], origin=0)
    _mark(subject, 1, "a colour-matched\nclassmate")
    subject.set_title(
        "What moves DINO, masked or not, and CLIP-I\n(share of a classmate's drop)", fontsize=10
    )
    _draw_bars(prompt, [f for f in shares if f.metric == OF_PROMPTS], origin=0)
    _mark(prompt, 1, "another\nplace ", side="right")
    prompt.set_title("What moves CLIP-T\n(share of another place's move)", fontsize=10)
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.6, label=name)
        for name, colour, hatch, _ in LOOKS.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return png_of(figure)


def _draw_separations(axes: Any, findings: Sequence[Finding]) -> None:
    _draw_bars(axes, findings, origin=0.5)
    axes.axvline(0.5, color="black", linewidth=1)
    axes.set_xlim(right=1.005)
    axes.set_title("AUC: what is told apart (0.5 is chance)", fontsize=10)


def _draw_morphs(axes: Any, findings: Sequence[Finding]) -> None:
    found = {(f.metric, f.axis, f.quantity): f for f in findings}
    for axis, line in zip(MORPHS, ("-", "--"), strict=True):
        for metric in OF_SUBJECTS:
            name, colour, _, marker = LOOKS[metric]
            curve = [found[metric, axis, at(amount)] for amount in AMOUNTS]
            axes.plot(
                AMOUNTS,
                [f.value for f in curve],
                color=colour,
                linestyle=line,
                marker=marker,
                markerfacecolor=colour if line == "-" else "white",
                markersize=5,
                label=f"{name}, {axis}",
            )
            bounds = [f.low for f in curve], [f.high for f in curve]
            axes.fill_between(AMOUNTS, *bounds, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("amount of the other subject")
    axes.set_ylabel("mean score")
    axes.legend(fontsize=7, framealpha=0.85, edgecolor="none", loc="lower left")
    axes.set_title("The score as the subject turns into another", fontsize=10)
    tidy(axes, SCREEN)


def _draw_bars(axes: Any, findings: Sequence[Finding], *, origin: float) -> None:
    """A row an axis, in it a bar a metric, from `origin`, with its interval and its value."""
    rows = list(dict.fromkeys(f.axis for f in findings))
    metrics = list(dict.fromkeys(f.metric for f in findings))
    for f in findings:
        sharing = [m for m in metrics if any((g.metric, g.axis) == (m, f.axis) for g in findings)]
        height = 0.8 / len(sharing)
        place = rows.index(f.axis) + (sharing.index(f.metric) - (len(sharing) - 1) / 2) * height
        _, colour, hatch, _ = LOOKS[f.metric]
        axes.barh(
            place,
            f.value - origin,
            left=origin,
            height=0.9 * height,
            color=colour,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.6,
        )
        axes.plot([f.low, f.high], [place, place], color="black", marker="|", linewidth=1.4)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    tidy(axes, SCREEN)


def _mark(axes: Any, at: float, text: str, side: str = "left") -> None:
    axes.axvline(at, color="black", linestyle=":", linewidth=1.2)
    axes.annotate(
        text,
        (at, 0.52),
        xycoords=("data", "axes fraction"),
        xytext=(4 if side == "left" else -4, 0),
        textcoords="offset points",
        fontsize=8,
        ha=side,
        va="center",
    )
