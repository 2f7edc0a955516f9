"""Calibration's statistics once more, in plain loops. Nothing here is from the suite or scipy."""

import math


def auc(right, wrong):
    wins = sum(1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def ranks(values):
    """Ranks from 1; equal values share the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    together = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    alone = [sum((x - m) ** 2 for x in rows) for rows, m in ((a, mean_a), (b, mean_b))]
    return together / math.sqrt(alone[0] * alone[1])
