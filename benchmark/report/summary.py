"""The report's first section: what the run shows, in a few plain sentences.

print(in_short(read_run(Path("runs/pocket-1a2b3c4d"))))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from benchmark.report.markdown import LABELS, count, escape, shown, title
from benchmark.report.provenance import under
from benchmark.results.claims import Verdict
from benchmark.results.comparability import run_seeds
from benchmark.results.run import Run
from benchmark.results.significance import compare, paired
from benchmark.results.statistics import CONTROLS

#: What each metric is about, in the order of the sentences.
_ABOUT = {
    "dino": "subject fidelity",
    "clip_i": "subject fidelity",
    "clip_t": "prompt fidelity",
    "pres": "prior preservation",
    "div": "diversity",
}
_NAMED = 3  #: of more methods or orderings than these, the number is said and no names


def in_short(run: Run) -> str:
    """Which method is best at what, how that sits with the paper, and how sure it is."""
    lines = [*_best(run), *_paper(run), *_copies(run), _certainty(run)]
    return (
        f"## In short {under(run)}\n\n"
        "The method with the best mean, and which others a test tells from it (corrected for all "
        "pairs of methods):\n\n"
    ) + "".join(f"- {line}\n" for line in lines)


def _best(run: Run) -> list[str]:
    lines = []
    for metric, about in _ABOUT.items():
        rows = run.summary[run.summary["metric"] == metric].set_index("method")["mean"]
        means = {m: float(rows[m]) for m in run.methods if m in rows and m not in CONTROLS}
        if means:
            better = max if LABELS[metric].endswith("↑") else min
            leader = better(means, key=means.__getitem__)
            others = [method for method in means if method != leader]
            against = _against(run, metric, leader, others) if others else _controls(rows)
            lines.append(
                f"**{title(metric)}** ({about}): {escape(leader)}, {shown(means[leader])}{against}."
            )
    return lines


def _against(run: Run, metric: str, leader: str, others: Sequence[str]) -> str:
    """What tests say of the leader and each other method.

    Corrected over all pairs (Holm): which method leads was not known before the scores were seen.
    """
    pairs = list(combinations([leader, *others], 2))
    found = compare([paired(run.by_image[metric], *pair) for pair in pairs])[: len(others)]
    tested = [o for o, d in zip(others, found, strict=True) if not math.isnan(d.p)]
    sign = 1 if LABELS[metric].endswith("↑") else -1
    told = [o for o, d in zip(others, found, strict=True) if d.shown and sign * d.mean > 0]
    # Where a method lacks subjects, the better mean may be of easier ones.
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


def _controls(means: dict[str, float]) -> str:
    known = [f"{control} {shown(means[control])}" for control in CONTROLS if control in means]
    return f" ({', '.join(known)})" if known else ""


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
        sentence += "".join(f"; {_told(verdict)}" for verdict in against)
    return [f"**The paper**: {sentence}."]


def _told(verdict: Verdict) -> str:
    ordering = verdict.ordering
    claim = ordering.claim
    if ordering.bound is not None:
        claim += f", {'by at most' if ordering.within is None else 'within'} {ordering.bound:g}"
    return f"*{escape(claim)}* ({title(ordering.metric)}): {verdict.words}"


def _copies(run: Run) -> list[str]:
    above = run.above_real_images
    if not above:
        return []
    return [
        f"**Likely copies**: {', '.join(copier(run, method) for method in above)} above the real "
        "images in DINO; look at the images."
    ]


def copier(run: Run, method: str) -> str:
    """The method, and how near its images come to a single real one, if that was measured."""
    nearest, real = run.nearest(method), run.nearest("real-images")
    if nearest is None or real is None:
        return escape(method)
    return f"{escape(method)} (nearest real image {shown(nearest)}, theirs {shown(real)})"


def _certainty(run: Run) -> str:
    subjects = count(run.scores["subject"].nunique(), "subject")
    seeds = run_seeds(run)
    if len(seeds) == 1:
        return (
            f"**Certainty**: {subjects}, seed {seeds[0]} only. Intervals and tests say how "
            "far other subjects would move the means, not how far another seed would."
        )
    return (
        f"**Certainty**: {subjects}, {len(seeds)} seeds. Intervals and tests say how far other "
        "subjects would move the means; *Seed to seed*, how far seeds do."
    )
