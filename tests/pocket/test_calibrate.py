"""Calibration: its arithmetic by hand, and encoders of which it is known what they see."""

import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark.cli import app as cli
from benchmark.config.protocol import load_protocol
from benchmark.pocket import calibrate as module
from benchmark.pocket import calibration_studio as studio_module
from benchmark.pocket.calibrate import calibrate, looks_of, pictures_of
from benchmark.pocket.calibration_arithmetic import (
    auc,
    graded,
    rank_correlation,
    ranked,
    ratio,
    separation,
    share,
    shift,
)
from benchmark.pocket.calibration_report import FILES, NAMES
from benchmark.pocket.calibration_scenes import (
    AMONG_ALL,
    AMONG_MATES,
    AMOUNTS,
    FIELDS,
    INSTEAD,
    MATCHED,
    PLACES,
    STANDARD,
    another,
    change,
    did_change,
    in_a_place,
)
from benchmark.pocket.calibration_studio import Studio, masked
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import (
    BACKGROUNDS,
    CLASSES,
    LIVE,
    Scenes,
    plain_scenes,
    sample_identities,
)
from benchmark.scoring.features import Encoders
from benchmark.scoring.scorer import load_scorer, scoring_of
from tests.pocket.truth import Background, Identity, Sayable, draw_truth
from tests.reference import calibration as reference
from tests.reference.bootstrap import exact_interval, exact_paired_interval

TRUTHFUL = Encoders({"shapes": Identity(), "words": Sayable()})
BLIND = Encoders({"shapes": Background(), "words": Sayable()})
LOOKS = {"dino": "shapes", "clip_i": "words", "dino_masked": "shapes", "clip_t": "words"}


def found(encoders, looks=LOOKS, *, subjects=60, seed=0):
    parts = calibrate(encoders, looks, subjects=subjects, seed=seed, progress=lambda seen: None)
    findings = [finding for _, found in parts for finding in found]
    assert len({(f.metric, f.axis, f.quantity) for f in findings}) == len(findings)
    return {(f.metric, f.axis, f.quantity): f for f in findings}


# Arithmetic


def test_auc_by_hand():
    # 3 > 2, 3 > 1, 1 < 2, 1 = 1
    assert auc(np.array([3.0, 1]), np.array([2.0, 1])) == 2.5 / 4


def test_auc_and_spearman_equal_plain_loops():
    random = np.random.default_rng(0)
    for _ in range(10):
        right, wrong = random.integers(0, 6, (2, 12)).astype(float)
        assert auc(right, wrong) == pytest.approx(reference.auc(right, wrong))
        scores = random.integers(0, 5, (3, 11)).astype(float)
        expected = [reference.spearman(row, AMOUNTS) for row in scores]
        assert rank_correlation(scores, np.array(AMOUNTS)) == pytest.approx(expected)


def test_spearman_by_hand():
    # Ranks 3 1 2 beside 1 2 3: 1 - 6 (4 + 1 + 1) / (3 (9 - 1)).
    assert rank_correlation(np.array([[0.9, 0.7, 0.8]]), np.arange(3)) == pytest.approx(-0.5)


def test_scores_without_order_are_refused():
    with pytest.raises(ValueError, match="all the same"):
        rank_correlation(np.array([[0.1, 0.2], [0.3, 0.3]]), np.arange(2))


def test_a_share_of_nothing_is_refused():
    assert ratio(np.array([1.0, 2]), np.array([2.0, 4])) == 0.5
    with pytest.raises(ValueError, match="moves no score"):
        ratio(np.array([1.0, 2]), np.array([0.0, 0]))


def test_separation_by_hand():
    right, wrong = np.array([0.9, 0.5, 0.4, 0.7]), np.array([0.1, 0.6, 0.4, 0.2])
    ours = {f.quantity: f for f in separation("dino", "x", right, wrong)}
    assert ours["auc"].value == pytest.approx(reference.auc(right, wrong))
    assert ours["paired"].value == 2.5 / 4
    assert ours["gap"].value == pytest.approx((0.8 - 0.1 + 0.0 + 0.5) / 4)
    assert {(f.metric, f.axis, f.n) for f in ours.values()} == {("dino", "x", 4)}


def test_intervals_resample_subjects_together():
    random = np.random.default_rng(1)
    subject = random.normal(size=5)
    right, wrong = subject + 0.3, subject + random.normal(size=5) / 4
    ours = {f.quantity: f for f in separation("dino", "x", right, wrong)}
    whole = share("dino", "x", abs(right), 1 + abs(wrong))
    for finding, (statistic, *samples) in (
        (ours["auc"], (reference.auc, right, wrong)),
        (whole, (lambda a, b: a.mean() / b.mean(), abs(right), 1 + abs(wrong))),
    ):
        exact = exact_paired_interval(statistic, *samples)
        assert (finding.low, finding.high) == pytest.approx(exact, abs=0.05)
        assert finding.low < finding.high
    gap = exact_interval(right - wrong)
    assert (ours["gap"].low, ours["gap"].high) == pytest.approx(gap, abs=0.02)


