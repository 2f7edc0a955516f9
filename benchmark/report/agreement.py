"""Whether the scores agree with the paper's orderings."""

from __future__ import annotations

from collections import Counter

from benchmark.report.caveats import under
from benchmark.report.differences import text_columns, too_few
from benchmark.report.markdown import (
    NOTHING,
    escape,
    markdown_table,
    probability,
    signed,
)
from benchmark.results.claims import Verdict
from benchmark.results.run import Run
from benchmark.results.significance import LEVEL


def agreement(run: Run) -> str:
    """Which of the paper's orderings these scores show, and how large each effect is."""
    verdicts = run.verdicts
    found = [verdict.margin for verdict in verdicts if verdict.margin.subjects]
    text = [f"## Does it agree with the paper? {under(run)}\n"]
    if not found:
        return "\n".join([*text, "None of the paper's comparisons is in this run.\n"])
    counts = Counter(verdict.words for verdict in verdicts)
    summary = "; ".join(f"{words}: {number}" for words, number in counts.most_common())
    header = ["ordering", "metric", "verdict", "here", "p", "paper", "source"]
    text += [
        f"Of {len(verdicts)} comparisons, {summary}.\n",
        markdown_table(
            header, [_ordering_row(run, verdict) for verdict in verdicts], text=text_columns(header)
        ),
        "Differences in the direction of the claim, paired over subjects, with 95 % bootstrap "
        "intervals, beside the paper's, which were measured on other backbones, subjects and "
        "encoders: their signs are to be met, not their sizes. *p*: sign flips over subjects, "
        "where a bound is claimed of the distance to it; all corrected together (Holm). An "
        "ordering *holds* where the interval "
        f"lies on its side of 0, or within its bound, and p < {LEVEL}; *in the mean, not shown* "
        "where either does not.\n",
        *too_few([found]),
    ]
    return "\n".join(text)


def _ordering_row(run: Run, verdict: Verdict) -> list[str]:
    ordering, found = verdict.ordering, verdict.margin
    claim = ordering.claim
    if ordering.at_most is not None:
        claim += f" by at most {ordering.at_most:g}"
    if ordering.within is not None:
        claim += f": within {ordering.within:g}"
    paper = ordering.published_difference
    return [
        f"{ordering.id}. {escape(claim)}",
        metric_label(run, ordering.metric),
        verdict.words,
        signed(verdict.mean, verdict.low, verdict.high) if found.subjects else NOTHING,
        probability(found.p),
        NOTHING if paper is None else f"{paper:+.3f}",
        escape(ordering.source) or NOTHING,
    ]


def metric_label(run: Run, metric: str) -> str:
    """The metric's label, or its name where the protocol has no such metric; escaped."""
    declared = run.scoring.metrics.get(metric)
    return escape(metric if declared is None else declared.label)
