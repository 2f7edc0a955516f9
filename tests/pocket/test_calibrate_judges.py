"""Judges compared: arithmetic by another route, judges of known worth, and a run's own numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap

from benchmark.api import Prompt, Request, Subject, UserError
from benchmark.config.protocol import load_protocol
from benchmark.data.images import as_pixels
from benchmark.pocket.calibrate_judges import ask_judges, looks_of, pictures_of
from benchmark.pocket.calibration_arithmetic import auc, rank_correlation, ranked, wins
from benchmark.pocket.calibration_studio import Studio, Subjects
from benchmark.pocket.judges_arithmetic import compare
from benchmark.pocket.judges_asked import (
    BACKGROUND,
    BY_TRUTH,
    COMPARED,
    CUT_OUT,
    HEADLINE,
    IDENTITY,
    IN_A_RUN,
    JUDGES,
    MAP,
    MASKED,
    NOT_FOUND,
    ON_WHITE,
    PROTOCOL,
    WHOLE,
)
from benchmark.pocket.judges_report import sections
from benchmark.pocket.judges_verdict import difference, found_of, number, verdict
from benchmark.pocket.world import CLASSES, plain_scenes, render, sample_identities
from benchmark.scoring.features import Encoders
from benchmark.scoring.scorer import load_scorer, scoring_of
from tests.pocket.truth import SURE, VIEWS, Background, Identity, Middling, Stacked, Unsure
from tests.reference import calibration as reference
from tests.reference.bootstrap import exact_paired_interval

KEPT = Path(__file__).parent.parent.parent / "reports/pocket"


def asked(viewers=SURE, *, subjects=40, seed=0, **encoders):
    """What is found where each judge has an encoder of its own: Middling, but for `encoders`."""
    given = {name: Stacked(encoders.get(name, Middling())) for name in JUDGES}
    looks = {name: name for name in JUDGES}
    parts = ask_judges(
        Encoders(given), looks, viewers, subjects=subjects, seed=seed, progress=lambda seen: None
    )
    return [row for _, found in parts for row in found]


def values_of(rows, criterion):
    found = found_of(rows)
    return {name: number(found, name, criterion).value for name in JUDGES}


# Arithmetic


def subjects_scores(n, seed, judges=("dino", "clip_i", "dino_masked")):
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(0.6, 0.2, n), random.normal(0.4, 0.2, n).round(1)) for name in judges
    }


def test_a_difference_is_that_of_two_judges_by_plain_loops():
    samples = subjects_scores(30, 0)
    found = found_of(compare(HEADLINE, auc, samples))
    alone = {name: reference.auc(*own) for name, own in samples.items()}
    assert {name: number(found, name, HEADLINE).value for name in samples} == pytest.approx(alone)
    for one in samples:
        for other in samples:
            if one != other:
                away = difference(found, one, other, HEADLINE)
                assert away.value == pytest.approx(alone[one] - alone[other])
                assert (away.metric, away.against, away.n) == (one, other, 30)
                assert away.low < away.value < away.high
    assert len(found) == 3 + 3


def test_differences_resample_subjects_for_both_judges_at_once():
    samples = subjects_scores(5, 3, ("dino", "clip_i"))
    (away,) = (row for row in compare(HEADLINE, auc, samples) if row.against)

    def differs(a, b, c, d):
        return reference.auc(c, d) - reference.auc(a, b)

    exact = exact_paired_interval(differs, *samples["dino"], *samples["clip_i"])
    assert (away.low, away.high) == pytest.approx(exact, abs=0.05)


def test_an_interval_is_scipys_of_the_difference_itself():
    samples = subjects_scores(40, 4, ("dino", "clip_i"))
    (away,) = (row for row in compare(HEADLINE, auc, samples) if row.against)
    theirs = bootstrap(
        (*samples["dino"], *samples["clip_i"]),
        lambda a, b, c, d, axis=-1: auc(c, d, axis) - auc(a, b, axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert (away.low, away.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_what_judges_share_falls_out_of_their_difference():
    """Scores of subjects vary much, and one judge is always a little above the other."""
    subject = np.random.default_rng(5).normal(0.5, 0.3, 20)
    rows = compare(MAP, np.mean, {"dino": (subject,), "clip_i": (subject + 0.01,)})
    (away,) = (row for row in rows if row.against)
    assert (away.low, away.value, away.high) == pytest.approx((0.01, 0.01, 0.01))
    assert rows[0].high - rows[0].low > 0.1


def test_a_subject_that_one_judge_cannot_score_counts_for_none():
    samples = {"dino": (np.array([1.0, 2, 3, 40]),), "clip_i": (np.array([1.0, 1, 1, np.nan]),)}
    found = found_of(compare(MAP, np.mean, samples))
    assert number(found, "dino", MAP).value == 2
    assert difference(found, "clip_i", "dino", MAP).value == -1
    assert {row.n for row in found.values()} == {3}
    samples["dino"][0][1] = np.nan
    with pytest.raises(UserError, match="mAP: of 4 subjects 2 have a score.*--subjects"):
        compare(MAP, np.mean, samples)


def test_what_has_no_score_has_no_rank_and_wins_nothing():
    near = np.array([[0.9, 0.1], [0.8, np.nan]])
    assert np.isnan(ranked(near, 0)).all()
    won = wins(np.array([0.5, 0.5, np.nan, 0.2]), np.array([0.4, 0.5, 0.1, np.nan]))
    np.testing.assert_array_equal(won, [1, 0.5, np.nan, np.nan])
    along = rank_correlation(np.array([[0.3, 0.2, 0.1], [0.3, np.nan, 0.1]]), np.arange(3))
    np.testing.assert_array_equal(along, [-1, np.nan])


# Judges of known worth


@pytest.mark.parametrize(
    ("perfect", "blind"),
    [("dino", "clip_i"), ("clip_i_on_white", "dino"), ("dino_cut_out", "clip_i_masked")],
)
def test_a_perfect_judge_is_named_best_and_a_blind_one_is_last(toy, perfect, blind):
    rows = asked(**{perfect: Identity(), blind: Background()})
    said = verdict(found_of(rows))
    assert said[0].startswith(f"**{JUDGES[perfect].label} tells identity best**")
    assert JUDGES[blind].label in said[0].split("surely behind: ")[1]
    table = sections(rows)[0].rows
    assert (table[0][0], table[-1][0]) == (JUDGES[perfect].label, JUDGES[blind].label)
    for criterion in IDENTITY:
        values = values_of(rows, criterion)
        best = 1 if criterion.higher_is_better else -1
        assert values[perfect] == pytest.approx(best)
        worst = min(values, key=lambda name: best * values[name])
        assert worst == blind
    assert values_of(rows, HEADLINE)[blind] == pytest.approx(0.5, abs=0.15)
    assert values_of(rows, BACKGROUND)[perfect] == pytest.approx(0, abs=1e-6)
    assert re.search(rf"surely moves .*{JUDGES[blind].label}.* further", said[-2])


def test_what_no_run_has_is_not_named_best(toy):
    rows = asked(dino_true_mask=Identity(), clip_i=Background())
    assert sections(rows)[0].rows[0][0] == "DINO by true masks"
    said = verdict(found_of(rows))
    assert "DINO by true masks" not in said[0]
    assert re.match(r"\*\*A perfect mask.* raises the AUC of DINO \(\+0", said[5])
    assert "does not surely change the AUC of CLIP-I (+0.000 [+0.000, +0.000])" in said[5]


def test_masking_and_cropping_are_told_each_for_itself(toy):
    encoders = {"dino_masked": Background(), "dino_cut_out": Identity(), "clip_i": Background()}
    black, white, crop = verdict(found_of(asked(**encoders)))[2:5]
    assert re.search("black.* lowers the AUC of DINO .* raises the AUC of CLIP-I", black)
    assert re.search("white.* does not surely change .*DINO .* raises the AUC of CLIP-I", white)
    assert re.search("Cropping.* raises the AUC of DINO .* does not surely .*CLIP-I", crop)


def test_numbers_repeat_and_pictures_are_counted(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(Studio, "see", counting(Studio.see, seen))
    first, again = asked(subjects=12), asked(subjects=12)
    assert first == again != asked(subjects=12, seed=1)
    assert sum(seen) == 3 * pictures_of(12)


def counting(see, seen):
    def counted(self, identities, scenes):
        seen.append(len(identities))
        return see(self, identities, scenes)

    return counted


# Where the segmenter finds nothing


def identity_of(picture):
    return tuple(picture[: len(CLASSES) + 21].tolist())


def test_an_image_without_a_find_is_scored_as_its_view_says(toy):
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(4, generator)
    lost = []
    viewers = {
        "masked": Unsure("masked", lambda picture, noun: bool(lost)),
        "cut": Unsure("cut-out", not_found="zero"),
    }
    looks = {"dino": "whole", "dino_masked": "masked", "dino_cut_out": "cut"}
    encoders = Encoders({name: Stacked(Identity()) for name in looks.values()})
    studio = Studio(encoders, looks, generator, lambda seen: None, (), viewers)
    references = studio.photograph_references(identities)
    known = Subjects(identities, references)
    lost.append(True)
    scores = known.scores(studio.photograph(identities))
    assert scores["dino"] == pytest.approx(np.ones(4))
    assert np.isnan(scores["dino_masked"]).all()
    assert (scores["dino_cut_out"] == 0).all()
    assert {name: [one.sum() for one in lost] for name, lost in studio.lost.items()} == {
        "masked": [0, 4],
        "cut": [0, 4],
    }
    # In a reference, nothing is found in either: there is no score, whatever the image.
    missing = Subjects(identities, studio.photograph_references(identities))
    lost.clear()
    scores = missing.scores(studio.photograph(identities))
    assert np.isnan(scores["dino_masked"]).all() and np.isnan(scores["dino_cut_out"]).all()
    assert scores["dino"] == pytest.approx(np.ones(4))


def test_a_subject_that_is_not_found_is_left_out_and_counted(toy):
    kinds = []

    def lost(picture, noun):
        kinds.append(noun)
        return noun == "dog" and picture[: len(CLASSES)].argmax() == CLASSES.index("dog")

    viewers = {name: Unsure(view, lost) for name, view in VIEWS.items()}
    rows = asked(viewers, subjects=20)
    assert set(kinds) == set(CLASSES)
    found = found_of(rows)
    for name in JUDGES:
        assert {number(found, name, criterion).n for criterion in COMPARED} == {18}
        one = number(found, name, NOT_FOUND)
        if name in VIEWS:
            assert (one.value, one.n) == (pytest.approx(0.1), 20)
            assert one.low < 0.1 < one.high
        else:
            assert one is None
    assert "masked 0.100 [" in verdict(found)[-1]


# A run's own


def test_judges_are_the_protocols_and_views_differ_in_what_is_said():
    protocol = load_protocol(PROTOCOL)
    scoring = scoring_of(protocol)
    looks = looks_of(scoring)
    for name in IN_A_RUN:
        record = scoring.metrics[name]
        assert (record.label, record.encoders) == (JUDGES[name].label, (looks[name],))
        table = protocol.encoders[looks[name]]
        assert table.get("view", WHOLE) == JUDGES[name].view
        assert table.get("like", looks[name]) == looks[JUDGES[name].whole]
    assert set(IN_A_RUN) == set(protocol.metrics)
    for name in BY_TRUTH:
        assert looks[name] == looks[JUDGES[name].whole]
    views = protocol.views
    assert (views[MASKED].background, views[ON_WHITE].background) == ("black", "white")
    assert [views[name].crop for name in (MASKED, ON_WHITE, CUT_OUT)] == [False, False, True]
    assert views[CUT_OUT].background == "white"


@pytest.mark.more
def test_scores_are_those_of_a_run(tmp_path):
    """The same pictures, kept as files and scored as a run scores them."""
    scorer = load_scorer(load_protocol(PROTOCOL))
    looks = looks_of(scorer.scoring)
    kinds = torch.tensor([0, 3])
    identities = sample_identities(2, torch.Generator().manual_seed(1), kind=kinds)

    generator = torch.Generator().manual_seed(2)
    rest = (lambda seen: None, BY_TRUTH, scorer.viewers)
    ours = Studio(scorer.encoders, looks, generator, *rest)
    known = Subjects(identities, ours.photograph_references(identities))
    scores = known.scores(ours.photograph(identities))
    generator = torch.Generator().manual_seed(2)
    repeated = identities[torch.arange(2).repeat_interleave(5)]
    real = as_pixels(render(repeated, plain_scenes(repeated, generator)))
    drawn = as_pixels(render(identities, plain_scenes(identities, generator)))
    request = Request(Prompt("a {}", "recontextualization"), 0, 0)
    for i, kind in enumerate(kinds.tolist()):
        paths = []
        for j in range(5):
            paths.append(tmp_path / f"{i}-{j}.png")
            Image.fromarray(real[5 * i + j]).save(paths[-1])
        subject = Subject(f"one{i}", CLASSES[kind], True, tuple(paths), "digest")
        rows = scorer.score(("tool", subject.name, 0), subject, [request], [drawn[i]])
        theirs = {row.metric: row.value for row in rows}
        assert set(theirs) == set(IN_A_RUN)
        assert {name: scores[name][i] for name in IN_A_RUN} == pytest.approx(theirs, abs=1e-5)
