"""How a baseline's tolerances stand beside what a metric can show at all: from bound to bound.

    print(table_of(baseline))
    check_tolerances(baseline)      # UserError where a method could lose half of that unnoticed

The distance is that from the lower bound (nothing is trained) to the upper bound (the subject's
own images); of several bounds, the nearest two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.api import Role, UserError
from benchmark.data.manifest import some
from benchmark.results.baseline import Baseline

if TYPE_CHECKING:
    import pandas as pd

SHARE = 0.5  #: of the distance between bounds; a tolerance has to be less


def distances(baseline: Baseline) -> dict[str, float]:
    """Metric -> distance between its bounds, in the metric's unit; without both, not in it."""
    found = {}
    for metric in baseline.task.metrics:
        low, high = (_means(baseline, metric, role) for role in ("lower bound", "upper bound"))
        if low and high:
            found[metric] = min(abs(one - other) for one in low for other in high)
    return found


def _means(baseline: Baseline, metric: str, role: Role) -> list[float]:
    entries = [entry for entry in baseline.methods.values() if entry.role == role]
    return [entry.scores[metric].mean for entry in entries if metric in entry.scores]


def too_wide(baseline: Baseline) -> list[str]:
    """Each score whose tolerance is at least half the distance between its metric's bounds."""
    return [
        f"{method} / {metric} (tolerance {cell.tolerance:.4f}, between bounds {distance:.4f})"
        for metric, distance in distances(baseline).items()
        for method, entry in baseline.methods.items()
        if (cell := entry.scores.get(metric)) is not None and cell.tolerance >= SHARE * distance
    ]


def check_tolerances(baseline: Baseline) -> None:
    """Raise UserError naming each score that could be lost by half and still pass."""
    if wide := too_wide(baseline):
        raise UserError(
            f"these runs make no baseline that can fail: {some(wide)}; run more subjects, prompts "
            "or seeds, leave a metric out of the protocol, or write it anyway with --force"
        )


def table_of(baseline: Baseline) -> str:
    """The tolerances as text: a row a method, a column a metric, the distances on top."""
    import pandas as pd

    between = distances(baseline)
    rows = {"(between bounds)": between} | {
        method: {metric: cell.tolerance for metric, cell in entry.scores.items()}
        for method, entry in baseline.methods.items()
    }
    table: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    table = table.reindex(columns=list(baseline.task.metrics))
    text = table.to_string(float_format="{:.4f}".format, na_rep="-")
    without = [metric for metric in baseline.task.metrics if metric not in between]
    if without:
        text += f"\nwithout two bounds, so not held against them: {', '.join(without)}"
    return f"tolerances of a run of one seed:\n{text}"
