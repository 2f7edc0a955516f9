"""What a reader has to know about the scores: what differs between jobs, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from benchmark.api import CUSTOM
from benchmark.data.manifest import some
from benchmark.report.markdown import count, escape, markdown_table
from benchmark.results.completeness import (
    befallen_counts,
    missing_jobs,
    subjects_in_words,
    uneven_in_words,
    unfinished,
    unscored_counts,
    unscored_jobs,
)
from benchmark.results.merge import run_names
from benchmark.results.run import Run
from benchmark.store.contents import in_words
from benchmark.store.provenance import sources_in
from benchmark.store.records import JobRecord, Model

if TYPE_CHECKING:
    import pandas as pd

_FILES = 20  #: so many altered files are named; further ones are counted
_REASONS = 20  #: the table of images without a score has so many rows; further ones are counted

#: What may differ between jobs whose scores still compare, and where a record has it.
MAY_DIFFER: dict[str, Callable[[JobRecord], Any]] = {
    "backbone": lambda record: record.job.fit.backbone and record.job.fit.backbone.label,
    "backbone kind": lambda record: record.job.fit.backbone and _code_of(record.job.fit.backbone),
    "sampler": lambda record: record.job.sampler and record.job.sampler.said(),
    "precision": lambda record: record.job.fit.precision,
    "device": lambda record: record.provenance.get("device"),
    "commit": lambda record: record.provenance.get("commit"),
}


def _code_of(model: Model) -> str:
    """Empty for a model that another tool ran."""
    return model.version and f"{model.kind} version {model.version}"


def under(run: Run) -> str:
    """The protocol of a table's scores, for its heading."""
    return f"({escape(run.protocol)})"


def found(run: Run, what: str) -> list[str]:
    """What the jobs' records say of `what`, one of MAY_DIFFER, each once."""
    values = [MAY_DIFFER[what](record) for record in run.records]
    texts = (value if isinstance(value, str) else json.dumps(value) for value in values if value)
    return sorted(set(texts))


def altered_files(run: Run) -> list[str]:
    """Say which files are not as they were written, and so no result of the commands below."""
    return [
        f"**Altered by hand or by accident**: {count(len(part.altered), 'file')} of "
        f"{escape(name)}: {escape(in_words(part.altered, _FILES))}. The scores below are those "
        "that were found, and need not be what was measured.\n"
        for name, part in zip(run_names(run.origins), run.origins, strict=True)
        if part.altered
    ]


def mixed(run: Run) -> list[str]:
    """Say what is not the same for all jobs."""
    differing = {what: values for what in MAY_DIFFER if len(values := found(run, what)) > 1}
    differing |= _texts(run)
    if not differing:
        return []
    text = "; ".join(
        f"{escape(what)}: {escape(', '.join(values))}" for what, values in differing.items()
    )
    return [
        f"**Not all jobs ran alike** ({text}): this may explain part of a difference between "
        "methods.\n"
    ]


def _texts(run: Run) -> dict[str, list[str]]:
    """Plugins from outside of which not all jobs, or scores, are by one text, and its digests."""
    texts: dict[str, set[str]] = {}
    told = [r.provenance for r in run.records] + [r.provenance for r in run.scored]
    for about in told:
        for name, digest in sources_in(about).items():
            texts.setdefault(f"text of {name}", set()).add(digest)
    return {what: sorted(digests) for what, digests in texts.items() if len(digests) > 1}


def incomplete(run: Run) -> list[str]:
    """Say what was planned and is not done, and what some methods have and others lack."""
    text = []
    lacking = missing_jobs(run)
    if lacking:
        lines = "; ".join(
            f"{escape(m)} lacks {', '.join(map(escape, w))}" for m, w in lacking.items()
        )
        text.append(f"**The grid is incomplete**: {lines}.\n")
    elif missing := unfinished(run):
        planned = count(len(missing), "planned job")
        text.append(f"**Not finished**: {planned}: {escape(some(missing))}.\n")
    text += without_scores(run, (run.protocol,))
    if uneven := uneven_in_words(run):
        text.append(
            f"**Not every method drew the same prompts**: {escape(uneven)}. Their means "
            "do not compare. Differences do: they are taken image by image.\n"
        )
    return text


