"""Ranks among the subjects of a data set: their arithmetic, and what decides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, Request, Subject, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.suite import load_suite
from benchmark.runs.score import Assessment
from benchmark.scoring.look_alikes import LookAlikes, average_precision, subject_rank
from benchmark.scoring.scorer import load_scorer
from tests.reference import retrieval as reference
from tests.scoring.colours import TABLE as COLOURS
from tests.scoring.colours import Colours
from tests.scoring.reds import TABLE as RED

SNOW = Prompt("a {} in the snow", "recontextualization")
METRICS = {
    name: LookAlikes(name, name, measure, "dino", classmates=classmates)
    for classmates in (False, True)
    for name, measure in {
        f"{'mates' if classmates else 'all'} top-1": "top-1",
        f"{'mates' if classmates else 'all'} MRR": "reciprocal rank",
        f"{'mates' if classmates else 'all'} mAP": "average precision",
    }.items()
}
NOUNS = {"dog": "dog", "dog2": "dog", "cat": "cat", "dog3": "dog", "vase": "vase"}


@pytest.mark.parametrize("seed", range(20))
def test_measures_equal_plain_loops_on_random_features(seed: int) -> None:
    random = np.random.default_rng(seed)
    places = np.repeat(np.arange(6), random.integers(1, 6, 6))
    near = random.normal(size=len(places))
    for own in range(6):
        assert average_precision(near, places == own) == pytest.approx(
            reference.average_precision(near, places == own)
        )
        names = [str(place) for place in places]
        assert subject_rank(near, places, own) == reference.rank(near, names, str(own))


def test_what_is_as_near_as_others_stands_last() -> None:
    near, places = np.zeros(6), np.array([0, 0, 1, 1, 2, 2])
    assert subject_rank(near, places, 0) == 3
    assert average_precision(near, places == 0) == pytest.approx(1 / 3)
    perfect = np.array([3.0, 2.0, 1.0, 0.5, 0.0, -1.0])
    assert subject_rank(perfect, places, 0) == 1
    assert average_precision(perfect, places == 0) == 1.0
    # 1 of 2 at the second place, 2 of 6 at the last.
    assert average_precision(-perfect, places == 1) == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("cosine", [0.1, 0.7, 0.9999999])
def test_features_that_are_all_alike_find_nobody(cosine: float) -> None:
    # Of 3 to 6 references a subject: the means of equal cosines differ in their last digits.
    places = np.repeat(np.arange(4), [3, 4, 5, 6])
    near = cosine + np.random.default_rng(0).uniform(-1e-8, 1e-8, len(places))
    for own, count in enumerate([3, 4, 5, 6]):
        assert subject_rank(np.full(len(places), cosine), places, own) == 4
        assert subject_rank(near, places, own) == 4
        assert average_precision(near, places == own) == pytest.approx(count / 18)


# --- through the scorer


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (10, 9, 3), np.uint8)


@pytest.fixture
def subjects(tmp_path: Path) -> list[Subject]:
    found = []
    for number, (name, noun) in enumerate(NOUNS.items()):
        paths = [tmp_path / f"{name}-{i}.png" for i in range(3)]
        for i, path in enumerate(paths):
            Image.fromarray(picture(10 * number + i)).save(path)
        found.append(Subject(name, noun, True, tuple(paths), f"digest of {name}"))
    return found


def protocol_of(**change) -> Protocol:
    table = {
        "name": "toy",
        "version": "1",
        "description": "colours",
        "references": "all",
        "caption": "class-noun",
        "aggregation": "subjects",
        "metrics": {"dino": {}},
        "encoders": {"dino": COLOURS},
    }
    return Protocol(**table | change)


def scorer_of(subjects: list[Subject], protocol: Protocol):
    scorer = load_scorer(protocol, metrics=("rank_top1", "classmates_map"))
    records = scorer.scoring.metrics
    more = {name: replace(records["rank_top1"], label=name) for name in METRICS}
    scoring = replace(scorer.scoring, metrics={"dino": records["dino"], **more})
    metrics = {"dino": scorer.metrics["dino"], **METRICS}
    return replace(scorer, scoring=scoring, metrics=metrics).among(subjects)


def expected(image, subjects, own, *, skip=None, first_only=False):
    """{metric: value} from the definitions."""
    seen = {
        (s.name, i): Colours().embeddings([picture(10 * n + j) for j in range(3)])[i]
        for n, s in enumerate(subjects)
        for i in range(1 if first_only else 3)
    }
    query = Colours().embeddings([image])[0].astype(float)
    found = {}
    for among in ("all", "mates"):
        kept = [
            key
            for key in seen
            if (among == "all" or NOUNS[key[0]] == NOUNS[own]) and key != (own, skip)
        ]
        near = [float(query @ seen[key].astype(float)) for key in kept]
        owners = [name for name, _ in kept]
        rank = reference.rank(near, owners, own)
        found[f"{among} top-1"] = float(rank == 1)
        found[f"{among} MRR"] = 1 / rank
        right = [name == own for name in owners]
        found[f"{among} mAP"] = reference.average_precision(near, right)
    return found


@pytest.mark.parametrize("first_only", [False, True])
def test_scores_are_ranks_among_the_protocols_references(subjects, first_only) -> None:
    protocol = protocol_of(references="one" if first_only else "all")
    requests = [Request(SNOW, 0, 0), Request(SNOW, 1, 0), Request(PRIOR_PROMPT, 0, 0)]
    images = [picture(100), picture(1), picture(102)]
    rows = scorer_of(subjects, protocol).score(("m", "dog", 0), subjects[0], requests, images)
    found = {(row.metric, row.sample): row.value for row in rows if row.prompt_kind != "prior"}
    for i in (0, 1):
        for metric, value in expected(images[i], subjects, "dog", first_only=first_only).items():
            assert found[metric, i] == pytest.approx(value, abs=1e-9), metric
    assert not [row for row in rows if row.prompt_kind == "prior"]
    assert 0 < found["all MRR", 0] < 1


def test_a_real_image_is_not_found_by_itself(subjects) -> None:
    requests = [Request(REAL_PROMPT, i, 0) for i in range(3)]
    images = [picture(i) for i in range(3)]
    scorer = scorer_of(subjects, protocol_of())
    rows = scorer.score(("real-images", "dog", 0), subjects[0], requests, images)
    for row in rows:
        if row.metric in METRICS:
            value = expected(images[row.sample], subjects, "dog", skip=row.sample)[row.metric]
            assert row.value == pytest.approx(value, abs=1e-9)
    one = scorer_of(subjects, protocol_of(references="one"))
    (first, *_) = one.score(("real-images", "dog", 0), subjects[0], requests[:1], images[:1])
    assert first.reason == "the only reference is this image itself"


def test_without_others_there_is_no_rank(subjects) -> None:
    scorer = scorer_of(subjects, protocol_of())
    request = [Request(SNOW, 0, 0)]
    rows = scorer.score(("m", "vase", 0), subjects[4], request, [picture(100)])
    reasons = {row.metric: row.reason for row in rows}
    assert reasons["mates MRR"] == "the data set has no other 'vase'"
    assert reasons["all MRR"] == ""
    alone = scorer_of(subjects[:1], protocol_of())
    rows = alone.score(("m", "dog", 0), subjects[0], request, [picture(100)])
    assert {r.reason for r in rows if r.metric.startswith("all")} == {
        "the data set has no other subject"
    }


def test_a_scorer_that_knows_no_data_set_says_so(subjects) -> None:
    scorer = load_scorer(protocol_of(), metrics=("rank_top1",))
    with pytest.raises(UserError, match="no data set here among whose subjects"):
        scorer.score(("m", "dog", 0), subjects[0], [Request(SNOW, 0, 0)], [picture(100)])


def test_another_data_set_is_another_score_and_only_of_ranks(subjects) -> None:
    scorer = load_scorer(protocol_of(), metrics=("rank_top1",))
    before = scorer.among(subjects).scoring
    after = scorer.among(subjects[:4]).scoring
    assert before.key("rank_top1") != after.key("rank_top1")
    assert before.key("dino") == after.key("dino") == scorer.scoring.key("dino")
    assert before == scorer.among(subjects).scoring
    plain = load_scorer(protocol_of())
    assert plain.among(subjects) is plain


def test_what_no_segmenter_finds_is_never_the_first(subjects) -> None:
    view = {"alone": {"background": "black", "not_found": "zero"}}
    change = {"encoders": {"dino": COLOURS | {"view": "alone"}}, "views": view, "segmenter": RED}
    red = picture(0)
    red[2:5, 2:6] = (255, 0, 0)
    for subject in subjects:
        for path in subject.images:
            pixels = np.asarray(Image.open(path)).copy()
            pixels[2:5, 2:6] = (255, 0, 0)
            Image.fromarray(pixels).save(path)
    scorer = scorer_of(subjects, protocol_of(**change))
    requests = [Request(SNOW, 0, 0), Request(SNOW, 1, 0)]
    rows = scorer.score(("m", "dog", 0), subjects[0], requests, [red, picture(100) // 2])
    lost = {row.metric: (row.value, row.reason) for row in rows if row.sample == 1}
    assert lost["all top-1"] == (0.0, "no 'dog' was found")
    assert lost["all MRR"] == (1 / 5, "no 'dog' was found")
    Image.fromarray(picture(3) // 2).save(subjects[2].images[1])
    rows = scorer_of(subjects, protocol_of(**change)).score(
        ("m", "dog", 0), subjects[0], requests[:1], [red]
    )
    told = {row.metric: row.reason for row in rows}
    assert (
        told["all MRR"] == "in reference cat/cat-1.png no subject was found: draw masks of your own"
    )
    assert told["dino"] == ""


# --- in a run


def test_a_run_ranks_among_all_subjects_of_its_split() -> None:
    assessment = replace(Assessment.of(load_suite("pocket")), metrics=("rank_top1",))
    plain = Assessment.of(load_suite("pocket"))
    assert assessment.uses_gallery and not plain.uses_gallery
    assert assessment.scoring.metrics["rank_top1"].gallery is not None
    assert {n: assessment.scoring.key(n) for n in plain.scoring.metrics} == {
        n: plain.scoring.key(n) for n in plain.scoring.metrics
    }
    few = assessment.data.model_copy(update={"subjects": ["dog"]})
    assert replace(assessment, data=few).scoring == assessment.scoring
    assert len(few.load().subjects) > 20


def test_a_missing_photograph_of_another_subject_is_said_before_anything_is_scored(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "mine"
    lines = []
    for name in ("dog", "dog2"):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(picture(i)).resize((64 + i, 64)).save(folder / name / f"{i}.png")
        lines += [f"[{name}]", 'class_noun = "dog"', "live = true"]
    (folder / "subjects.toml").write_text("\n".join(lines))
    assessment = Assessment.of(load_suite("pocket"))
    mine = replace(assessment, data=assessment.data.at(folder), metrics=("rank_top1",))
    mine.check_gallery()
    (folder / "dog2" / "1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"dog2/1\.png"):
        mine.check_gallery()
    replace(mine, metrics=()).check_gallery()
