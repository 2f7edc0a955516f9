"""Every method against one: what differs, how certain it is, and how far seeds move a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.report.caveats import under
from benchmark.report.markdown import (
    NOTHING,
    count,
    escape,
    heading,
    markdown_table,
    probability,
    signed,
)
from benchmark.results.run import Run
from benchmark.results.significance import LEVEL, Difference, assess, paired, smallest_p
from benchmark.results.statistics import MINIMUM_SUBJECTS, spreads_over_seeds

_TEXT = ("ordering", "metric", "source", "method", "verdict", "matters to people")
_FINE = 0.001  #: p-values are printed with three decimals: smaller steps are not worth a sentence


def headline(run: Run) -> list[str]:
    """The metrics to compare methods in: fidelity, and the first of preservation and diversity.

    Only metrics that have scores and a better direction.
    """
    wanted = [
        *run.about("subject fidelity", "prompt fidelity"),
        *run.about("prior preservation")[:1],
        *run.about("diversity")[:1],
    ]
    return [
        name
        for name in wanted
        if name in run.by_image and run.metric(name).higher_is_better is not None
    ]


def differences_section(run: Run, significant: dict[str, float]) -> str:
    """Every method against one. `significant`: metric -> the difference that matters to people.

    p-values are corrected within a table: over the methods, for one metric.
    """
    if len(run.methods) < 2:
        return ""
    reference = run.reference
    others = [method for method in run.methods if method != reference]
    text = [
        f"## Differences {under(run)}\n",
        f"Each method minus {escape(reference)}, on the same prompts{_noise(run)} (or subject by "
        "subject, if they share none): mean over subjects and 95 % bootstrap interval. *p*: sign "
        "flips over subjects, corrected for the methods of a table (max-T of Westfall and Young). "
        f"*Better* and *worse* need p < {LEVEL} and an interval on one side of 0.\n",
    ]
    if significant:
        limits = ", ".join(
            f"{limit:g} in {escape(run.metric(name).label)}" for name, limit in significant.items()
        )
        text.append(
            f"The paper's authors call a difference of about {limits} large enough to matter to "
            "people.\n"
        )
    tested: list[Difference] = []
    for metric in headline(run):
        samples = {m: paired(run.by_image[metric], m, reference) for m in others}
        samples = {method: values for method, values in samples.items() if len(values)}
        found = dict(zip(samples, assess(list(samples.values())), strict=True))
        if found:
            text.append(f"### {escape(heading(run.metric(metric)))}\n")
            text.append(_difference_table(run, metric, found, significant.get(metric)))
            tested += found.values()
    return "\n".join([*text, *few_subjects(tested)])


def _noise(run: Run) -> str:
    return " and noise, except for images made elsewhere" if run.elsewhere else " and noise"


def _difference_table(
    run: Run, metric: str, found: dict[str, Difference], limit: float | None
) -> str:
    higher_is_better = bool(run.metric(metric).higher_is_better)
    header = ["method", "verdict", "difference", "p", "subjects"]
    rows = [
        [
            escape(method),
            verdict_on(difference, higher_is_better),
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
    return markdown_table(header, rows, text=text_columns(header))


def verdict_on(difference: Difference, higher_is_better: bool | None) -> str:
    """`better` or `worse`, or of a metric without a better direction `higher` or `lower`; or why
    neither is said.
    """
    if smallest_p(difference.subjects) >= LEVEL:
        return "too few subjects"
    if not difference.shown:
        return "no difference shown"
    if higher_is_better is None:
        return "higher" if difference.mean > 0 else "lower"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"


def text_columns(header: Sequence[str]) -> list[int]:
    """Which of a table's columns hold text."""
    return [place for place, name in enumerate(header) if name in _TEXT]


def few_subjects(found: Sequence[Difference]) -> list[str]:
    """Say so where there are too few subjects for a test, or for p-values below what is printed."""
    subjects = sorted({difference.subjects for difference in found if difference.subjects})
    if not subjects:
        return []
    least, most = subjects[0], subjects[-1]
    enough = next(n for n in range(1, 100) if smallest_p(n) < LEVEL)
    if least < enough:
        interval = "" if least >= MINIMUM_SUBJECTS else f", an interval {MINIMUM_SUBJECTS}"
        return [
            f"A test needs {enough} subjects{interval}: with {least}, the smallest possible p is "
            f"{smallest_p(least):.3f}, so none is given.\n"
        ]
    unequal = (
        "" if least == most else f"; those of {least} subjects hardly reach as low beside them"
    )
    if smallest_p(least) < _FINE:
        return []
    return [
        f"With {count(most, 'subject')} the smallest possible p is {smallest_p(most):.3f}, however "
        f"many comparisons there are{unequal}.\n"
    ]


def seed_to_seed(run: Run) -> str:
    """How far the means move with the seed alone; nothing of a run with one seed."""
    spread = spreads_over_seeds(run.scores, methods=run.methods, metrics=run.metrics)
    if spread.empty:
        return ""
    found: dict[Any, Any] = {(row.method, row.metric): row for row in spread.itertuples()}
    metrics = [metric for metric in run.metrics if metric in set(spread["metric"])]
    rows = []
    for method in (method for method in run.methods if method in set(spread["method"])):
        own: list[Any] = [found[method, metric] for metric in metrics if (method, metric) in found]
        cells = [
            f"{found[method, metric].std:.3f}" if (method, metric) in found else NOTHING
            for metric in metrics
        ]
        seeds, subjects = (max(getattr(row, n) for row in own) for n in ("seeds", "subjects"))
        rows.append([escape(method), *cells, str(seeds), str(subjects)])
    labels = (escape(run.metric(metric).label) for metric in metrics)
    header = ["method", *labels, "seeds", "subjects"]
    return (
        f"## Seed to seed {under(run)}\n\n{markdown_table(header, rows)}\n"
        "Standard deviation over seeds (n - 1) of the mean over subjects that have every seed.\n"
    )