def without_scores(run: Run, protocols: Collection[str]) -> list[str]:
    """Say which jobs have images without scores under one of `protocols`, and what brings these."""
    text = []
    for lacking in unscored_jobs(run):
        if lacking.protocol in protocols:
            what = f" in {escape(', '.join(lacking.metrics))}" if lacking.metrics else ""
            text.append(
                f"**Not scored{what} under {escape(lacking.protocol)}**: "
                f"{count(len(lacking.jobs), 'job')}, {count(lacking.images, 'image')}: "
                f"{escape(some(list(lacking.jobs)))}. To score them: `{lacking.command}`\n"
            )
    return text


def custom_prompts(run: Run) -> list[str]:
    """Say which prompts are somebody's own, as means over all prompts have them, too."""
    prompts = {prompt for record in run.records for prompt in record.job.prompts}
    own = sorted(prompt.template for prompt in prompts if prompt.kind == CUSTOM)
    if not own:
        return []
    which = f"({len(own)} of {len(prompts)}): {escape(some(own))}"
    return [
        f"**Custom prompts** {which}. They count in the "
        "means, which compare with no run without them.\n"
    ]


def uneven_subjects(run: Run) -> list[str]:
    """Say so where methods have different subjects."""
    lacking = subjects_in_words(run)
    if not lacking:
        return []
    return [
        f"**Not every method has every subject** ({escape(lacking)}), so these means are over "
        "different subjects and do not compare.\n"
    ]


def unscored(run: Run) -> str:
    """How many images have no score, in what, and why; nothing where all have one."""
    counts = unscored_counts(run)
    nowhere = [name for name in run.metrics if name not in set(run.scores["metric"])]
    text = []
    if nowhere:
        labels = ", ".join(escape(run.metric(name).label) for name in nowhere)
        text.append(f"No image of this run has a score in: {labels}.\n")
    if len(counts):
        text.append(_reasons(run, counts, "why"))
        more = counts["images"].iloc[_REASONS:].sum()
        also = f" {more} more have none for further reasons." if more else ""
        text.append(f"Means are over the images that have a score.{also}\n")
    if not text:
        return ""
    return "\n".join([f"## Without a score {under(run)}\n", *text])


def befallen(run: Run) -> str:
    """How many images are scored although something befell them, in what; nothing if none are."""
    counts = befallen_counts(run)
    if counts.empty:
        return ""
    more = counts["images"].iloc[_REASONS:].sum()
    also = f" {more} more are scored so for further reasons." if more else ""
    return (
        f"## Scored all the same {under(run)}\n\n{_reasons(run, counts, 'what befell them')}\n"
        f"Such an image has the score that the protocol gives it, and counts in the means.{also}\n"
    )


def _reasons(run: Run, counts: pd.DataFrame, heading: str) -> str:
    rows = [
        [
            escape(str(row.method)),
            escape(run.metric(str(row.metric)).label),
            escape(str(row.reason)),
            str(row.images),
        ]
        for row in counts.head(_REASONS).itertuples()
    ]
    return markdown_table(["method", "metric", heading, "images"], rows, text=(0, 1, 2))


def counted(run: Run) -> list[str]:
    """What methods counted as they drew, in their words."""
    found: dict[tuple[str, str], int] = {}
    for record in run.records:
        for what, number in record.counts.items():
            key = record.job.method, what
            found[key] = found.get(key, 0) + number
    return [
        f"{escape(m)}: {escape(what)}: {count(n, 'image')}.\n" for (m, what), n in found.items()
    ]


def in_a_row(run: Run) -> str:
    """What the images of a row have in common, in words."""
    prompted = {record.job.method for record in run.records if record.job.prompted}
    if not run.elsewhere:
        return "Each row has one prompt and one noise: only the methods differ."
    if prompted <= run.elsewhere:
        return "Each row has one prompt; the images were made elsewhere, each from its own noise."
    return (
        "Each row has one prompt and one noise, except for images made elsewhere, which come from "
        "noise of their own."
    )
