"""Paired differences, against plain re-implementations and numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from benchmark.results.significance import assess, by_image, holm, paired, sign_flip_p, smallest_p
from benchmark.store.records import SCORE_COLUMNS
from tests.reference.bootstrap import exact_interval
from tests.reference.sign_flips import exact_p


def scores(rows):
    """`rows`: (method, subject, prompt, sample, seed, value) of DINO."""
    table = [(m, s, p, "property", i, k, "dino", v, "test-1", "") for m, s, p, i, k, v in rows]
    return pd.DataFrame(table, columns=list(SCORE_COLUMNS))


def test_images_pair_by_subject_prompt_sample_and_seed():
    rng = np.random.default_rng(0)
    where = [(s, p, i, k) for s in "abc" for p in ("x {}", "y {}") for i in "01" for k in "01"]
    values = {(m, *w): rng.random() for m in ("m", "n") for w in where}
    # Of subject a, n lacks one prompt: the other prompt's images alone are compared.
    gone = [key for key in values if key[:3] == ("n", "a", "y {}")]
    for key in gone:
        del values[key]
    found = paired(by_image(scores([(*k, v) for k, v in values.items()]))["dino"], "m", "n")
    by_hand = []
    for subject in "abc":
        shared = [w for w in where if w[0] == subject and ("n", *w) in values]
        by_hand.append(np.mean([values["m", *w] - values["n", *w] for w in shared]))
    assert found == pytest.approx(by_hand, abs=1e-11)


def test_a_subject_counts_once_however_many_images_it_has():
    rows = [("m", "a", "x", str(i), "0", 1.0) for i in range(9)] + [("m", "b", "x", "0", "0", 0.5)]
    rows += [("n", *row[1:5], 0.0) for row in rows]
    assert paired(by_image(scores(rows))["dino"], "m", "n").tolist() == [1.0, 0.5]


def test_methods_without_a_common_image_pair_by_subject():
    rows = [("real", s, "", i, "0", v) for s, v in (("a", 0.9), ("b", 0.7)) for i in "012"]
    rows += [("m", s, "x", i, "0", v) for s, v in (("b", 0.4), ("c", 0.1)) for i in "01"]
    # b alone has both; a mean of three and a mean of two leave no trace below the scores' digits.
    assert paired(by_image(scores(rows))["dino"], "real", "m").tolist() == [0.3]
    rows = [(m, "a", m, str(i), "0", 0.7) for m, n in (("m", 3), ("n", 2)) for i in range(n)]
    assert paired(by_image(scores(rows))["dino"], "m", "n").tolist() == [0.0]


def test_a_method_that_is_not_there_has_no_pairs():
    assert len(paired(by_image(scores([("m", "a", "x", "0", "0", 1.0)]))["dino"], "m", "n")) == 0


def test_pairs_do_not_depend_on_the_order_of_the_rows_nor_on_their_types():
    rng = np.random.default_rng(0)
    table = scores([(m, s, "x", i, "0", rng.random()) for m in "mn" for s in "abc" for i in "01"])
    wanted = paired(by_image(table)["dino"], "m", "n")
    texts = [column for column in SCORE_COLUMNS if column != "value"]
    shuffled = table.sample(frac=1, random_state=1)
    for other in (shuffled, shuffled.astype(dict.fromkeys(texts, "category"))):
        assert paired(by_image(other)["dino"], "m", "n").tolist() == wanted.tolist()


@pytest.mark.parametrize("subjects", [6, 9, 12])
@pytest.mark.parametrize("shift", [0.0, 0.4, -2.0])
def test_p_values_equal_those_of_every_sign_flip(subjects, shift):
    values = np.random.default_rng(subjects).normal(shift, size=subjects)
    assert sign_flip_p(values) == pytest.approx(exact_p(values), abs=1e-12)


def test_p_values_of_many_subjects_come_close():
    values = np.random.default_rng(1).normal(0.3, size=16)
    # Four standard errors of a share of 10,000 draws, doubled as the test has two sides.
    exact = exact_p(values)
    assert sign_flip_p(values) == pytest.approx(exact, abs=8 * math.sqrt(exact / 2 / 10_000))
    assert sign_flip_p(values) == sign_flip_p(values)


@pytest.mark.parametrize("subjects", [6, 13, 14, 30])
def test_the_smallest_p_is_reached_where_all_subjects_agree(subjects):
    values = np.linspace(1, 2, subjects)
    assert sign_flip_p(values) == pytest.approx(smallest_p(subjects))


def test_too_few_subjects_have_no_p_value():
    assert smallest_p(5) == 2 / 32
    assert math.isnan(sign_flip_p(np.ones(5)))
    assert sign_flip_p(np.ones(6)) == 2 / 64


def test_no_difference_has_a_p_value_of_one():
    assert sign_flip_p(np.zeros(8)) == 1.0


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        # Times 3, 2 and 1, never below one before.
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.01], [0.04, 0.02]),
        # Holm's step: .012 * 4, .013 * 3 is less and so as large as that, .03 * 2, .5.
        ([0.5, 0.012, 0.03, 0.013], [0.5, 0.048, 0.06, 0.048]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)


def test_a_family_is_compared_and_corrected_together():
    rng = np.random.default_rng(0)
    samples = [
        rng.normal(2, 1, 8),
        np.ones(4),
        np.linspace(-1, 1.1, 8),
        np.empty(0),
        np.full(2, 0.5),
    ]
    found = assess(samples)
    raw = [exact_p(samples[0]), exact_p(samples[2])]
    assert [d.p for d in (found[0], found[2])] == pytest.approx(holm(raw))
    assert [d.subjects for d in found] == [8, 4, 8, 0, 2]
    assert all(math.isnan(found[i].p) for i in (1, 3, 4)), "no test, and no part of the family"
    assert found[0].mean == pytest.approx(samples[0].mean())
    assert (found[1].low, found[1].high) == (1.0, 1.0)
    assert math.isnan(found[3].mean)
    assert math.isnan(found[4].low)
    assert found[0].shown
    assert not any(found[i].shown for i in (1, 2, 3, 4))


def test_intervals_of_differences_equal_the_exact_bootstrap():
    values = np.random.default_rng(3).normal(size=6)
    (found,) = assess([values])
    assert (found.low, found.high) == pytest.approx(exact_interval(values), abs=0.04 * values.std())


def test_shown_takes_both_the_test_and_the_interval():
    # All agree in sign, but eight others take their share of p: 9 * 2 / 64 is above 0.05.
    alone = assess([np.linspace(1, 2, 6)])
    crowded = assess([np.linspace(1, 2, 6)] * 9)
    assert alone[0].shown
    assert crowded[0].low > 0
    assert crowded[0].p == pytest.approx(9 * 2 / 64)
    assert not crowded[0].shown
