"""The sign-flip test of a mean without chance: every flip there is, 2 ** n of them."""

import itertools

import numpy as np


def exact_p(values):
    flips = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = np.abs(flips @ np.asarray(values)) / len(values)
    return float(np.mean(means >= abs(np.mean(values)) - 1e-12))
