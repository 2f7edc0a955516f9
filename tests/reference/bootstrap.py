"""The percentile bootstrap of a mean without chance: every resample there is, n ** n of them."""

import itertools

import numpy as np


def exact_interval(values, confidence=0.95):
    means = [sum(draw) / len(draw) for draw in itertools.product(values, repeat=len(values))]
    tail = (1 - confidence) / 2
    return np.quantile(means, tail), np.quantile(means, 1 - tail)


def exact_paired_interval(statistic, *samples, confidence=0.95):
    """The same for any statistic of samples that are resampled together, a row a subject."""
    count = len(samples[0])
    found = [
        statistic(*(sample[list(draw)] for sample in samples))
        for draw in itertools.product(range(count), repeat=count)
    ]
    tail = (1 - confidence) / 2
    return np.quantile(found, tail), np.quantile(found, 1 - tail)
