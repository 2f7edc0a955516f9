import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from benchmark.api import UserError
from benchmark.results import statistics as stats
from benchmark.results.order import order_methods, order_metrics
from benchmark.results.scores import read_scores, scores_csv
from benchmark.store.records import SCORE_COLUMNS
from tests.made_up_run import SCORING, World, make_job, metric
from tests.reference.bootstrap import exact_interval


def scores(rows, *, metric="dino"):
    """`rows`: (method, subject, value)."""
    table = [(m, s, "a {}", "property", 0, 0, metric, value, "test-1", "") for m, s, value in rows]
    return pd.DataFrame(table, columns=list(SCORE_COLUMNS))


def summarise(table):
    """In the order in which methods come."""
    methods = sorted(table["method"].unique())
    return stats.summarise(table, methods=methods, metrics=["dino"])


def test_a_subject_counts_once_however_many_images_it_has():
    rows = [("m", "a", 0.0)] * 9 + [("m", "b", 1.0)]
    row = summarise(scores(rows)).iloc[0]
    assert row["mean"] == 0.5
    assert row["std"] == pytest.approx(math.sqrt(0.5))  # of 0 and 1, n - 1
    assert row["subjects"] == 2


@pytest.mark.parametrize("seed", range(4))
def test_intervals_equal_the_exact_bootstrap(seed):
    values = np.random.default_rng(seed).normal(size=6)
    found = stats.interval(values)
    # The Monte Carlo error of a 2.5 % quantile from 10,000 resamples is about 1.5 % of a std.
    assert found == pytest.approx(exact_interval(values), abs=0.04 * values.std())
    assert found[0] < values.mean() < found[1]
    assert found == stats.interval(values)


@pytest.mark.parametrize("subjects", [3, 10, 30, 101])
def test_intervals_are_those_of_scipy(subjects):
    values = np.random.default_rng(subjects).normal(size=subjects).round(6)
    how = {"confidence_level": 0.95, "n_resamples": 10_000, "method": "percentile"}
    found = bootstrap((values,), np.mean, rng=np.random.default_rng(0), **how)
    assert stats.interval(values) == tuple(found.confidence_interval)


def test_an_interval_moves_and_grows_with_its_values():
    values = np.array([0.1, 0.5, 0.4, 0.7])
    low, high = stats.interval(values)
    assert stats.interval(2 * values + 3) == pytest.approx((2 * low + 3, 2 * high + 3))


@pytest.mark.filterwarnings("error")
def test_subjects_that_agree_have_an_interval_of_no_width():
    assert stats.interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_two_subjects_have_no_interval_and_one_no_std():
    rows = [("two", "a", 0.1), ("two", "b", 0.3), ("one", "a", 0.5)]
    summary = summarise(scores(rows)).set_index("method")
    assert summary.loc["two", ["low", "high"]].isna().all()
    assert not math.isnan(summary.loc["two", "std"])
    assert math.isnan(summary.loc["one", "std"])
    assert stats.summary_csv({"p-1": summarise(scores(rows))}) == (
        "protocol,method,metric,mean,std,low,high,subjects\n"
        "p-1,one,dino,0.500000,,,,1\n"
        "p-1,two,dino,0.200000,0.141421,,,2\n"
    )


def ordered(planned, groups=()):
    jobs = [make_job(name, "dog", 0, World()) for name in planned]
    return order_methods(jobs, [{"groups": {"all": list(groups)}}], planned)


def test_bounds_come_first_and_last_and_variants_after_what_they_vary():
    planned = ["untuned", "zebra", "identifier-sks", "dreambooth[steps=1]", "dreambooth", "apple"]
    assert ordered([*planned, "dreambooth-no-prior", "real-images"]) == [
        "real-images",
        "zebra",
        "dreambooth",
        "identifier-sks",
        "dreambooth[steps=1]",
        "dreambooth-no-prior",
        "apple",
        "untuned",
    ]


def test_a_suites_groups_say_the_order_where_they_name_a_method():
    planned = ["a", "b", "identifier-b", "identifier-a", "c"]
    found = ordered(planned, ["c", "identifier-*", "b"])
    assert found == ["c", "identifier-b", "identifier-a", "b", "a"]


def test_methods_that_vary_each_other_in_a_circle_are_all_there():
    jobs = [
        make_job(a, "dog", 0, World(job={"variant_of": b})) for a, b in (("a", "b"), ("b", "a"))
    ]
    assert order_methods(jobs, [], ["b", "a"]) == ["b", "a"]


def test_metrics_come_by_what_they_are_about_then_as_the_protocol_declares_them():
    metrics = SCORING.metrics | {
        "taste": metric("Taste", "beauty"),
        "dinov2": metric("DINOv2", "subject fidelity"),
    }
    scoring = replace(SCORING, metrics=dict(sorted(metrics.items())))
    declared = ["div", "dino", "clip_i", "clip_t", "pres", "prior_div"]
    assert order_metrics(scoring, declared) == [
        "dino", "clip_i", "dinov2", "clip_t", "pres", "prior_div", "div", "taste",
    ]  # fmt: skip


