"""Whether the scores agree with the paper's orderings."""

from __future__ import annotations

from collections import Counter

from benchmark.report.caveats import under
from benchmark.report.differences import few_subjects, text_columns
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
    """Which of the paper's orderings the scores show, and how large each difference is.

    Nothing of a run that has the methods of none.
    """
    verdicts = [verdict for verdict in run.verdicts if verdict.margin.subjects]
    if not verdicts:
        return ""
    counts = Counter(verdict.words for verdict in verdicts)
    summary = "; ".join(f"{words}: {number}" for words, number in counts.most_common())
    of_all = f"{len(verdicts)} comparisons"
    if len(verdicts) < len(run.verdicts):
        of_all = f"the paper's {len(run.verdicts)} comparisons {len(verdicts)} are in this run"
    header = ["ordering", "metric", "verdict", "here", "p", "paper", "source"]
    text = [
        f"## Does it agree with the paper? {under(run)}\n",
        f"Of {of_all}, {summary}.\n",
        markdown_table(
            header, [_ordering_row(run, verdict) for verdict in verdicts], text=text_columns(header)
        ),
        "*here*: difference in the direction of the claim, paired over subjects, with its 95 % "
        "bootstrap interval. *paper*: the paper's difference, measured on other backbones, "
        "subjects and encoders: compare signs, not sizes. *p*: sign flips over subjects, of the "
        "distance to the bound where the claim is a bound; corrected for all comparisons together "
        "(max-T of Westfall and Young). An ordering *holds* if its interval lies on the claimed "
        f"side of 0, or within the bound, and p < {LEVEL}; *holds in the mean, not shown* if only "
        "the mean does.\n",
        *few_subjects([verdict.margin for verdict in verdicts]),
    ]
    return "\n".join(text)


def _ordering_row(run: Run, verdict: Verdict) -> list[str]:
    ordering = verdict.ordering
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
        signed(verdict.mean, verdict.low, verdict.high),
        probability(verdict.margin.p),
        NOTHING if paper is None else f"{paper:+.3f}",
        escape(ordering.source) or NOTHING,
    ]


def metric_label(run: Run, metric: str) -> str:
    """The metric's label, or its name where the protocol has no such metric; escaped."""
    declared = run.scoring.metrics.get(metric)
    return escape(metric if declared is None else declared.label)
