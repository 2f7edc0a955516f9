"""Table 2 from votes: shares, intervals, agreement, and who is left out."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.api import UserError
from benchmark.people.agreement import accuracy, agreements, auc, pearson
from benchmark.people.preferences import (
    alpha,
    attentive,
    ballots,
    nominal_alpha,
    preferences,
    resampled,
)
from benchmark.people.records import read_study, read_votes
from benchmark.people.results import published, write_results
from tests.people.study_made import METHODS, SUBJECTS, cast, made_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    study, folder = made_study(tmp_path_factory.mktemp("made"))
    cast(study, folder, people=40, reliability=0.75, undecided=0.1)
    return study, folder


def test_forty_people_over_25_pairs_give_table_2(made) -> None:
    study, folder = made
    votes = read_votes(read_study(folder), folder)
    rows = preferences(study, ballots(study, votes))
    assert [(row.question, row.first, row.other) for row in rows] == [
        ("subject", *METHODS), ("prompt", *METHODS),
    ]  # fmt: skip
    for row in rows:
        assert (row.answers, row.people, row.subjects) == (1000, 40, 10)
        shares = [row.shares[name] for name in (*METHODS, None)]
        assert sum(share.value for share in shares) == pytest.approx(1)
        for share, truth in zip(shares, (0.675, 0.225, 0.1), strict=True):
            assert share.low < truth < share.high
            assert share.low < share.value < share.high
            assert share.high - share.low < 0.12
        assert row.lead.value == pytest.approx(shares[0].value - shares[1].value)
        assert row.lead.low > 0


def test_shares_equal_a_plain_count_of_the_files(made) -> None:
    study, folder = made
    first = {p.id: "a" if p.a.method == METHODS[0] else "b" for p in study.pairs}
    told = Counter()
    for path in folder.glob("votes/*.json"):
        for answer in json.loads(path.read_text())["answers"]:
            if answer["question"] == "subject" and answer["item"] in first:
                told[answer["choice"] and answer["choice"] == first[answer["item"]]] += 1
    row = preferences(study, ballots(study, read_votes(study, folder)))[0]
    assert row.shares[METHODS[0]].value == told[True] / 1000
    assert row.shares[METHODS[1]].value == told[False] / 1000
    assert row.shares[None].value == told[None] / 1000


def test_resampling_equals_a_plain_loop_in_the_mean_and_the_spread() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 3, (6, 5, 3)).astype(float)
    found = resampled(counts, 4000)
    plain = []
    for _ in range(4000):
        people, subjects = rng.integers(6, size=6), rng.integers(5, size=5)
        total = np.zeros(3)
        for person in people:
            for subject in subjects:
                total += counts[person, subject]
        plain.append(total / total.sum())
    np.testing.assert_allclose(found.mean(0), np.mean(plain, 0), atol=0.006)
    np.testing.assert_allclose(found.std(0), np.std(plain, 0), rtol=0.08)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """People and subjects differ in what they prefer. Of ten subjects, percentiles hold 92 %."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        person, subject = rng.normal(0, 0.12, (15, 1)), rng.normal(0, 0.12, (1, 10))
        chance = np.clip(0.6 + person + subject, 0, 1)
        first = rng.binomial(3, chance)
        counts = np.stack([first, 3 - first, np.zeros_like(first)], -1).astype(float)
        low, high = np.percentile(resampled(counts, 500)[:, 0], [2.5, 97.5])
        held += low <= 0.6 <= high
    assert 0.9 <= held / 200 <= 0.99


def test_too_few_people_or_subjects_have_no_interval(tmp_path) -> None:
    study, folder = made_study(tmp_path, pairs=4, subjects=SUBJECTS[:2])
    cast(study, folder, people=5, reliability=1.0)
    (row, _) = preferences(study, ballots(study, read_votes(study, folder)))
    assert row.shares[METHODS[0]].value == 1.0
    assert math.isnan(row.shares[METHODS[0]].low)