def test_the_summary_does_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    table = scores([(m, s, rng.random()) for m in "xyz" for s in "abcde" for _ in range(3)])
    shuffled = table.sample(frac=1, random_state=1)
    found = [stats.summary_csv({"": summarise(t)}) for t in (table, shuffled)]
    assert found[0] == found[1]


HEADER = ",".join(SCORE_COLUMNS) + "\n"
ROW = "m,s,a {},property,0,0,dino,%s,p-1,\n"
UNSCORED = "m,s,a {},property,1,0,dino,,p-1,the judge gave no number\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "no job has finished"),
        ("", "cannot be read"),
        ("a,b\n1,2\n", "no column method"),
        (HEADER + ROW % "0.5" + ROW % "nan", "line 3: 'nan' is no score"),
        (HEADER + ROW % "", "line 2: '' is no score"),
        (HEADER + ROW % "inf", "is no score"),
        (HEADER + ROW.replace("0,0", "0.5,0") % "0.5", "line 2: '0.5' is no score"),
        (HEADER + UNSCORED.replace("dino,,", "dino,much,"), "line 2: 'much' is no score"),
        (HEADER + UNSCORED, "no image has a score: the judge gave no number"),
        # The second of two values could be the one that is verified, and both be averaged.
        (HEADER + ROW % "0.9" + ROW % "0.5", "dino under p-1 of m, s, seed 0, .* is there twice"),
        (HEADER + ROW.replace("0,0", "1,0") % "0.9" + UNSCORED, "sample 1 is there twice"),
    ],
)
def test_bad_scores_are_named(text, message):
    with pytest.raises(UserError, match=message):
        read_scores(text.encode(), "scores.csv")


def test_names_that_look_like_missing_values_are_names():
    text = HEADER + "nan,null,,real,0,0,dino,0.5,p-1,\n"
    row = read_scores(text.encode(), "scores.csv")[0].iloc[0]
    assert (row["method"], row["subject"], row["prompt"]) == ("nan", "null", "")


def test_numbers_as_names_are_read_as_they_are_written():
    text = HEADER + "1e3,007,a {},property,0,12,dino,0.5,1.0,\n"
    row = read_scores(text.encode(), "scores.csv")[0].iloc[0]
    assert (row["method"], row["subject"], row["protocol"]) == ("1e3", "007", "1.0")
    assert (row["sample"], row["seed"], row["value"]) == (0, 12, 0.5)


def test_what_has_no_score_stands_apart_and_is_written_back_in_its_place():
    text = HEADER + ROW % "0.500000" + UNSCORED + ROW.replace("0,0", "2,0") % "-0.250000"
    scores, unscored = read_scores(text.encode(), "scores.csv")
    assert scores["value"].tolist() == [0.5, -0.25]
    assert unscored[["sample", "reason"]].to_numpy().tolist() == [[1, "the judge gave no number"]]
    assert scores_csv(scores, unscored) == text


def test_a_score_keeps_what_befell_its_image():
    text = HEADER + UNSCORED.replace("dino,,p-1", "dino,0.000000,p-1") + ROW % "0.500000"
    scores, unscored = read_scores(text.encode(), "scores.csv")
    assert unscored.empty
    assert scores[["value", "reason"]].to_numpy().tolist() == [
        [0.0, "the judge gave no number"],
        [0.5, ""],
    ]
    assert scores_csv(scores, unscored) == text


def seeded(rows):
    """`rows`: (method, subject, seed, value)."""
    table = [(m, s, "a {}", "property", 0, k, "dino", v, "test-1", "") for m, s, k, v in rows]
    return pd.DataFrame(table, columns=list(SCORE_COLUMNS))


def test_spread_over_seeds_is_that_of_the_means_over_subjects_with_every_seed():
    rows = [("m", "a", "0", 0.1), ("m", "a", "0", 0.3), ("m", "a", "1", 0.5)]
    rows += [("m", "b", "0", 0.6), ("m", "b", "1", 0.4), ("m", "c", "0", 9.0)]
    rows += [("one-seed", "a", "0", 0.5), ("apart", "a", "0", 0.5), ("apart", "b", "1", 0.5)]
    found = stats.spreads_over_seeds(
        seeded(rows), methods=["m", "one-seed", "apart"], metrics=["dino"]
    )
    # Of a and b: seed 0 (0.2 + 0.6) / 2 = 0.4, seed 1 (0.5 + 0.4) / 2 = 0.45; c has no seed 1.
    assert found["std"].tolist() == pytest.approx([0.05 / math.sqrt(2)])
    assert found.drop(columns="std").to_numpy().tolist() == [["m", "dino", 2, 2]]
