"""Scores over a training: the curve of its checkpoints, and where it turns.

A checkpoint knows one subject, so what is resampled are prompts: each counts once, however many
images it has. Two checkpoints are compared prompt by prompt, as they share prompts and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.config.registry import variant
from benchmark.report.caveats import under
from benchmark.report.markdown import (
    NOTHING,
    escape,
    heading,
    markdown_table,
    signed,
    with_interval,
)
from benchmark.results.run import Run
from benchmark.results.statistics import MINIMUM_SUBJECTS, interval
from benchmark.store.files import write_atomically

COLUMNS = ("method", "value", "metric", "mean", "low", "high", "prompts")
RISES, FALLS = "subject fidelity", "prompt fidelity"
_PROMPT = ["subject", "prompt_kind", "prompt"]


@dataclass(frozen=True)
class Turn:
    """Where a metric turns: each is one of the checkpoints' numbers, from the lowest on."""

    first: int
    top: int  #: the last that is better than the one that was the best before it
    fall: int | None  #: the first after `top` that is worse than it
    last: int
    compared: bool  #: whether there are prompts enough for intervals


def numbers(run: Run, unit: str) -> dict[int, str]:
    """How far checkpoints were trained -> the methods that they are, the lowest first."""
    found = {}
    for record in run.records:
        settings = variant(record.job.method)[1]
        if record.job.role == "method" and [*settings] == [unit]:
            found[int(settings[unit])] = record.job.method
    return dict(sorted(found.items()))


def prompt_differences(images: pd.DataFrame, method: str, reference: str) -> pd.Series:
    """`method` minus `reference` for each prompt that both drew, over its images.

    `images`: those of one metric, as `benchmark.results.significance.by_image`.
    """
    return (
        (images[method] - images[reference]).dropna().groupby(level=_PROMPT, observed=True).mean()
    )


def turn_of(images: pd.DataFrame, points: dict[int, str], *, higher_is_better: bool) -> Turn:
    """Where the curve of one metric turns; `points` as `numbers`, those with scores.

    The first checkpoint is the mark. A later one becomes the mark if the 95 % interval of its
    difference from the mark, over prompts, lies on the better side of 0. The last mark is the top;
    the first after it whose interval lies on the worse side is the fall.
    """
    order = [*points]
    top, fall, compared = order[0], None, False
    for number in order[1:]:
        differences = prompt_differences(images, points[number], points[top])
        low, high = interval(differences.to_numpy() * (1 if higher_is_better else -1))
        compared = compared or not math.isnan(low)
        if low > 0:
            top, fall = number, None
        elif high < 0 and fall is None:
            fall = number
    return Turn(order[0], top, fall, order[-1], compared)