def test_alpha_equals_krippendorffs_own_example() -> None:
    """Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), example C: .743."""
    observers = [
        "1 2 3 3 2 1 4 1 2 * * *".replace(" ", ""),
        "1 2 3 3 2 2 4 1 2 5 * 3".replace(" ", ""),
        "* 3 3 3 2 3 4 2 2 5 1 *".replace(" ", ""),
        "1 2 3 3 2 4 4 1 2 5 1 *".replace(" ", ""),
    ]
    units = [
        Counter(row[column] for row in observers if row[column] != "*") for column in range(12)
    ]
    assert nominal_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert nominal_alpha([Counter(a=3), Counter(b=3)]) == 1.0
    assert math.isnan(nominal_alpha([Counter(a=3)]))


def test_people_who_agree_have_an_alpha_of_one_and_those_who_guess_of_none(tmp_path) -> None:
    study, folder = made_study(tmp_path)
    cast(study, folder, people=20, reliability=1.0)
    told = ballots(study, read_votes(study, folder))
    assert alpha(told, "subject") == pytest.approx(1.0)
    cast(study, folder, people=20, reliability=0.5)
    told = ballots(study, read_votes(study, folder))
    assert abs(alpha(told, "subject")) < 0.05


def test_alpha_does_not_depend_on_which_of_a_pair_comes_first(made) -> None:
    study, folder = made
    told = ballots(study, read_votes(study, folder))

    def turned(ballot):
        pair = ballot.pair
        if pair.id < "pair-010":
            pair = pair.model_copy(update={"a": pair.b, "b": pair.a})
        return replace(ballot, pair=pair)

    others = [turned(ballot) for ballot in told]
    assert others != told
    for question in ("subject", "prompt"):
        assert alpha(others, question) == pytest.approx(alpha(told, question), abs=1e-12)


@pytest.mark.more
def test_who_fails_a_check_is_left_out_and_counted(tmp_path) -> None:
    study, folder = made_study(tmp_path)
    assert len(study.checks) == 4
    cast(study, folder, people=10, reliability=0.8, careless=3)
    passed, failed = attentive(study, read_votes(study, folder))
    assert (len(passed), len(failed)) == (7, 3)
    text = write_results(folder).read_text()
    assert "7 people" in text
    assert "3 more got one of 4 checks of attention wrong" in text


# --- metrics


def test_accuracy_pearson_and_auc_equal_scipys_on_both_orders() -> None:
    rng = np.random.default_rng(5)
    better = rng.normal(size=40)
    preferred = np.clip(better / 2 + rng.normal(size=40), -1, 1)
    preferred[:4] = 0
    both, want = np.r_[better, -better], np.r_[preferred, -preferred]
    assert pearson(better, preferred) == pytest.approx(stats.pearsonr(both, want)[0])
    decided = want != 0
    positive, negative = both[decided & (want > 0)], both[decided & (want < 0)]
    u = stats.mannwhitneyu(positive, negative).statistic
    assert auc(better, preferred) == pytest.approx(u / (positive.size * negative.size))
    signs = [np.sign(b) == np.sign(p) for b, p in zip(better, preferred, strict=True) if p]
    assert accuracy(better, preferred) == pytest.approx(np.mean(signs))


@pytest.mark.more
def test_a_metric_that_tells_the_truth_agrees_and_one_that_guesses_does_not(made) -> None:
    study, folder = made
    rows = agreements(study, ballots(study, read_votes(study, folder)))
    found = {(row.metric, row.question): row for row in rows}
    good, bad = found["toy-1/dino", "subject"], found["toy-1/clip_i", "subject"]
    assert good.accuracy.value > 0.95
    assert good.auc.value > 0.95
    assert good.pearson.low > 0.8
    assert bad.auc.low < 0.5 < bad.auc.high
    assert good.pairs == 25


def test_a_metric_of_which_less_is_better_is_turned_round(made) -> None:
    study, folder = made
    told = ballots(study, read_votes(study, folder))
    turned = study.model_copy(
        update={
            "metrics": {
                "toy-1/dino": study.metrics["toy-1/dino"].model_copy(
                    update={"lower_is_better": True}
                )
            }
        }
    )
    (row, _) = agreements(turned, told)
    assert row.accuracy.value < 0.05


