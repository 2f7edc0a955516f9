"""Choosing settings: a grid of variants of one method on the development subjects.

    python -m benchmark sweep dreambooth --set learning_rate=1e-4,2e-4 --set steps=100,200

The objective is written down here, before any sweep, and is the same for every method: the
geometric mean of DINO over the real images' DINO and of CLIP-T over the untuned model's CLIP-T.
Both ratios have the control that is hard to beat below the line, so neither subject nor prompt
fidelity can be bought with all of the other. Test subjects never take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.report.markdown import markdown_table
from benchmark.results.run import read_run
from benchmark.store.directory import write_atomically

SPLIT = "development"
METRICS = ("dino", "clip_i", "clip_t", "pres", "div", "prior_div")


def development(suite: Suite) -> Suite:
    """`suite` on its development subjects. Raises UserError if it has no splits."""
    if suite.data.split is None:
        raise UserError(
            f"suite '{suite.name}' has no split, so no development subjects to choose settings on: "
            "name one in its [data] table"
        )
    data = suite.data.model_copy(update={"split": SPLIT, "subjects": []})
    return suite.model_copy(update={"data": data})


def variants(method: str, settings: Sequence[str]) -> list[str]:
    """`("dreambooth", ["steps=1,2"])` -> `["dreambooth[steps=1]", "dreambooth[steps=2]"]`."""
    choices = []
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not values:
            raise UserError(f"--set '{setting}' should read KEY=VALUE[,VALUE...]")
        choices.append([f"{key}={value}" for value in values.split(",")])
    return [f"{method}[{','.join(chosen)}]" for chosen in product(*choices)]


def sweep_table(summary: pd.DataFrame, seconds: dict[str, float]) -> pd.DataFrame:
    """One row a variant, best objective first: its metrics' means and its training seconds.

    `summary` is summary.csv's, with rows for `untuned` and `real-images`. Raises UserError if the
    controls are missing.
    """
    means = summary.pivot(index="method", columns="metric", values="mean")
    if not {"untuned", "real-images"} <= set(means.index):
        raise UserError("a sweep needs the finished rows of 'untuned' and 'real-images'")
    table = means[[metric for metric in METRICS if metric in means]].copy()
    fidelity = means["dino"] / means.loc["real-images", "dino"]
    prompt = means["clip_t"] / means.loc["untuned", "clip_t"]
    table.insert(0, "objective", (fidelity * prompt) ** 0.5)
    table["train_seconds"] = pd.Series(seconds)
    return table.sort_values("objective", ascending=False, na_position="last").reset_index()


def write_sweep(run_directory: Path) -> Path:
    """Write sweep.csv and sweep.md of a finished sweep; returns the latter."""
    run = read_run(run_directory)
    seconds: dict[str, list[float]] = {}
    for record in run.records:
        seconds.setdefault(record["job"]["method"], []).append(record["train_seconds"])
    table = sweep_table(run.summary, {m: sum(s) / len(s) for m, s in seconds.items()})
    write_atomically(run_directory / "sweep.csv", table.to_csv(index=False, float_format="%.4f"))
    rows = [
        [str(row[0]), *("-" if value != value else f"{value:.3f}" for value in row[1:])]
        for row in table.itertuples(index=False)
    ]
    text = markdown_table(list(table.columns), rows) + "\n"
    write_atomically(run_directory / "sweep.md", text)
    print(text)
    return run_directory / "sweep.md"
