"""The paper's orderings: that they say what it published, and every verdict from made-up scores."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.results.claims import Ordering, load_orderings, published, verdicts_on
from tests.reference.sign_flips import step_down

SUBJECTS = list("abcdefgh")
METHODS = {
    entry.partition(" = ")[0]
    for entry in (Path(__file__).parent.parent.parent / "pyproject.toml").read_text().splitlines()
    if "methods." in entry
}


def images(higher, lower):
    """Two methods' scores, an image a subject."""
    index = pd.MultiIndex.from_product([SUBJECTS[: len(higher)], ["0"]], names=["subject", "seed"])
    return {"dino": pd.DataFrame({"h": higher, "l": lower}, index=index)}


def verdict(differences, **bound):
    ordering = Ordering("1", "h above l", "dino", "h", "l", **bound)
    base = np.linspace(0.2, 0.6, len(differences))
    (found,) = verdicts_on([ordering], images(base + np.array(differences), base))
    return found


STEADY = np.array([0.9, 1.1] * 4)
WIDE = np.array([-2.0, 4.0] * 4)  # mean 1, and its interval takes in 0


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (0.1 * STEADY, "holds"),
        (0.1 * WIDE, "holds in the mean, not shown"),
        (-0.1 * WIDE, "reversed in the mean, not shown"),
        (-0.1 * STEADY, "reversed"),
        (0 * STEADY, "no difference in the mean"),
        (0.1 * STEADY[:5], "holds in the mean, not shown"),  # no test of five subjects
        (-0.1 * STEADY[:2], "reversed in the mean, not shown"),  # no interval either
    ],
)
def test_an_order(differences, words):
    found = verdict(differences)
    assert found.words == words
    assert found.mean == pytest.approx(differences.mean())


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (0.03 * STEADY, "holds"),
        (-0.5 * STEADY, "holds"),  # a gain is a small cost too
        (0.04 * WIDE, "holds in the mean, not shown"),
        (0.06 * WIDE, "exceeded in the mean, not shown"),
        (0.07 * STEADY, "exceeded"),
        (np.full(8, 0.05), "holds in the mean, not shown"),  # on the bound
    ],
)
def test_a_bound_on_a_cost(differences, words):
    assert verdict(differences, at_most=0.05).words == words


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (0.03 * STEADY, "holds"),
        (0.04 * WIDE, "holds in the mean, not shown"),
        (0.06 * WIDE, "exceeded in the mean, not shown"),
        (0.07 * STEADY, "exceeded"),
    ],
)
def test_nearness_has_two_sides(differences, words, sign):
    assert verdict(sign * differences, within=0.05).words == words


@pytest.mark.parametrize("bound", [{}, {"at_most": 0.05}, {"within": 0.05}])
@pytest.mark.parametrize("size", [-0.2, -0.04, 0.04, 0.2])
def test_a_verdict_does_not_hang_on_the_scale(bound, size):
    differences = size + np.random.default_rng(0).normal(0, 0.01, 8)
    raw = Ordering("1", "claim", "dino", "h", "l", paper=(0.7, 0.6), **bound)
    scaled = raw.scaled(100.0)
    found = [
        verdicts_on([o], images(d, np.zeros(8)))[0]
        for o, d in ((raw, differences), (scaled, 100 * differences))
    ]
    assert found[0].words == found[1].words
    assert found[0].margin.p == pytest.approx(found[1].margin.p)
    assert scaled.published_difference is None
    assert raw.scaled(1.0) == raw


def test_a_missing_method_or_metric_is_no_verdict():
    here = images(np.ones(8), np.zeros(8))
    orderings = [
        Ordering("1", "", "dino", "h", "other", within=0.05),
        Ordering("2", "", "div", "h", "l"),
        Ordering("3", "", "dino", "h", "l"),
    ]
    assert [found.words for found in verdicts_on(orderings, here)] == ["not in this run"] * 2 + [
        "holds"
    ]


def test_orderings_are_corrected_together():
    here = images(np.linspace(1, 2, 8), np.zeros(8))
    ordering = Ordering("1", "", "dino", "h", "l")
    # The same claim five times is no more than one; others take their share.
    assert [found.margin.p for found in verdicts_on([ordering] * 5, here)] == [2 / 256] * 5
    weak = np.array([0.1, 0.5, 0.6, 0.8, 0.9, 1.0, -0.2, 0.3])
    base = np.random.default_rng(1).normal(size=8)
    here["clip_i"] = images(base, 0)["dino"]
    here["clip_t"] = images(weak, 0)["dino"]
    metrics = ("clip_t", "clip_i", "dino")
    found = verdicts_on([replace(ordering, metric=metric) for metric in metrics], here)
    wanted = step_down([dict(enumerate(v)) for v in (weak, base, np.linspace(1, 2, 8))])
    assert [verdict.margin.p for verdict in found] == pytest.approx(wanted)
    (alone,) = verdicts_on([replace(ordering, metric="clip_t")], here)
    assert alone.margin.p < found[0].margin.p


@pytest.mark.parametrize("mean", [0.003, -0.003, 0.02, -0.02, 0.06, -0.06])
def test_nearness_is_tested_from_both_bounds(mean):
    differences = np.random.default_rng(1).normal(0, 0.03, 8)
    differences += mean - differences.mean()
    bound = 0.05
    margins = [dict(enumerate(bound - side * differences)) for side in (1, -1)]
    # The weaker of two in a family: the bound that the mean is nearer to.
    assert verdict(differences, within=bound).margin.p == pytest.approx(max(step_down(margins)))


def test_the_bound_that_is_further_from_the_mean_has_to_be_kept_too():
    # The mean is just above 0, and all are well below 0.05; but one is far below -0.05.
    skewed = np.array([0.035] * 7 + [-0.24])
    assert verdict(skewed, at_most=0.05).words == "holds"
    assert verdict(skewed, within=0.05).words == "holds in the mean, not shown"


def test_the_six_orderings_are_there_and_of_methods_and_metrics_there_are():
    orderings = load_orderings()
    assert sorted({ordering.id for ordering in orderings}) == list("123456")
    assert {o.higher for o in orderings} | {o.lower for o in orderings} <= METHODS
    assert {o.metric for o in orderings} == {"dino", "clip_i", "clip_t", "pres", "div"}
    # An order has the better side of PRES below: the prior loss lowers it.
    (pres,) = [o for o in orderings if o.metric == "pres"]
    assert (pres.higher, pres.lower) == ("dreambooth-no-prior", "dreambooth")


def test_the_papers_effects_are_differences_of_its_published_rows():
    tables = {"Table 1": "fidelity", "Table 3": "prior_preservation", "Table 4": "class_noun"}
    for ordering in load_orderings():
        if ordering.paper is None:
            assert not ordering.source
            continue
        table, backbone = ordering.source.split(", ")
        rows = [row for row in published()[tables[table]] if ordering.metric in row]
        for value in ordering.paper:
            (row,) = [row for row in rows if math.isclose(row[ordering.metric], value)
                      and row["backbone"] in (backbone, "photographs")]  # fmt: skip
        # A claim's direction is the paper's own.
        assert ordering.published_difference > 0
        if ordering.bound is not None:
            assert ordering.published_difference <= ordering.bound


def test_nearness_is_the_papers_user_threshold():
    (near,) = [ordering for ordering in load_orderings() if ordering.within is not None]
    assert near.within == published()["user_significance"][near.metric]