@pytest.mark.more
def test_results_are_written_beside_the_votes(made) -> None:
    study, folder = made
    text = write_results(folder).read_text()
    assert "40 people, 25 pairs of run." in text
    assert "DreamBooth (Stable Diffusion)" in text
    table = pd.read_csv(folder / "preferences.csv")
    here = table[table["source"] == "here"]
    assert here["answers"].tolist() == [1000, 1000]
    theirs = table[table["source"] != "here"]
    assert theirs["prefers_first"].tolist() == [0.68, 0.81]
    agreement = pd.read_csv(folder / "agreement.csv")
    assert {"DINO", "CLIP-I"} <= set(agreement[agreement["source"] != "here"]["metric"])


def test_shares_that_are_published_sum_to_one() -> None:
    for one in published().preference:
        assert sum(one.subject) == pytest.approx(1)
        assert sum(one.prompt) == pytest.approx(1)


# --- files amiss


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v: v.update(study="0" * 16), "is of study"),
        (lambda v: v.update(person="Ann Example"), "person"),
        (lambda v: v["answers"].append(v["answers"][0]), "more than once"),
        (lambda v: v["answers"][0].update(item="pair-999"), "subject pair-999, not asked"),
        (lambda v: v["answers"][0].update(choice="c"), "choice"),
        (lambda v: v["answers"][0].update(seconds=-1), "seconds"),
        (lambda v: v.update(name="Ann"), "name"),
    ],
)
def test_votes_of_another_page_are_named(tmp_path, change, named) -> None:
    study, folder = made_study(tmp_path, pairs=4, subjects=SUBJECTS[:2])
    cast(study, folder, people=1, reliability=1.0)
    path = folder / "votes/0.json"
    votes = json.loads(path.read_text())
    change(votes)
    path.write_text(json.dumps(votes))
    with pytest.raises(UserError, match=named) as error:
        read_votes(study, folder)
    assert str(path) in str(error.value)


def test_votes_that_are_no_json_none_or_twice_are_named(tmp_path) -> None:
    study, folder = made_study(tmp_path, pairs=4, subjects=SUBJECTS[:2])
    with pytest.raises(UserError, match="has no votes yet"):
        read_votes(study, folder)
    cast(study, folder, people=1, reliability=1.0)
    (folder / "votes/again.json").write_text((folder / "votes/0.json").read_text())
    with pytest.raises(UserError, match="are the same person's: keep one"):
        read_votes(study, folder)
    (folder / "votes/again.json").write_text("no")
    with pytest.raises(UserError, match=r"again\.json holds no votes: it is no JSON"):
        read_votes(study, folder)


def test_no_file_is_left_out_for_its_name_or_kind(tmp_path) -> None:
    study, folder = made_study(tmp_path, pairs=2, subjects=SUBJECTS[:2])
    cast(study, folder, people=1, reliability=1.0)
    votes = folder / "votes"
    for name in ("1.JSON", "1.json.txt"):
        (votes / name).write_text((votes / "0.json").read_text())
        with pytest.raises(UserError, match=f"{name} does not end in .json"):
            read_votes(study, folder)
        (votes / name).unlink()
    (votes / "folder.json").mkdir()
    with pytest.raises(UserError, match=r"folder\.json cannot be read: "):
        read_votes(study, folder)
    (votes / "folder.json").rmdir()
    (votes / "0.json").write_text((votes / "0.json").read_text(), encoding="utf-16")
    with pytest.raises(UserError, match=r"0\.json holds no votes: .*UTF-16"):
        read_votes(study, folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["pairs"][0]["a"].update(method="untuned"),
        lambda s: s["pairs"][0]["scores"].update({"toy-1/dino": [9.0, 1.0]}),
        lambda s: s["metrics"]["toy-1/dino"].update(lower_is_better=True),
        lambda s: s["methods"].reverse(),
        lambda s: s.pop("seal"),
    ],
)
def test_a_study_that_was_edited_is_refused(tmp_path, change) -> None:
    study, folder = made_study(tmp_path, pairs=4, subjects=SUBJECTS[:2])
    assert read_study(folder) == study
    path = folder / "study.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was changed since its page was made"):
        read_study(folder)
