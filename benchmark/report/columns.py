"""What the columns of a table are: the descriptions that metrics are declared with.

    explained(run.under("pocket-1"), ["dino", "clip_t"])     # "*DINO*: DINO cosine to ...; ..."

A metric whose package is not installed is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.api import UserError
from benchmark.config.registry import load_metric
from benchmark.report.markdown import escape
from benchmark.results.run import Run


def explained(run: Run, metrics: Sequence[str]) -> str:
    """A line of Markdown on these metrics of `run`, or nothing."""
    found = {escape(run.metric(name).label): _description(run, name) for name in metrics}
    text = "; ".join(f"*{label}*: {escape(what)}" for label, what in found.items() if what)
    return f"{text}.\n" if text else ""


def _description(run: Run, name: str) -> str:
    record = run.metric(name)
    try:
        return load_metric(record.metric or name).description
    except UserError:
        return ""
