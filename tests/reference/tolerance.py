"""The gate's tolerance by plain loops, with the t distribution's quantile found by bisection."""

import math

from scipy.integrate import quad


def tolerance(table, tail):
    """How far one more seed's mean over subjects may lie off the mean of `table[subject][seed]`."""
    subjects, seeds = len(table), len(table[0])
    variances = [_variance(row) for row in table]
    means = [sum(row[seed] for row in table) / subjects for seed in range(seeds)]
    apart = sum(variances) / subjects**2
    freedom = sum(variances) ** 2 / sum(v**2 / (seeds - 1) for v in variances)
    spread = math.sqrt(max(apart, _variance(means)))
    return quantile(tail, freedom) * spread * math.sqrt(1 / seeds + 1)


def quantile(tail, freedom):
    """The t with this chance above it."""
    low, high = 0.0, 1e4
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _above(middle, freedom) > tail else (low, middle)
    return low


def _above(value, freedom):
    """The t distribution's mass above `value`, by integrating its density over 1 / t."""
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    factor /= math.sqrt(freedom * math.pi)

    def density(t):
        return factor * (1 + t * t / freedom) ** (-(freedom + 1) / 2)

    return quad(lambda u: density(1 / u) / u**2, 1e-12, 1 / max(value, 1e-3), epsabs=1e-13)[0]


def _variance(values):
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