def test_a_graded_change_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.7, 0.8, 0.3], [0.9, 0.5, 0.5]])
    ours = {f.quantity: f.value for f in graded("dino", "x", scores, (0, 0.5, 1))}
    spearman = np.mean([reference.spearman(row, (0, 0.5, 1)) for row in scores])
    assert ours == {
        "spearman": pytest.approx(spearman),
        "score at 0.0": pytest.approx(2.5 / 3),
        "score at 0.5": pytest.approx(0.6),
        "score at 1.0": pytest.approx(0.3),
    }


def test_a_shift_has_a_sign_and_a_size():
    drop, move = shift("dino", "x", np.array([0.9, 0.5, 0.5]), np.array([0.6, 0.6, 0.5]))
    assert (drop.quantity, move.quantity) == ("score drop", "score move")
    assert drop.value == pytest.approx(0.2 / 3)
    assert move.value == pytest.approx(0.4 / 3)


# Scenes


@pytest.fixture(scope="module")
def scenery():
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(200, generator)
    scenes = in_a_place(plain_scenes(identities, generator), generator)
    return identities, scenes, change(identities, scenes, generator)


@pytest.mark.parametrize("axis", FIELDS)
def test_the_named_field_changes_alone_and_in_every_scene(scenery, axis):
    identities, scenes, changes = scenery
    same, changed = changes[axis]
    assert same is identities
    expected = torch.ones(200, dtype=torch.bool)
    if axis == "only an accessory":
        expected = torch.tensor([CLASSES[k] in LIVE for k in identities.kind])
    assert torch.equal(did_change((identities, scenes), changes[axis]), expected)
    for field in dataclasses.fields(Scenes):
        before, after = getattr(scenes, field.name), getattr(changed, field.name)
        if field.name == FIELDS[axis]:
            unequal = (before != after).view(200, -1).any(dim=1)
            assert torch.equal(unequal, expected)
        else:
            assert torch.equal(before, after), field.name


def test_every_field_of_a_scene_has_its_turn():
    assert sorted(FIELDS.values()) == sorted(field.name for field in dataclasses.fields(Scenes))


@pytest.mark.parametrize("axis", INSTEAD)
def test_a_classmate_takes_the_place_and_the_scene_stays(scenery, axis):
    identities, scenes, changes = scenery
    other, same = changes[axis]
    assert same is scenes
    assert torch.equal(other.kind, identities.kind)
    assert torch.equal(other.rgb, identities.rgb) == (MATCHED in axis)
    assert bool((other.shape != identities.shape).any(dim=1).all())


def test_another_is_any_but_the_same():
    index = torch.arange(5).repeat(400)
    other = another(index, 5, torch.Generator().manual_seed(0))
    assert not bool((index == other).any())
    assert set(zip(index.tolist(), other.tolist(), strict=True)) == {
        (a, b) for a in range(5) for b in range(5) if a != b
    }


def test_places_can_be_said_and_changed_backgrounds_are_places(scenery):
    assert BACKGROUNDS[: len(PLACES)] == PLACES
    assert int(scenery[2]["only the background"][1].background.max()) < len(PLACES)


# Encoders of which it is known what they see


@pytest.mark.more
def test_an_encoder_that_sees_identity_alone_is_trusted(toy):
    findings = found(TRUTHFUL)
    for other in ("colour-matched classmate", "classmate", "other class"):
        for quantity in ("auc", "paired"):
            finding = findings["dino", f"subject or {other}", quantity]
            assert (finding.value, finding.low, finding.high, finding.n) == (1, 1, 1, 60)
    for axis in ("morph to classmate", "morph to colour-matched classmate"):
        assert findings["dino", axis, "spearman"].value == pytest.approx(-1)
        assert findings["dino", axis, "score at 0.0"].value == pytest.approx(1)
    for axis in FIELDS:
        for quantity in ("drop", "share", "score drop", "score move"):
            assert findings["dino", axis, quantity].value == pytest.approx(0, abs=1e-6)
    assert findings["dino", STANDARD["dino"], "share"].value == 1
    assert findings["dino", "only the subject: classmate", "share"].value > 1.2


