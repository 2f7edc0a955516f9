"""Paired differences, against plain re-implementations and numbers worked out by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, permutation_test

from benchmark.results import significance
from benchmark.results.significance import LEVEL, assess, by_image, max_t, paired, smallest_p
from benchmark.store.records import SCORE_COLUMNS
from tests.reference.bootstrap import exact_interval
from tests.reference.sign_flips import step_down, student


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
    assert found.index.tolist() == list("abc")
    assert found.to_numpy() == pytest.approx(by_hand, abs=1e-11)


def test_a_subject_counts_once_however_many_images_it_has():
    rows = [("m", "a", "x", str(i), "0", 1.0) for i in range(9)] + [("m", "b", "x", "0", "0", 0.5)]
    rows += [("n", *row[1:5], 0.0) for row in rows]
    assert paired(by_image(scores(rows))["dino"], "m", "n").tolist() == [1.0, 0.5]


def test_methods_without_a_common_image_pair_by_subject():
    rows = [("real", s, "", i, "0", v) for s, v in (("a", 0.9), ("b", 0.7)) for i in "012"]
    rows += [("m", s, "x", i, "0", v) for s, v in (("b", 0.4), ("c", 0.1)) for i in "01"]
    # b alone has both; a mean of three and a mean of two leave no trace below the scores' digits.
    assert paired(by_image(scores(rows))["dino"], "real", "m").to_dict() == {"b": 0.3}
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
        assert paired(by_image(other)["dino"], "m", "n").to_dict() == wanted.to_dict()


def family(draw, subjects, comparisons, *, missing=False):
    """Whole numbers with ties, zeros, twins and constants, (subjects, comparisons)."""
    values = draw.integers(-3, 4, (subjects, comparisons)).astype(float) + draw.integers(3)
    kinds = draw.permutation(comparisons)
    values[:, kinds[0]] = draw.integers(3)  # all equal, perhaps 0
    if comparisons > 2:
        values[:, kinds[1]] = -values[:, kinds[2]]
    if missing:
        for i in range(comparisons):
            values[draw.permutation(subjects)[: draw.integers(3)], i] = np.nan
    return values


def as_dicts(values):
    return [
        {s: v for s, v in enumerate(column) if not math.isnan(v)} for column in values.T.tolist()
    ]


@pytest.mark.parametrize("seed", range(8))
def test_p_values_equal_the_definition_in_exact_fractions(seed):
    draw = np.random.default_rng(seed)
    values = family(draw, subjects=6 + seed % 2, comparisons=2 + seed % 4)
    wanted = step_down(as_dicts(values), student)
    assert step_down(as_dicts(values)) == wanted, "both statistics order alike"
    for unit in (1, 0.1, 1 / 7, 1e-6):  # in tenths, sums that are equal differ in the last digits
        assert max_t(unit * values).tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_subjects_may_be_missing(seed):
    draw = np.random.default_rng(seed)
    values = family(draw, subjects=7, comparisons=4, missing=True)
    wanted = step_down(as_dicts(values))
    assert max_t(0.1 * values).tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("subjects", [6, 9, 12])
@pytest.mark.parametrize("shift", [0.0, 0.4, -2.0])
def test_a_comparison_alone_has_the_p_value_of_scipy(subjects, shift):
    values = np.random.default_rng(subjects).normal(shift, size=subjects)
    wanted = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert max_t(values[:, None])[0] == pytest.approx(wanted.pvalue, abs=1e-12)


def test_p_values_of_many_subjects_come_close():
    values = np.random.default_rng(1).normal([0, 0.4, 0.6, 0.9], size=(17, 4))
    flips = np.array(list(itertools.product([1, -1], repeat=17)))
    found = abs(flips @ (values / np.sqrt((values**2).sum(axis=0))))
    order = np.argsort(-found[0])
    exact, last = np.empty(4), 0.0
    for place, i in enumerate(order):
        share = np.mean(found[:, order[place:]].max(axis=1) >= found[0, i] - 1e-12)
        last = exact[i] = max(last, share)
    p_values = max_t(values)
    error = np.sqrt(exact * (1 - exact) / 2**15)
    assert (abs(p_values - exact) < 4 * error).all()
    assert (error > 0).all()
    np.random.seed(7)  # noqa: NPY002 (of no effect)
    assert (max_t(values) == p_values).all()


def test_p_values_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    values = np.random.default_rng(2).normal(0.5, size=(9, 5))
    many = np.random.default_rng(2).normal(0.3, size=(30, 5))
    found, found_many = max_t(values), max_t(many)
    monkeypatch.setattr(significance, "_CHUNK", 100)
    assert max_t(values).tolist() == found.tolist()
    # Random flips are drawn in another order of rows, but not otherwise.
    assert max_t(many).tolist() == found_many.tolist()


@pytest.mark.parametrize("subjects", [6, 16, 17, 30])
def test_the_smallest_p_is_reached_where_all_subjects_agree(subjects):
    # The first is the same for every subject, the second almost.
    values = np.linspace([1, 1, 1, 2], [1, 1 + 1e-13, 2, 1], subjects)
    assert max_t(values).tolist() == pytest.approx([smallest_p(subjects)] * 4, abs=2 / 2**15)
    assert min(max_t(values)) >= smallest_p(subjects)


def test_no_difference_has_a_p_value_of_one_and_disturbs_no_other():
    values = np.random.default_rng(0).normal(0.8, size=(8, 3))
    zeros = np.zeros((8, 2))
    assert max_t(zeros).tolist() == [1.0, 1.0]
    assert max_t(np.hstack([zeros, values])).tolist() == [1.0, 1.0, *max_t(values)]
    (rounding,) = assess([pd.Series(1e-14 * values[:, 0])])
    assert rounding.p == 1.0


def test_a_twin_costs_nothing():
    values = np.random.default_rng(0).normal(0.5, size=(8, 3))
    twins = values @ np.diag([-1.0, 100.0, 0.3])
    assert max_t(np.hstack([values, twins])).tolist() == [*max_t(values)] * 2


def test_a_comparison_with_fewer_subjects_is_flipped_with_its_own():
    values = np.random.default_rng(4).normal(0.9, size=(9, 2))
    alone = max_t(values[:7, :1])
    values[7:, 0] = np.nan
    assert max_t(values[:, :1]) == pytest.approx(alone)
    assert max_t(values)[0] >= alone[0]


# Differences by method and subject, their spreads unlike each other; a shared reference correlates
# them by a half, as in the report's tables.
def normal(draw, subjects):
    spread = np.linspace(0.2, 2, 10)
    return spread * draw.normal(size=(subjects, 10)) - draw.normal(size=(subjects, 1))


def alone(draw, subjects):
    return draw.normal(size=(subjects, 10))


def heavy(draw, subjects):
    return draw.standard_t(2, size=(subjects, 10)) + draw.standard_t(2, size=(subjects, 1))


def skewed(draw, subjects):
    shape = 4  # skewness 1
    own, shared = draw.gamma(shape, size=(subjects, 10)), draw.gamma(shape, size=(subjects, 1))
    return own + shared - 2 * shape


def half_missing(draw, subjects):
    values = normal(draw, subjects)
    values[0, :5] = values[1, 5:7] = np.nan
    return values


REPEATS = 1500


def wrong(sample, subjects, effects=0.0):
    """Among `REPEATS` families, those with a p < LEVEL where there is no effect."""
    draw = np.random.default_rng(0)
    found = [max_t(sample(draw, subjects) + effects) < LEVEL for _ in range(REPEATS)]
    return int((np.array(found)[:, np.broadcast_to(effects, 10) == 0]).any(axis=1).sum())


@pytest.mark.parametrize("sample", [alone, normal, heavy])
@pytest.mark.parametrize("subjects", [6, 8, 10])
def test_where_nothing_differs_a_family_errs_as_often_as_its_flips_say(sample, subjects):
    # Of 2 ** (subjects - 1) flips, as many as are below the level.
    flips = 2 ** (subjects - 1)
    rate = math.floor(LEVEL * flips) / flips
    low, high = binom.ppf([0.0005, 0.9995], REPEATS, rate)
    assert low <= wrong(sample, subjects) <= high


@pytest.mark.parametrize("subjects", [8, 10])
@pytest.mark.parametrize("sample", [skewed, half_missing])
def test_skewed_or_missing_differences_keep_the_error_rate(sample, subjects):
    assert wrong(sample, subjects) <= binom.ppf(0.9995, REPEATS, LEVEL)


@pytest.mark.parametrize("sample", [alone, normal, heavy, skewed, half_missing])
def test_true_effects_let_no_others_pass(sample):
    effects = np.array([2.0, 0, 8, 0, 0, -3, 0, 1, 0, 0])
    assert wrong(sample, 8, effects) <= binom.ppf(0.9995, REPEATS, LEVEL)


def test_eight_subjects_show_the_clear_ones_of_fifteen_related_comparisons():
    # Strong, and two that are lost in the noise; the subjects' own ease is shared by all.
    draw = np.random.default_rng(0)
    effects = np.array([3.0] * 9 + [1.0] * 4 + [0.15] * 2)
    values = effects + draw.normal(0, 0.4, (8, 15)) + draw.normal(0, 0.7, (8, 1))
    alone = [permutation_test((v,), np.mean, permutation_type="samples").pvalue for v in values.T]
    assert 15 * min(alone) > LEVEL, "the first step of Holm's correction fails"
    p_values = max_t(values)
    assert (p_values[:9] == smallest_p(8)).all()
    assert (p_values[-2:] > 0.1).all()


def test_too_few_subjects_have_no_p_value():
    assert smallest_p(5) == 2 / 32
    five, six = assess([pd.Series(np.ones(5)), pd.Series(np.ones(6))])
    assert math.isnan(five.p)
    assert six.p == smallest_p(6) == 2 / 64


def test_a_family_is_compared_and_corrected_together():
    rng = np.random.default_rng(0)
    samples = [
        pd.Series(values)
        for values in (rng.normal(2, 1, 8), np.ones(4), np.arange(-3, 5) / 4, [], [0.5, 0.5])
    ]
    found = assess(samples)
    wanted = step_down([samples[0].to_dict(), samples[2].to_dict()])
    assert [d.p for d in (found[0], found[2])] == pytest.approx(wanted)
    assert [d.subjects for d in found] == [8, 4, 8, 0, 2]
    assert all(math.isnan(found[i].p) for i in (1, 3, 4)), "no test, and no part of the family"
    assert found[0].mean == pytest.approx(samples[0].mean())
    assert (found[1].low, found[1].high) == (1.0, 1.0)
    assert math.isnan(found[3].mean)
    assert math.isnan(found[4].low)
    assert found[0].shown
    assert not any(found[i].shown for i in (1, 2, 3, 4))


def test_subjects_are_flipped_together_by_name():
    names = list("abcdefgh")
    first = pd.Series(np.random.default_rng(5).normal(0.7, size=8), index=names)
    (alone,) = assess([first])
    # The same again, in another order, costs nothing; the same numbers of other subjects do.
    shuffled = first.sample(frac=1, random_state=0)
    assert [found.p for found in assess([first, shuffled])] == [alone.p] * 2
    for found in assess([first, first.set_axis(names[::-1])]):
        assert found.p > alone.p
    fewer = shuffled.drop("a").add(0.2)
    wanted = step_down([first.to_dict(), fewer.to_dict()])
    assert [found.p for found in assess([first, fewer])] == pytest.approx(wanted)


def test_random_flips_do_not_depend_on_the_order_of_the_subjects():
    draw = np.random.default_rng(6)
    names = [f"subject-{i}" for i in range(20)]
    samples = [pd.Series(draw.normal(0.4, size=20), index=names) for _ in range(3)]
    shuffled = [sample.sample(frac=1, random_state=1) for sample in samples]
    found, again = ([d.p for d in assess(family)] for family in (samples, shuffled))
    assert found == again
    assert max(found) > 0.001


def test_intervals_of_differences_equal_the_exact_bootstrap():
    values = np.random.default_rng(3).normal(size=6)
    (found,) = assess([pd.Series(values)])
    assert (found.low, found.high) == pytest.approx(exact_interval(values), abs=0.04 * values.std())


def test_shown_takes_both_the_test_and_the_interval():
    # Its interval is above 0, but other comparisons take their share of its p.
    weak = pd.Series([0.1, 0.5, 0.6, 0.8, 0.9, 1.0, -0.2, 0.3])
    draw = np.random.default_rng(0)
    (alone,) = assess([weak])
    crowded = assess([weak, *(pd.Series(draw.normal(size=8)) for _ in range(20))])[0]
    assert alone.shown
    assert crowded.low > 0
    assert crowded.p > LEVEL
    assert not crowded.shown
    assert not replace(alone, low=-0.1).shown
