"""Ranks once more, by sorting and in plain loops. Nothing here is from the suite.

On features without ties these are scikit-learn's `average_precision_score`, and
`label_ranking_average_precision_score` and `top_k_accuracy_score` of subjects.
"""

from __future__ import annotations

from collections.abc import Sequence


def average_precision(scores: Sequence[float], relevant: Sequence[bool]) -> float:
    """Down the ranking, the precision at each relevant one; their mean."""
    found, precisions = 0, []
    ranking = sorted(zip(scores, relevant, strict=True), key=lambda one: -one[0])
    for place, (_, hit) in enumerate(ranking, 1):
        if hit:
            found += 1
            precisions.append(found / place)
    return sum(precisions) / len(precisions)


def rank(scores: Sequence[float], owners: Sequence[str], own: str) -> int:
    """The place of `own` among the owners, by the mean of their scores."""
    means = {
        owner: sum(s for s, o in zip(scores, owners, strict=True) if o == owner)
        / owners.count(owner)
        for owner in set(owners)
    }
    return sorted(means, key=lambda owner: -means[owner]).index(own) + 1