@pytest.mark.more
def test_a_judge_that_sees_what_is_said_is_trusted(toy):
    findings = found(TRUTHFUL)
    for name in ("class noun", "background", "colour word", "accessory"):
        assert findings["clip_t", f"right or wrong {name}", "auc"].value == 1, name
        assert findings["clip_t", f"right or wrong {name}", "gap"].value > 0.2, name
    assert findings["clip_t", "right or wrong accessory", "auc"].n == 24  # four classes of ten
    assert findings["clip_t", "only an accessory", "score drop"].n == 24
    assert findings["clip_t", "only the background", "score drop"].value > 0.2
    assert findings["clip_t", "only the background", "share"].value == 1
    for axis in ("only the pose", *INSTEAD):
        assert findings["clip_t", axis, "score move"].value == pytest.approx(0, abs=1e-6)


@pytest.mark.more
def test_an_encoder_that_sees_the_background_alone_is_found_out(toy):
    findings = found(BLIND, subjects=200)
    for other in ("colour-matched classmate", "classmate", "other class"):
        finding = findings["dino", f"subject or {other}", "auc"]
        assert finding.value == pytest.approx(0.5, abs=0.08)
        assert finding.low < 0.5 < finding.high
    assert findings["dino", "morph to classmate", "spearman"].value == pytest.approx(0, abs=0.08)
    assert findings["dino", "only the background", "drop"].value == pytest.approx(1, abs=1e-4)
    assert findings["dino", "only the background", "share"].value > 1000
    assert findings["dino", "only the pose", "drop"].value == pytest.approx(0, abs=1e-4)


@pytest.mark.more
def test_masking_takes_the_background_away_and_nothing_else(toy):
    """The blind encoder sees nothing but the background, and what of it is faint tells nobody."""
    findings = found(BLIND)
    change = ("only the background", "drop")
    assert findings["dino", *change].value == pytest.approx(1, abs=1e-4)
    assert findings["dino_masked", *change].value == pytest.approx(0, abs=1e-9)
    same = found(TRUTHFUL)
    for (metric, axis, quantity), finding in same.items():
        if metric == "dino_masked" and quantity != "mAP gain":
            assert finding.value == same["dino", axis, quantity].value


@pytest.mark.more
def test_identity_finds_every_subject_and_the_background_none(toy):
    right, blind = found(TRUTHFUL), found(BLIND)
    for quantity in ("top-1", "MRR", "mAP"):
        for axis in (AMONG_ALL, AMONG_MATES):
            assert right["dino", axis, quantity].value == 1
        assert right["dino_masked", AMONG_ALL, "mAP gain"].value == 0
    assert blind["dino", AMONG_ALL, "top-1"].value < 0.15
    assert blind["dino", AMONG_MATES, "top-1"].value == pytest.approx(1 / 5, abs=0.15)


def test_ranks_by_hand():
    # Means 0.5, 0.6, 0.2; by image 0.9 0.8 0.4 0.3 0.1 0.1.
    near = np.array([[0.9, 0.1], [0.8, 0.4], [0.3, 0.1]])
    assert ranked(near, 0) == pytest.approx((0, 1 / 2, (1 + 2 / 6) / 2))
    assert ranked(near, 1) == pytest.approx((1, 1, (1 / 2 + 2 / 3) / 2))
    assert ranked(near, 2)[:2] == pytest.approx((0, 1 / 3))


def test_pictures_are_masked_by_the_truth():
    generator = torch.Generator().manual_seed(2)
    identities = sample_identities(3, generator)
    scenes = plain_scenes(identities, generator)
    pictures = list(np.random.default_rng(0).integers(1, 256, (3, 64, 64, 3), np.uint8))
    truth = true_masks(identities, scenes).numpy()
    alone = masked(pictures, identities, scenes)
    for before, after, mask in zip(pictures, alone, truth, strict=True):
        assert 0 < mask.mean() < 1
        np.testing.assert_array_equal(after[mask], before[mask])
        assert not after[~mask].any() and after.dtype == np.uint8


