"""What the report says of the runs behind it: which they are, what differs, what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmark.data.manifest import some
from benchmark.report.markdown import NOTHING, count, escape, markdown_table
from benchmark.results.merge import run_names, uneven_prompts
from benchmark.results.run import Run, missing_jobs, unfinished

#: What may differ between jobs without their scores being of another kind, and where it stands.
_MAY_DIFFER: dict[str, Callable[[dict[str, Any]], Any]] = {
    "backbone": lambda record: record["job"].get("backbone"),
    "sampler": lambda record: record["job"].get("sampler"),
    "precision": lambda record: record["provenance"].get("precision"),
    "device": lambda record: record["provenance"].get("device"),
    "commit": lambda record: record["provenance"].get("commit"),
}


def under(run: Run) -> str:
    """The protocol of a table's scores, for its heading."""
    return f"({escape(run.protocol)})"


def runs(run: Run) -> str:
    """A table of the runs that were put together; nothing for a run's own report."""
    if not run.parts:
        return ""
    rows = []
    for name, part in zip(run_names(run.parts), run.parts, strict=True):
        texts = [_found(part, what) for what in ("backbone", "precision", "device", "commit")]
        seeds = sorted(part.scores["seed"].unique(), key=int)
        rows.append(
            [
                escape(name),
                escape(", ".join(part.methods)),
                str(part.scores["subject"].nunique()),
                ", ".join(seeds),
                *(escape(", ".join(text)) or NOTHING for text in texts),
            ]
        )
    header = ["run", "methods", "subjects", "seeds", "backbone", "precision", "device", "commit"]
    return f"## Runs\n\n{markdown_table(header, rows, text=(0, 1, 4, 5, 6, 7))}"


def mixed(run: Run) -> list[str]:
    """Say plainly what is not the same for all jobs."""
    differing = {what: found for what in _MAY_DIFFER if len(found := _found(run, what)) > 1}
    if not differing:
        return []
    text = "; ".join(f"{what}: {escape(', '.join(found))}" for what, found in differing.items())
    return [
        f"**Not all jobs ran alike** ({text}): part of a difference between methods may come from "
        "that.\n"
    ]


def incomplete(run: Run) -> list[str]:
    """Say what was planned and not done, and what some methods have and others lack."""
    text = []
    lacking = missing_jobs(run.scores)
    if lacking:
        lines = "; ".join(
            f"{escape(m)} lacks {', '.join(map(escape, w))}" for m, w in lacking.items()
        )
        text.append(f"**The grid is incomplete**: {lines}.\n")
    elif missing := unfinished(run):
        planned = count(len(missing), "planned job")
        text.append(f"**Not finished**: {planned}, {escape(some(missing))}.\n")
    uneven = uneven_prompts(run)
    if uneven:
        text.append(
            f"**Not every method drew the same prompts** of {', '.join(map(escape, uneven))}: "
            "means over them do not compare. Differences do: they are taken image by image.\n"
        )
    return text


def _found(run: Run, what: str) -> list[str]:
    values = [_MAY_DIFFER[what](record) for record in run.records]
    texts = (value if isinstance(value, str) else json.dumps(value) for value in values if value)
    return sorted(set(texts))
