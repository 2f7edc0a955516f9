"""The report's sections on what is certain: agreement with the paper, differences, seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmark.report.markdown import (
    LABELS,
    NOTHING,
    count,
    escape,
    markdown_table,
    probability,
    signed,
    title,
)
from benchmark.report.provenance import under
from benchmark.results.claims import Verdict
from benchmark.results.run import Run
from benchmark.results.significance import LEVEL, Difference, compare, paired, smallest_p
from benchmark.results.statistics import CONTROLS, MINIMUM_SUBJECTS, seed_spread, sort_metrics

_REFERENCE = "dreambooth"
_TEXT = ("ordering", "metric", "source", "method", "verdict", "matters to people")
_COMPARED = ("dino", "clip_i", "clip_t", "pres", "div")


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
            header, [_ordering_row(verdict) for verdict in verdicts], text=_columns(header)
        ),
        "Differences in the direction of the claim, paired over subjects, with 95 % bootstrap "
        "intervals, beside the paper's, which were measured on other backbones, subjects and "
        "encoders: their signs are to be met, not their sizes. *p*: sign flips over subjects, "
        "where a bound is claimed of the distance to it; all corrected together (Holm). An "
        "ordering *holds* where the interval "
        f"lies on its side of 0, or within its bound, and p < {LEVEL}; *in the mean, not shown* "
        "where either does not.\n",
        *_too_few([found]),
    ]
    return "\n".join(text)


def _ordering_row(verdict: Verdict) -> list[str]:
    ordering, found = verdict.ordering, verdict.margin
    claim = ordering.claim
    if ordering.at_most is not None:
        claim += f" by at most {ordering.at_most:g}"
    if ordering.within is not None:
        claim += f": within {ordering.within:g}"
    paper = ordering.published_difference
    return [
        f"{ordering.id}. {escape(claim)}",
        title(ordering.metric),
        verdict.words,
        signed(verdict.mean, verdict.low, verdict.high) if found.subjects else NOTHING,
        probability(found.p),
        NOTHING if paper is None else f"{paper:+.3f}",
        escape(ordering.source) or NOTHING,
    ]


def differences(run: Run, significant: dict[str, float]) -> str:
    """Every method against one. `significant`: the differences that mattered to the paper's users.

    p-values are corrected within a table: over the methods, for one metric.
    """
    if len(run.methods) < 2:
        return ""
    reference = _reference(run.methods)
    others = [method for method in run.methods if method != reference]
    text = [
        f"## Differences {under(run)}\n",
        f"Each method minus {escape(reference)}, on the same prompts{_noise(run)} (subject by "
        "subject where they share none): mean over subjects and 95 % bootstrap interval. *p*: "
        "sign flips over subjects, corrected for the methods of a table (Holm). *Better* and "
        f"*worse*: p < {LEVEL} and an interval on one side of 0.\n",
    ]
    significant = {name: limit * run.factor(name) for name, limit in significant.items()}
    if significant:
        limits = ", ".join(f"{limit:g} in {title(name)}" for name, limit in significant.items())
        text.append(
            f"Set beside that, what is large enough to matter to people: about {limits}, by the "
            "paper's authors.\n"
        )
    families = []
    for metric in (metric for metric in _COMPARED if metric in run.by_image):
        samples = {m: paired(run.by_image[metric], m, reference) for m in others}
        samples = {method: values for method, values in samples.items() if len(values)}
        found = dict(zip(samples, compare(list(samples.values())), strict=True))
        if found:
            text.append(f"### {LABELS[metric]}\n")
            text.append(_difference_table(metric, found, significant.get(metric)))
            families.append(list(found.values()))
    return "\n".join([*text, *_too_few(families)])


def _noise(run: Run) -> str:
    return " and noise, but for those made elsewhere" if run.elsewhere else " and noise"


def _reference(methods: Sequence[str]) -> str:
    rivals = [method for method in methods if method not in CONTROLS]
    return _REFERENCE if _REFERENCE in methods else [*rivals, *methods][0]


def _difference_table(metric: str, found: dict[str, Difference], limit: float | None) -> str:
    header = ["method", "verdict", "difference", "p", "subjects"]
    rows = [
        [
            escape(method),
            _verdict(metric, difference),
            signed(difference.mean, difference.low, difference.high),
            probability(difference.p),
            str(difference.subjects),
        ]
        for method, difference in found.items()
    ]
    if limit is not None:
        header.insert(2, "matters to people")
        for row, difference in zip(rows, found.values(), strict=True):
            # As it is shown: 0.7 - 0.6 should count as 0.1.
            row.insert(2, "yes" if round(abs(difference.mean), 3) >= limit else "no")
    return markdown_table(header, rows, text=_columns(header))


def _columns(header: Sequence[str]) -> list[int]:
    """Which of a table's columns hold text."""
    return [place for place, name in enumerate(header) if name in _TEXT]


def _verdict(metric: str, difference: Difference) -> str:
    if smallest_p(difference.subjects) >= LEVEL:
        return "too few subjects"
    if not difference.shown:
        return "no difference shown"
    higher_is_better = LABELS[metric].endswith("↑")
    return "better" if (difference.mean > 0) == higher_is_better else "worse"


def _too_few(families: Sequence[Sequence[Difference]]) -> list[str]:
    """Say so where there are too few subjects for a test, or for one that can show anything.

    A family's differences were corrected together.
    """
    found = [difference for family in families for difference in family if difference.subjects]
    if not found:
        return []
    least = min(difference.subjects for difference in found)
    enough = next(n for n in range(1, 100) if smallest_p(n) < LEVEL)
    if least < enough:
        interval = "" if least >= MINIMUM_SUBJECTS else f", an interval {MINIMUM_SUBJECTS}"
        return [
            f"A test takes {enough} subjects{interval}: with {least} even the smallest p there "
            f"can be is {smallest_p(least):.3f}, so none is given.\n"
        ]
    together = max(len(family) for family in families)
    most = max(difference.subjects for difference in found)
    if together * smallest_p(most) < LEVEL:
        return []
    return [
        f"With {count(most, 'subject')} the smallest p there can be is {smallest_p(most):.3f}, "
        f"and correcting {together} comparisons together leaves none below {LEVEL}: more subjects "
        "are needed to show anything.\n"
    ]


def seed_to_seed(run: Run) -> str:
    """How far the means move with the seed alone; nothing of a run with one seed."""
    spread = seed_spread(run.scores)
    if spread.empty:
        return ""
    found = {(row.method, row.metric): row for row in spread.itertuples()}
    metrics = sort_metrics(spread["metric"].unique())
    rows = []
    for method in (method for method in run.methods if method in set(spread["method"])):
        own: list[Any] = [found[method, metric] for metric in metrics if (method, metric) in found]
        cells = [
            f"{found[method, metric].std:.3f}" if (method, metric) in found else NOTHING
            for metric in metrics
        ]
        seeds, subjects = (max(getattr(row, n) for row in own) for n in ("seeds", "subjects"))
        rows.append([escape(method), *cells, str(seeds), str(subjects)])
    header = ["method", *(title(metric) for metric in metrics), "seeds", "subjects"]
    return (
        f"## Seed to seed {under(run)}\n\n{markdown_table(header, rows)}\n"
        "Standard deviation over seeds (n - 1) of the mean over those subjects that have every "
        "seed.\n"
    )
