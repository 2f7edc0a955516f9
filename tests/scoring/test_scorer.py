"""Scores from images alone: what is refused before, what is written, and what decides it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tomli_w
from PIL import Image

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, Request, Subject, Unscored, UserError
from benchmark.config import registry
from benchmark.config.protocol import Protocol, load_protocol, protocol_names
from benchmark.scoring.chosen_metrics import chosen_metrics, encoders_of
from benchmark.scoring.features import load_encoders
from benchmark.scoring.scorer import load_scorer, scoring_of
from tests.scoring.colours import COLOURS, TABLE, Colours

ROOT = Path(__file__).parent.parent.parent
SNOW, RED = Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property")
NAME = ("my-tool", "dog", 7)


@dataclass(frozen=True)
class Mine:
    """A metric whose scores are given."""

    version: ClassVar[str] = "1"
    description: ClassVar[str] = "given"
    about: ClassVar[str] = "taste"
    higher_is_better: ClassVar[bool | None] = True
    scores: dict[Any, Any]
    label: str = "Mine"
    needs: frozenset[str] = frozenset()

    def __call__(self, batch):
        return self.scores


GIVEN = Mine({0: 0.25, 2: Unscored("too dark")})
NOT_A_NUMBER = Mine({0: 0.5, 1: float("nan")})
UNSAID = Mine({1: Unscored(" ")})
NOTHING = Mine({0: np.float32(0.5), 1: None})
ENDLESS = Mine({1: float("inf")})
ELSEWHERE = Mine({3: 0.5})
HUNGRY = Mine({}, needs=frozenset({"clip:everything"}))


@dataclass(frozen=True)
class Spoil(Mine):
    """A metric that paints over the images."""

    needs: frozenset[str] = frozenset({"pixels", "references"})

    def __call__(self, batch):
        for image in (*batch.references(), *batch.pixels()):
            image[:] = 0
        return {}


SPOIL = Spoil({})


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i:02}.png")
        Image.fromarray(pictures(1, seed=100 + i)[0]).save(paths[-1])
    return Subject("dog", "dog", True, tuple(paths), "digest")


def pictures(count: int, *, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), np.uint8))


def protocol_of(**change: Any) -> Protocol:
    table: dict[str, Any] = {
        "name": "toy",
        "version": "1",
        "description": "colours",
        "references": "all",
        "caption": "class-noun",
        "aggregation": "subjects",
        "metrics": {"dino": {}, "clip_t": {}, "div": {}},
        "encoders": {"dino": TABLE, "clip": TABLE, "lpips": TABLE},
    }
    return Protocol(**table | change)


REQUESTS = [Request(SNOW, 0, 11), Request(SNOW, 1, 12), Request(PRIOR_PROMPT, 0, 13)]


def rows(subject: Subject, protocol: Protocol, metrics: tuple[str, ...] = ()) -> list[Any]:
    scorer = load_scorer(protocol, metrics=metrics, identifier="sks")
    return scorer.score(NAME, subject, REQUESTS, pictures(3))


# --- what is scored


def test_a_row_for_each_image_and_metric_that_applies_to_it(subject):
    found = rows(subject, protocol_of(), ("tests.scoring.test_scorer:GIVEN",))
    assert [(row.prompt, row.sample, row.metric) for row in found] == [
        ("a {} in the snow", 0, "clip_t"),
        ("a {} in the snow", 0, "dino"),
        ("a {} in the snow", 0, "div"),
        ("a {} in the snow", 0, "tests.scoring.test_scorer:GIVEN"),
        ("a {} in the snow", 1, "clip_t"),
        ("a {} in the snow", 1, "dino"),
        ("a {} in the snow", 1, "div"),
        ("a {}", 0, "tests.scoring.test_scorer:GIVEN"),
    ]
    assert {(row.method, row.subject, row.seed, row.protocol) for row in found} == {
        (*NAME, "toy-1")
    }
    assert [row.prompt_kind for row in found] == ["recontextualization"] * 7 + ["prior"]
    assert (found[3].value, found[3].reason) == (0.25, "")
    assert (found[-1].value, found[-1].reason) == (None, "too dark")


def test_the_values_are_those_of_images_references_and_captions(subject):
    found = {(row.metric, row.sample): row.value for row in rows(subject, protocol_of())}
    eye, images = Colours(), pictures(3)
    real = eye.embeddings([np.asarray(Image.open(path)) for path in subject.images])
    text = eye.text_embeddings(["a dog in the snow"])[0]
    for i in (0, 1):
        image = eye.embeddings(images)[i]
        assert found["dino", i] == pytest.approx(np.mean(real @ image), abs=1e-6)
        assert found["clip_t", i] == pytest.approx(text @ image, abs=1e-6)
        between = abs(images[0].mean() - images[1].mean())
        assert found["div", i] == pytest.approx(between, rel=1e-5)


def test_scores_are_on_the_protocols_scale(subject):
    plain = {(r.metric, r.sample): r.value for r in rows(subject, protocol_of())}
    scales = {"dino": {"factor": 100.0}, "clip_t": {"factor": 2.0, "minimum": 0.9}, "div": {}}
    scaled = {(r.metric, r.sample): r.value for r in rows(subject, protocol_of(metrics=scales))}
    assert any(value < 0.9 for (metric, _), value in plain.items() if metric == "clip_t")
    for (metric, sample), value in plain.items():
        expected = {"dino": 100 * value, "clip_t": 2 * max(0.9, value), "div": value}[metric]
        assert scaled[metric, sample] == pytest.approx(expected, abs=1e-9)


def test_one_reference_is_the_only_one_compared_with(subject):
    one = protocol_of(references="one", reference={"dog": "01.png"})
    eye = Colours()
    reference = eye.embeddings([np.asarray(Image.open(subject.images[1]))])[0]
    found = [row.value for row in rows(subject, one) if row.metric == "dino"]
    assert found == pytest.approx(list(eye.embeddings(pictures(3))[:2] @ reference), abs=1e-6)
    images = [np.asarray(Image.open(path)) for path in subject.images]
    requests = [Request(REAL_PROMPT, i, 0) for i in range(3)]
    real = load_scorer(one).score(NAME, subject, requests, images)
    told = {row.sample: (row.value, row.reason) for row in real if row.metric == "dino"}
    assert told[1] == (None, "the only reference is this image itself")
    assert None not in (told[0][0], told[2][0])


def test_the_caption_rule_reaches_the_prompts_score(subject):
    found = rows(subject, protocol_of(caption="identifier-and-class-noun"))
    eye = Colours()
    text = eye.text_embeddings(["a sks dog in the snow"])[0]
    expected = list(eye.embeddings(pictures(3))[:2] @ text)
    values = [row.value for row in found if row.metric == "clip_t"]
    assert values == pytest.approx(expected, abs=1e-6)


def test_scores_are_the_same_whatever_was_scored_before(subject):
    used = load_scorer(load_protocol("pocket"))
    others = [Request(RED, 0, 1), Request(SNOW, 0, 2)]
    used.score(("other", "dog", 0), subject, others, pictures(2, seed=5))
    again = used.score(NAME, subject, REQUESTS, pictures(3))
    assert again == rows(subject, load_protocol("pocket"))


def test_what_one_metric_does_to_the_images_reaches_no_other(subject):
    with pytest.raises(ValueError, match="read-only"):
        rows(subject, protocol_of(), ("tests.scoring.test_scorer:SPOIL",))


# --- what is no score


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("NOT_A_NUMBER", "gave nan for image 1 of 'a {} in the snow' of my-tool / dog / seed 7"),
        (
            "UNSAID",
            "gave no score and no reason for image 1 of 'a {} in the snow' of my-tool / dog / "
            "seed 7",
        ),
        ("NOTHING", "gave None for image 1 of 'a {} in the snow' of my-tool / dog / seed 7"),
        ("ENDLESS", "gave inf for image 1 of 'a {} in the snow' of my-tool / dog / seed 7"),
        ("ELSEWHERE", "scores image 3, and my-tool / dog / seed 7 has 3 images"),
    ],
)
def test_what_is_no_score_is_an_error_that_says_whose(subject, metric, message):
    name = f"tests.scoring.test_scorer:{metric}"
    # A minimum must not hide it: max(0, nan) is 0.
    floor = protocol_of(metrics={name: {"minimum": 0.0}}, encoders={})
    with pytest.raises(ValueError) as caught:
        rows(subject, floor)
    assert str(caught.value) == f"metric '{name}' {message}"


def test_images_that_are_missing_or_no_pixels_are_an_error(subject):
    scorer = load_scorer(protocol_of())
    with pytest.raises(ValueError, match="3 images were asked for, 2 came"):
        scorer.score(NAME, subject, REQUESTS, pictures(2))
    grey = [np.zeros((12, 12), np.uint8)] * 3
    with pytest.raises(ValueError, match=r"an image is uint8 \(12, 12\), not uint8 \(h, w, 3\)"):
        scorer.score(NAME, subject, REQUESTS, grey)


# --- what is refused


@pytest.mark.parametrize(
    ("change", "metrics", "message"),
    [
        ({}, ("dinov2",), r"metric 'dinov2' needs an encoder 'dinov2', and protocol 'toy-1' has"),
        ({"metrics": {"dino": {"encoder": "big"}}}, (), r"'dino' needs an encoder 'big'.*clip"),
        ({"metrics": {"nobodys": {}}}, (), r"unknown metric 'nobodys'; known: .*clip_i, .*dino"),
        ({"metrics": {"mine": {"metric": "nobodys"}}}, (), r"unknown metric 'nobodys'"),
        ({}, ("tests.scoring.test_scorer:HUNGRY",), r"needs 'clip:everything'; of an encoder"),
        (
            {"metrics": {"tests.scoring.test_scorer:GIVEN": {"encoder": "clip"}}},
            (),
            r"GIVEN.encoder is 'clip', but metric 'tests.*GIVEN' has no field of that name",
        ),
        (
            {"metrics": {"dino": {}, "dino_big": {"metric": "dino", "encoder": "clip"}}},
            (),
            r"'dino' and 'dino_big' would both be called 'DINO' in tables: set `label` in",
        ),
        ({"encoders": {"dino": {"kind": "fax"}}, "metrics": {"dino": {}}}, (), r"'fax'; known"),
    ],
)
def test_what_cannot_be_scored_is_refused_before(change, metrics, message):
    with pytest.raises(UserError, match=message):
        scoring_of(protocol_of(**change), metrics=metrics)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"div": {"encoder": "dino"}}, r"'div' needs distances of encoder 'dino'.*kind 'timm'"),
        ({"clip_t": {"encoder": "dino"}}, r"'clip_t' needs text_embeddings of encoder 'dino'"),
        ({"dino": {"encoder": "lpips"}}, r"'dino' needs embeddings of enc.*kind 'intermediate'"),
    ],
)
def test_an_encoder_is_asked_only_for_what_it_can_do(choice, message):
    pocket = load_protocol("pocket").model_dump(exclude={"metrics"})
    with pytest.raises(UserError, match=message):
        scoring_of(Protocol(**pocket, metrics=choice))


@pytest.mark.parametrize("name", protocol_names())
def test_a_shipped_protocol_has_the_encoders_that_its_metrics_need_and_no_other(name):
    protocol = load_protocol(name)
    chosen = chosen_metrics(protocol)
    assert list(chosen) == sorted(protocol.metrics)
    assert {e for m in chosen.values() for e in encoders_of(m)} == set(protocol.encoders)


def test_an_encoder_whose_table_is_wrong_is_named_before_it_is_loaded():
    pocket = load_protocol("pocket").model_dump()
    pocket["encoders"]["clip"]["crop"] = 65
    with pytest.raises(UserError, match="encoders.clip: crop is 65, more than resize, 64$"):
        scoring_of(Protocol(**pocket))


def test_others_metrics_join_only_if_they_are_named(monkeypatch):
    installed = registry.available("metrics")
    other = EntryPoint("others", "tests.scoring.test_scorer:GIVEN", "dreambooth_benchmark.metrics")
    more = {**installed, "others": other}
    monkeypatch.setattr(registry, "available", lambda group: more if group == "metrics" else {})
    protocol = protocol_of(encoders={"dino": TABLE}, metrics={"dino": {}})
    assert list(scoring_of(protocol).metrics) == ["dino"]
    assert list(scoring_of(protocol, metrics=("others",)).metrics) == ["dino", "others"]
    named = protocol_of(encoders={"dino": TABLE}, metrics={"dino": {}, "others": {"factor": 2.0}})
    assert scoring_of(named).metrics["others"].factor == 2.0


def test_no_torch_is_imported_to_know_what_decides_a_score():
    code = (
        "import sys; from benchmark.config.protocol import load_protocol;"
        "from benchmark.scoring.scorer import scoring_of;"
        "assert len(scoring_of(load_protocol('pocket')).metrics) == 8;"
        "assert not {'torch', 'torchvision', 'timm', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- what decides a score


def test_the_record_has_what_a_report_needs():
    pocket = load_protocol("pocket").model_dump()
    pocket["metrics"]["clip_t"] = {"factor": 2.5, "minimum": 0.0, "label": "CLIP-T x 2.5"}
    scoring = scoring_of(Protocol(**pocket))
    assert asdict(scoring.metrics["clip_t"]) == {
        "version": "1",
        "label": "CLIP-T x 2.5",
        "about": "prompt fidelity",
        "higher_is_better": True,
        "encoders": ("clip",),
        "factor": 2.5,
        "minimum": 0.0,
        "metric": "clip_t",
        "gallery": None,
    }
    assert scoring.protocol == "pocket-1"
    assert {name: record.encoders for name, record in scoring.metrics.items()} == {
        "clip_i": ("clip",),
        "clip_t": ("clip",),
        "dino": ("dino",),
        "dino_nearest": ("dino",),
        "dino_unseen": ("dino",),
        "div": ("lpips",),
        "pres": ("dino",),
        "prior_div": ("lpips",),
    }


NAMING = {"caption": "identifier-and-class-noun"}


@pytest.mark.parametrize(
    "change",
    [NAMING, {"references": "one"}, {"references": "one", "reference": {"dog": "01.png"}}],
)
def test_one_label_with_other_rules_is_another_declaration(change):
    before = scoring_of(protocol_of(), identifier="sks")
    after = scoring_of(protocol_of(**change), identifier="sks")
    assert before.protocol == after.protocol
    differing = {k for k in after.declaration if after.declaration[k] != before.declaration[k]}
    assert differing == change.keys()
    assert before.key("dino") != after.key("dino")


def test_what_says_nothing_of_a_score_is_not_in_its_key():
    before = scoring_of(protocol_of())
    labelled = {"dino": {"label": "DINO-S"}, "clip_t": {}, "div": {}}
    after = scoring_of(protocol_of(description="the same in other words", metrics=labelled))
    assert after.declaration == before.declaration
    assert after.metrics["dino"].label != before.metrics["dino"].label
    assert [after.key(name) for name in after.metrics] == [
        before.key(name) for name in before.metrics
    ]


def test_another_encoder_is_in_the_keys_of_those_that_look_through_it():
    before = scoring_of(protocol_of())
    tables = {"dino": TABLE, "clip": TABLE, "lpips": {**TABLE, "size": 3}}
    after = scoring_of(protocol_of(encoders=tables))
    assert after.declaration == before.declaration
    same = {name for name in before.metrics if before.key(name) == after.key(name)}
    assert same == {"dino", "clip_t"}


def test_the_identifier_decides_scores_where_captions_have_it():
    plain = [scoring_of(protocol_of(), identifier=word) for word in (None, "sks", "ohwx")]
    assert plain[0] == plain[1] == plain[2] and plain[0].identifier is None
    naming = [scoring_of(protocol_of(**NAMING), identifier=word) for word in ("sks", "ohwx")]
    assert [scoring.identifier for scoring in naming] == ["sks", "ohwx"]
    assert naming[0].key("clip_t") != naming[1].key("clip_t")
    for ask in (scoring_of, load_scorer):
        with pytest.raises(UserError, match="captions of protocol 'toy-1' have the identifier"):
            ask(protocol_of(**NAMING))


def test_a_later_version_of_an_encoders_kind_is_in_the_keys(monkeypatch):
    before = scoring_of(protocol_of())
    assert "version" not in before.encoders["dino"], "the first is not written"
    monkeypatch.setattr(COLOURS, "version", "2")
    after = scoring_of(protocol_of())
    assert after.encoders["dino"] == before.encoders["dino"] | {"version": "2"}
    assert after.key("dino") != before.key("dino")


class NoKind:
    """It cannot be loaded."""

    version, can = "1", frozenset({"embeddings"})

    def files(self, name, table):
        return []


NO_KIND = NoKind()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("tests.scoring.test_scorer:NO_KIND", "it lacks load"),
        ("tests.scoring.colours:Colours", "but a class: give an instance of it"),
    ],
)
def test_what_is_no_kind_of_encoders_is_named(kind, why):
    tables = {"dino": {"kind": kind}, "clip": TABLE, "lpips": TABLE}
    with pytest.raises(UserError, match=f"encoders.dino.kind: '{kind}' is no encoder.* {why}"):
        scoring_of(protocol_of(encoders=tables))


def test_a_further_metric_changes_no_other_scores_key():
    before = scoring_of(protocol_of(metrics={"dino": {}, "clip_t": {}}))
    after = scoring_of(protocol_of(), metrics=("tests.scoring.test_scorer:GIVEN",))
    assert before.declaration == after.declaration
    for name in before.metrics:
        assert before.key(name) == after.key(name)


@pytest.mark.parametrize(
    "choice",
    [
        {"factor": 2.0},
        {"minimum": 0.0},
        {"encoder": "dino"},
        {"metric": "dino_nearest", "label": "CLIP-I", "encoder": "clip"},
    ],
)
def test_whatever_changes_a_metrics_numbers_changes_its_key(choice):
    before = scoring_of(protocol_of(metrics={"clip_i": {}}))
    after = scoring_of(protocol_of(metrics={"clip_i": choice}))
    assert before.key("clip_i") != after.key("clip_i")


def test_only_the_encoders_that_metrics_need_are_loaded(subject):
    scorer = load_scorer(protocol_of(metrics={"dino": {}}))
    assert not scorer.encoders.loaded
    scorer.score(NAME, subject, REQUESTS, pictures(3))
    assert list(scorer.encoders.loaded) == ["dino"]


def test_only_some_metrics_are_scored_with_the_same_rows(subject):
    pocket = load_protocol("pocket")
    whole = rows(subject, pocket)
    scorer = load_scorer(pocket)
    found = scorer.score(NAME, subject, REQUESTS, pictures(3), only={"clip_t", "dino_nearest"})
    assert found == [row for row in whole if row.metric in ("clip_t", "dino_nearest")]
    assert {row.metric for row in found} == {"clip_t", "dino_nearest"}
    assert set(scorer.encoders.loaded) == {"clip", "dino"}
    assert scorer.score(NAME, subject, REQUESTS, pictures(3), only=()) == []


# --- by TOML alone


def test_an_encoder_and_its_score_are_added_by_toml_alone(subject, tmp_path):
    table = load_protocol("pocket").model_dump(exclude_none=True)
    table["encoders"]["wide"] = {"kind": "timm", "model": "pocket", "like": "dino", "resize": 80}
    table["metrics"]["dino_wide"] = {"metric": "dino", "encoder": "wide", "label": "DINO wide"}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(table))
    mine = load_protocol(str(tmp_path / "mine.toml"))

    scorer = load_scorer(mine)
    record = scorer.scoring.metrics["dino_wide"]
    assert (record.label, record.encoders, record.metric) == ("DINO wide", ("wide",), "dino")
    assert scorer.scoring.encoders["wide"]["resize"] == 80
    found = scorer.score(NAME, subject, REQUESTS, pictures(3))

    resized = {**table["encoders"]["dino"], "resize": 80}
    eye = load_encoders({"eye": resized}, device="cpu")
    references = [np.asarray(Image.open(path)) for path in subject.images]
    cosines = eye.embeddings("eye", pictures(3)) @ eye.embeddings("eye", references).T
    values = {(row.metric, row.sample): row.value for row in found if row.prompt == SNOW.template}
    for i in (0, 1):
        assert values["dino_wide", i] == pytest.approx(cosines[i].mean(), abs=1e-6)
        assert abs(values["dino_wide", i] - values["dino", i]) > 1e-4
    plain = [row for row in found if row.metric != "dino_wide"]
    assert plain == rows(subject, load_protocol("pocket"))
    assert scorer.scoring.key("dino") == scoring_of(load_protocol("pocket")).key("dino")