@pytest.mark.more
def test_numbers_repeat_and_another_seed_draws_other_subjects(toy):
    first, again, other = (found(BLIND, subjects=20, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_pictures_are_counted_and_no_two_photographs_share_a_scene(toy, monkeypatch):
    poses, seen = [], []

    def render(identities, scenes):
        poses.append(scenes.pose)
        return draw_truth(identities, scenes)

    monkeypatch.setattr(studio_module, "render", render)
    parts = dict(calibrate(TRUTHFUL, LOOKS, subjects=13, seed=0, progress=seen.append))
    assert len(parts) == 5
    findings = [finding for found in parts.values() for finding in found]
    assert sum(seen) == sum(map(len, poses)) == pictures_of(13)
    assert {f.n for f in findings} == {13, 7}  # 4 live classes of 10, then dog, cat and duck again
    changed, ranked = 13 * (1 + len(FIELDS) + len(INSTEAD)), 13 * (1 + 4 * 5)
    every = torch.cat(poses)
    photographs = torch.cat([every[: -changed - ranked], every[-ranked:]])
    scenes_changed = every[-changed - ranked : -ranked]
    assert len(photographs.unique(dim=0)) == len(photographs)
    assert len(scenes_changed.unique(dim=0)) == 2 * 13  # the subjects' scenes, and their new poses


def test_how_many_are_drawn_at_a_time_changes_nothing(toy, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(50, generator)
    scenes = plain_scenes(identities, generator)
    studio = Studio(TRUTHFUL, LOOKS, generator, lambda seen: None)
    whole = studio.see(identities, scenes)
    monkeypatch.setattr(studio_module, "RUN", 7)
    parts = studio.see(identities, scenes)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_the_shipped_encoders_know_classes_and_places():
    scorer = load_scorer(load_protocol("pocket"))
    looks = looks_of(scorer.scoring)
    assert looks == {"dino": "dino", "clip_i": "clip", "dino_masked": "dino", "clip_t": "clip"}
    findings = found(scorer.encoders, looks, subjects=10)
    for metric in ("dino", "clip_i"):
        assert findings[metric, "subject or other class", "auc"].value > 0.95
        assert findings[metric, "morph to classmate", "spearman"].value < -0.3
    for name in ("class noun", "background"):
        assert findings["clip_t", f"right or wrong {name}", "auc"].value > 0.95


# The command


@pytest.fixture
def shell(toy, monkeypatch, capsys, tmp_path):
    """`shell("--seed", "1")` -> (exit code, what was printed, what went wrong), in a new folder."""
    scoring = scoring_of(load_protocol("pocket"))
    scorer = SimpleNamespace(encoders=TRUTHFUL, scoring=scoring)
    monkeypatch.setattr(module, "load_scorer", lambda _protocol: scorer)
    monkeypatch.setattr(module, "looks_of", lambda _: LOOKS)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", "calibrate", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (int(stop.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.more
def test_the_files_hold_the_numbers_of_the_table(shell):
    code, printed, _ = shell("--subjects", "20")
    assert code == 0
    directory = Path("reports/pocket/calibration")
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert (directory / "calibration.png").read_bytes().startswith(b"\x89PNG")
    report = (directory / "calibration.md").read_text()
    assert "python -m benchmark calibrate --subjects 20 --seed 0`" in report
    with (directory / "calibration.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["metric", "axis", "quantity", "value", "low", "high", "n"]
    for text in (report, printed):
        for row in rows:
            value, low, high = (f"{float(row[name]):.3f}" for name in ("value", "low", "high"))
            place = row["quantity"]
            if place != "spearman" and not place.startswith("score at"):
                place = f"{NAMES[row['metric']]}: {row['axis']} "
            (line,) = (
                x for x in text.splitlines() if x.strip("| ").lower().startswith(place.lower())
            )
            assert f"{value} [{low}, {high}]" in line
    assert f"{pictures_of(20)} pictures in" in printed


@pytest.mark.more
def test_the_same_command_writes_the_same_bytes(shell):
    for name in ("one", "two"):
        assert shell("--subjects", "10", "--out", name)[0] == 0
    for name in FILES:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


@pytest.mark.more
def test_nothing_is_replaced_unasked(shell, monkeypatch):
    assert shell("--subjects", "10", "--out", "here")[0] == 0
    before = Path("here/calibration.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "calibrate", lambda *_: pytest.fail("drawn before it was refused"))
        code, printed, error = shell("--subjects", "12", "--out", "here")
    assert (code, printed) == (2, "")
    assert len(error.splitlines()) == 1
    assert "here/calibration.csv" in error and "--overwrite" in error and "--out" in error
    assert Path("here/calibration.csv").read_bytes() == before
    assert shell("--subjects", "12", "--out", "here", "--overwrite")[0] == 0
    assert Path("here/calibration.csv").read_bytes() != before


def test_a_file_is_no_folder_to_write_to(shell):
    Path("taken").write_text("mine")
    code, _, error = shell("--out", "taken")
    assert code == 2 and "taken" in error and "--out" in error
    assert Path("taken").read_text() == "mine"


@pytest.mark.parametrize("wrong", [("--subjects", "9"), ("--seed", "-1")])
def test_numbers_out_of_range_are_refused(shell, wrong):
    code, _, error = shell(*wrong)
    assert code == 2 and wrong[0] in error
