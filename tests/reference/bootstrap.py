"""The percentile bootstrap of a mean without chance: every resample there is, n ** n of them."""

import itertools

import numpy as np


def exact_interval(values, confidence=0.95):
    means = [sum(draw) / len(draw) for draw in itertools.product(values, repeat=len(values))]
    tail = (1 - confidence) / 2
    return np.quantile(means, tail), np.quantile(means, 1 - tail)
