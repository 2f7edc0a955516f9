"""The report's first section: what the run shows, in a few plain sentences.

run = read_run(Path("runs/pocket-1a2b3c4d"))
print(in_short(run.under("pocket-1")))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from benchmark.report.agreement import metric_label
from benchmark.report.caveats import under, uneven_subjects
from benchmark.report.differences import headline
from benchmark.report.markdown import count, escape, shown
from benchmark.results.claims import Verdict
from benchmark.results.comparability import run_seeds
from benchmark.results.completeness import incomparable
from benchmark.results.run import Run
from benchmark.results.significance import assess, paired

_NAMED = 3  #: more methods or orderings than these are counted, not named


def in_short(run: Run) -> str:
    """Which method is best at what, whether the paper agrees, and how certain it is."""
    lines = [*_by_metric(run), *_paper(run), *_copies(run), _certainty(run)]
    uneven = "".join(f"{line}\n" for line in uneven_subjects(run))
    return f"## In short {under(run)}\n\n{uneven}{_introduction(run)}" + "".join(
        f"- {line}\n" for line in lines
    )


def _introduction(run: Run) -> str:
    if len(run.competitors) > 1 and (reason := incomparable(run, run.methods)):
        return (
            f"No method is called the best: {reason}, so their means do not compare. *Differences* "
            "do: they are taken image by image.\n\n"
        )
    if len(run.competitors) > 1:
        return (
            "For each metric, the method with the best mean, and the others that a test finds "
            "worse (corrected for all pairs of methods):\n\n"
        )
    if run.competitors and run.controls:
        return "For each metric, the method's mean and where it lies to the controls:\n\n"
    return ""


def _by_metric(run: Run) -> list[str]:
    lines = []
    comparable = not incomparable(run, run.methods)
    for name in headline(run):
        metric = run.metric(name)
        means = {m: run.means[m, name] for m in run.competitors if (m, name) in run.means}
        if not means:
            continue
        if len(means) == 1:
            ((leader, mean),) = means.items()
            text = f"{escape(leader)}, {shown(mean)}" + _to_controls(run, name, mean, comparable)
        elif not comparable:
            text = f"no best method{_controls(run, name)}"
        else:
            better = max if metric.higher_is_better else min
            leader = better(means, key=means.__getitem__)
            others = [method for method in means if method != leader]
            text = f"{escape(leader)}, {shown(means[leader])}{_against(run, name, leader, others)}"
        lines.append(f"**{escape(metric.label)}** ({escape(metric.about)}): {text}.")
    return lines


def _against(run: Run, metric: str, leader: str, others: Sequence[str]) -> str:
    """What tests say of the leader and each other method.

    Corrected over all pairs, because the leader was chosen by the same scores.
    """
    pairs = list(combinations([leader, *others], 2))
    found = assess([paired(run.by_image[metric], *pair) for pair in pairs])[: len(others)]
    tested = [o for o, d in zip(others, found, strict=True) if not math.isnan(d.p)]
    sign = 1 if run.metric(metric).higher_is_better else -1
    told = [o for o, d in zip(others, found, strict=True) if d.shown and sign * d.mean > 0]
    # A mean is over subjects first, a difference over images: they need not agree.
    behind = [o for o, d in zip(others, found, strict=True) if d.shown and sign * d.mean < 0]
    alike = [other for other in tested if other not in (*told, *behind)]
    parts = []
    if told:
        parts.append(f"better than {_names(told, others, all_of_them='every other')}")
    if behind:
        names = _names(behind, others, all_of_them="every other")
        parts.append(f"worse than {names} on the subjects of both")
    if alike:
        parts.append(f"no difference shown from {_names(alike, others, all_of_them='any other')}")
    return f": {'; '.join(parts)}" if parts else ", the best mean"


def _names(some: Sequence[str], others: Sequence[str], *, all_of_them: str) -> str:
    if len(some) == len(others) > 1:
        return f"{all_of_them} method"
    if len(some) > _NAMED:
        return f"{len(some)} of the {len(others)} others"
    return " and ".join(filter(None, [", ".join(map(escape, some[:-1])), escape(some[-1])]))


def _to_controls(run: Run, metric: str, mean: float, comparable: bool) -> str:
    """How the only method's mean lies to the controls', as they are shown."""
    if not comparable:
        return _controls(run, metric)
    words = []
    for name in run.controls:
        if (name, metric) in run.means:
            other = run.means[name, metric]
            side = "above" if mean > other else "below"
            word = "level with" if shown(mean) == shown(other) else side
            words.append(f"{word} {escape(name)} ({shown(other)})")
    return f": {', '.join(words)}" if words else ""


def _controls(run: Run, metric: str) -> str:
    known = [
        (name, run.means[name, metric]) for name in run.controls if (name, metric) in run.means
    ]
    text = ", ".join(f"{escape(name)} {shown(mean)}" for name, mean in known)
    return f" ({text})" if text else ""


def _paper(run: Run) -> list[str]:
    verdicts = [verdict for verdict in run.verdicts if verdict.margin.subjects]
    if not verdicts:
        return []
    counts = Counter(verdict.words for verdict in verdicts)
    kept = ("holds", "holds in the mean, not shown")
    sentence = f"{counts[kept[0]]} of {len(verdicts)} orderings hold"
    if counts[kept[1]]:
        sentence += f", {counts[kept[1]]} more in the mean only"
    against = [verdict for verdict in verdicts if verdict.words not in kept]
    if len(against) > _NAMED:
        sentence += f"; {len(against)} do not"
    else:
        sentence += "".join(f"; {_told(run, verdict)}" for verdict in against)
    return [f"**The paper**: {sentence}."]


def _told(run: Run, verdict: Verdict) -> str:
    ordering = verdict.ordering
    claim = ordering.claim
    if ordering.bound is not None:
        claim += f", {'by at most' if ordering.within is None else 'within'} {ordering.bound:g}"
    return f"*{escape(claim)}* ({metric_label(run, ordering.metric)}): {verdict.words}"


def _copies(run: Run) -> list[str]:
    if not run.above_upper_bound:
        return []
    return [f"**Likely copies**: {copiers(run)}; look at the images."]


def copiers(run: Run) -> str:
    """The methods above the upper bound, and how near their images come to a single real one."""
    bound, nearest = str(run.bound("upper bound")), run.about("copying")[:1]
    texts = []
    for method in run.above_upper_bound:
        text = escape(method)
        if nearest and {(method, nearest[0]), (bound, nearest[0])} <= run.means.keys():
            own, theirs = (shown(run.means[name, nearest[0]]) for name in (method, bound))
            label = escape(run.metric(nearest[0]).label)
            text += f" ({label} {own}, {escape(bound)} {theirs})"
        texts.append(text)
    metric = run.metric(run.about("subject fidelity")[0])
    return f"{', '.join(texts)} above {escape(bound)} in {escape(metric.label)}"


def _certainty(run: Run) -> str:
    subjects = count(len({record.job.subject for record in run.records}), "subject")
    seeds = run_seeds(run)
    if len(seeds) == 1:
        return (
            f"**Certainty**: {subjects}, seed {seeds[0]} only. Intervals and tests cover the "
            "choice of subjects, not that of the seed."
        )
    return (
        f"**Certainty**: {subjects}, {len(seeds)} seeds. Intervals and tests cover the choice of "
        "subjects; *Seed to seed* shows how far seeds move the means."
    )
