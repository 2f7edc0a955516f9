"""Step-down max-T by sign flips in exact fractions: every flip there is, one after the other.

After Westfall and Young, Resampling-Based Multiple Testing (1993), algorithm 4.1. A family is a
list of comparisons, each a dict: subject -> difference.
"""

import itertools
import math
from fractions import Fraction


def student(values):
    """The square of Student's t, its standard deviation taken from `values` as they are flipped."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    if variance == 0:
        return math.inf if mean else 0
    return mean**2 / (variance / len(values))


def standardised(values):
    """The square of the sum over its standard deviation under sign flips."""
    return sum(values) ** 2 / sum(value**2 for value in values) if any(values) else 0


def step_down(family, statistic=standardised):
    family = [
        {subject: Fraction(value) for subject, value in comparison.items()} for comparison in family
    ]
    subjects = sorted(set().union(*family))
    table = []
    for signs in itertools.product([1, -1], repeat=len(subjects)):
        sign = dict(zip(subjects, signs, strict=True))
        flipped = [[sign[s] * value for s, value in comparison.items()] for comparison in family]
        table.append([statistic(values) for values in flipped])
    observed = table[0]  # all signs +
    waiting = sorted(range(len(family)), key=observed.__getitem__, reverse=True)
    p_values, last = {}, 0
    while waiting:
        strongest = waiting[0]
        as_far = sum(max(row[i] for i in waiting) >= observed[strongest] for row in table)
        last = p_values[strongest] = max(last, as_far / len(table))
        waiting.remove(strongest)
    return [p_values[i] for i in range(len(family))]