def curve_table(run: Run, points: dict[int, str]) -> pd.DataFrame:
    """Columns COLUMNS: a row per checkpoint and metric with scores; then the controls.

    `mean` is over prompts, `low` and `high` bound its 95 % bootstrap interval over prompts.
    """
    rows = []
    drawn = [(variant(name)[0], str(number), name) for number, name in points.items()]
    named = [*drawn, *((control, "", control) for control in run.controls)]
    for method, value, name in named:
        for metric in run.metrics:
            images = run.by_image.get(metric)
            if images is None or name not in images or images[name].dropna().empty:
                continue
            prompts = images[name].dropna().groupby(level=_PROMPT, observed=True).mean()
            low, high = interval(prompts.to_numpy())
            rows.append((method, value, metric, prompts.mean(), low, high, len(prompts)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_checkpoint_curve(run: Run, unit: str) -> Path | None:
    """Write curve.csv, curve.md, curve.png and curve.svg of a run; returns the PNG's path.

    Of all checkpoints that the directory has scores of, under its first protocol; None if it has
    none.
    """
    from benchmark.report.figures.curve import draw_curve
    from benchmark.report.figures.drawing import figure_files, plain

    if not run.protocols:
        return None
    run = run.under(run.protocols[0])
    points = numbers(run, unit)
    if not points:
        return None
    table = curve_table(run, points)
    text = _text(run, table, points, unit)
    title = "each point a checkpoint; shaded: 95 % interval over prompts"
    figure = draw_curve(run, table, setting=unit, published=[])
    figure.suptitle(plain(title), fontsize=10)
    contents: dict[str, Any] = {
        "curve.csv": table.to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        "curve.md": text,
        **figure_files("curve", figure),
    }
    for name, content in contents.items():
        write_atomically(run.directory / name, content)
    print(text)
    return run.directory / "curve.png"


def _text(run: Run, table: pd.DataFrame, points: dict[int, str], unit: str) -> str:
    metrics = [metric for metric in run.metrics if metric in set(table["metric"])]
    headings = [escape(heading(run.metric(metric))) for metric in metrics]
    subjects = sorted({record.job.subject for record in run.records})
    text = [
        f"# Checkpoints by {unit} {under(run)}\n",
        f"Subject: {escape(', '.join(subjects))}.\n",
        *(f"- {line}" for line in verdicts(run, points, unit)),
        "",
        markdown_table([unit, *headings, "prompts"], _rows(table, metrics)),
        "Means over prompts, with 95 % bootstrap intervals over prompts in brackets, which need "
        f"{MINIMUM_SUBJECTS} prompts. Another subject, or another training, differs by more.\n",
        f"## Gain over the {unit} before\n",
        markdown_table([unit, "before", *headings], _gains(run, points, metrics)),
        "Paired by prompt, as all share prompts and noise; 95 % intervals as above.\n",
        "No fit is timed here: a checkpoint is read, and was trained elsewhere.\n",
        f"![Scores by {unit}](curve.png)\n",
    ]
    return "\n".join(text)


def _rows(table: pd.DataFrame, metrics: Sequence[str]) -> list[list[str]]:
    rows = []
    for (method, value), group in table.groupby(["method", "value"], sort=False):
        scores = {row.metric: row for row in group.itertuples()}
        cells = [
            with_interval(scores[m].mean, scores[m].low, scores[m].high) if m in scores else NOTHING
            for m in metrics
        ]
        rows.append([value or escape(method), *cells, str(group["prompts"].max())])
    return rows


def _gains(run: Run, points: dict[int, str], metrics: Sequence[str]) -> list[list[str]]:
    order, rows = [*points], []
    for before, number in zip(order, order[1:], strict=False):
        cells = []
        for metric in metrics:
            images = run.by_image[metric]
            if not {points[before], points[number]} <= set(images.columns):
                cells.append(NOTHING)
                continue
            differences = prompt_differences(images, points[number], points[before]).to_numpy()
            cells.append(signed(differences.mean(), *interval(differences)))
        rows.append([str(number), str(before), *cells])
    return rows


def verdicts(run: Run, points: dict[int, str], unit: str) -> list[str]:
    """A sentence for each metric of subject and of prompt fidelity: where it turns."""
    lines = []
    for metric in run.about(RISES, FALLS):
        images, record = run.by_image.get(metric), run.metric(metric)
        if images is None or record.higher_is_better is None:
            continue
        scored = {number: method for number, method in points.items() if method in images}
        if len(scored) > 1:
            turn = turn_of(images, scored, higher_is_better=record.higher_is_better)
            say = _fidelity if record.about == RISES else _prompt_fidelity
            lines.append(f"**{escape(record.label)}** ({record.about}) {say(turn, unit)}")
    return lines or [f"One {unit} is no curve: nothing can be said of where it turns."]


def _fidelity(turn: Turn, unit: str) -> str:
    if not turn.compared:
        return f"is not compared: that takes {MINIMUM_SUBJECTS} prompts."
    if turn.top == turn.last:
        return f"still rises at {unit} {turn.last}, the last one."
    if turn.top == turn.first:
        found = f"rises no more after {unit} {turn.first}, the first one"
    else:
        found = f"stops rising at {unit} {turn.top}"
    return f"{found}: no later one is shown to be above it{_below(turn, unit)}."


def _prompt_fidelity(turn: Turn, unit: str) -> str:
    if not turn.compared:
        return f"is not compared: that takes {MINIMUM_SUBJECTS} prompts."
    if turn.fall is None:
        return f"does not begin to fall: none is shown to be below {unit} {turn.top}."
    return f"begins to fall at {unit} {turn.fall}, which is below {unit} {turn.top}."


def _below(turn: Turn, unit: str) -> str:
    return "" if turn.fall is None else f", and {unit} {turn.fall} is below it"
