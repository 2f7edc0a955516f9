"""Records: prompts, noise seeds, the three keys, requests, and reading back what was written."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.api import (
    PRIOR_PROMPT,
    REAL_PROMPT,
    Prompt,
    Request,
    Sampler,
    UserError,
    noise_seed,
)
from benchmark.store.records import (
    Fit,
    ImageRecord,
    Job,
    JobRecord,
    KeptWeights,
    MetricRecord,
    Model,
    Phases,
    Prior,
    PriorRecord,
    ScoreRecord,
    Scoring,
    digest,
    from_json,
    image_key,
    images_digest,
    to_json,
    with_images,
)

SNOW = Prompt("a {} in the snow", "recontextualization")
MODEL = Model("diffusers", "1", "pocket@0")
FIT = Fit(
    method="dreambooth",
    version="1",
    settings={"steps": 2, "templates": ["a {}"]},
    backbone=MODEL,
    precision="fp32",
    subject="rex",
    class_noun="dog",
    live=True,
    images="ab",
    prior=None,
    seed=0,
)
JOB = Job(
    method="dreambooth[steps=2]",
    role="method",
    variant_of=None,
    draws="prompts",
    fit=FIT,
    sampler=Sampler("ddim", 3, 1.0),
    references=5,
    references_digest="abc",
    prompts=(SNOW,),
    images_per_prompt=2,
    prior_prompt_images=1,
)
PRIOR = Prior(MODEL, "fp32", "dog", 4, Sampler(), 0)
SCORING = Scoring(
    protocol="p-1",
    declaration={"caption": "d"},
    encoders={"clip": {"weights": "1"}, "dino": {"weights": "2"}},
    metrics={
        "clip_t": MetricRecord("1", "CLIP-T", "prompt fidelity", True, ("clip",), 1.0),
        "dino": MetricRecord("1", "DINO", "subject fidelity", True, ("dino",), 1.0),
    },
)


def test_a_prompt_takes_the_subject_phrase() -> None:
    assert SNOW.text("sks dog") == "a sks dog in the snow"


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        (SNOW, "a-subject-in-the-snow"),
        (Prompt("a {}", "property"), "a-subject"),
        (PRIOR_PROMPT, "prior"),
        (REAL_PROMPT, "real"),
        (Prompt("../a {}/..", "property"), "a-subject"),
    ],
)
def test_a_prompt_names_its_files(prompt: Prompt, slug: str) -> None:
    assert prompt.slug == slug


def test_long_prompts_keep_names_apart_and_short() -> None:
    slugs = {Prompt("a {} " + "very " * 80 + end, "property").slug for end in "xy"}
    assert len(slugs) == 2
    assert max(map(len, slugs)) < 100


@pytest.mark.parametrize("position", range(4))
def test_a_noise_seed_depends_on_each_of_its_four(position: int) -> None:
    known = ["rex", SNOW.template, 0, 0]
    other = list(known)
    other[position] = ["max", "a {}", 1, 1][position]
    assert noise_seed(*known) != noise_seed(*other)  # type: ignore[arg-type]
    assert 0 <= noise_seed(*known) < 2**63  # type: ignore[arg-type]


def test_methods_share_their_noise() -> None:
    other = replace(JOB, method="untuned", fit=replace(FIT, method="untuned", settings={}))
    assert JOB.requests == other.requests


def test_requests_are_the_prompts_then_the_prior_prompts() -> None:
    requests = JOB.requests
    assert [(r.prompt, r.index) for r in requests] == [(SNOW, 0), (SNOW, 1), (PRIOR_PROMPT, 0)]
    assert len({r.noise_seed for r in requests}) == 3


def test_a_method_without_prompts_is_asked_for_each_reference() -> None:
    requests = replace(JOB, draws="references", references=3).requests
    assert [(r.prompt, r.index) for r in requests] == [(REAL_PROMPT, i) for i in range(3)]


CHANGES: dict[type, Callable[[Any], Any]] = {
    str: lambda value: value + "x",
    int: lambda value: value + 1,
    bool: lambda value: not value,
    dict: lambda value: {**value, "more": 1},
    type(None): lambda value: "some",
    Sampler: lambda value: replace(value, steps=value.steps + 1),
    Model: lambda value: replace(value, version=value.version + "x"),
}


@pytest.mark.parametrize("record", [FIT, PRIOR], ids=["fit", "prior"])
def test_a_key_depends_on_every_field(record: Fit | Prior) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        changed = replace(record, **{field.name: CHANGES[type(value)](value)})
        assert changed.key != record.key, field.name
    assert replace(record).key == record.key


def test_an_images_key_depends_on_fit_request_and_sampler_and_nothing_else() -> None:
    request = Request(SNOW, 1, 7)
    key = image_key(FIT, request, JOB.sampler)
    assert key == image_key(
        replace(FIT), Request(Prompt(SNOW.template, "property"), 1, 7), JOB.sampler
    )
    others = [
        image_key(replace(FIT, seed=1), request, JOB.sampler),
        image_key(FIT, replace(request, index=2), JOB.sampler),
        image_key(FIT, replace(request, noise_seed=8), JOB.sampler),
        image_key(FIT, replace(request, prompt=PRIOR_PROMPT), JOB.sampler),
        image_key(FIT, request, Sampler("ddim", 4, 1.0)),
        image_key(FIT, request, None),
    ]
    assert len({key, *others}) == 7


def test_a_scores_key_depends_on_its_own_metric_and_encoders_alone() -> None:
    key = SCORING.key("dino")
    metrics, encoders = SCORING.metrics, SCORING.encoders
    other_clip = replace(SCORING, encoders=encoders | {"clip": {"weights": "9"}})
    other_dino = replace(SCORING, encoders=encoders | {"dino": {"weights": "9"}})
    newer = replace(SCORING, metrics=metrics | {"dino": replace(metrics["dino"], version="2")})
    assert other_clip.key("dino") == key
    assert other_clip.key("clip_t") != SCORING.key("clip_t")
    whose = replace(SCORING, identifier="sks")
    scaled = replace(SCORING, metrics=metrics | {"dino": replace(metrics["dino"], factor=2.5)})
    for other in (
        *(other_dino, newer, whose, scaled),
        replace(SCORING, declaration={"caption": "e"}),
    ):
        assert other.key("dino") != key
    renamed = replace(metrics["dino"], label="DINO-I", about="something else")
    assert replace(SCORING, metrics=metrics | {"dino": renamed}).key("dino") == key


@dataclass(frozen=True)
class Before:
    name: str
    settings: dict[str, Any]
    child: Prompt | None = None


@dataclass(frozen=True)
class After(Before):
    note: str = ""
    more: tuple[str, ...] = ()
    other: Prompt | None = None
    zero: int | None = None


def test_a_field_that_is_added_and_says_nothing_changes_no_key() -> None:
    before = digest(Before("a", {"x": None, "y": ""}, SNOW))
    assert digest(After("a", {"x": None, "y": ""}, SNOW)) == before
    says = [{"note": "n"}, {"more": ("m",)}, {"other": SNOW}, {"zero": 0}]
    after = [After("a", {"x": None, "y": ""}, SNOW, **one) for one in says]  # type: ignore[arg-type]
    assert len({before, *map(digest, after)}) == 5
    assert digest(Before("a", {"y": ""}, SNOW)) != before  # a setting is no field


def test_a_digest_is_that_of_the_canonical_json() -> None:
    text = '{"name":"a","settings":{"b":[1,null],"c":2}}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest(Before("a", {"c": 2, "b": (1, None)})) == expected


@pytest.mark.parametrize(
    "changed",
    [{"kind": "other"}, {"version": "2"}, {"id": "pocket@1"}, {"resolution": 64}],
)
def test_a_fit_depends_on_the_backbones_kind_version_files_and_size(
    changed: dict[str, Any],
) -> None:
    other = replace(MODEL, **changed)
    assert replace(FIT, backbone=other).key != FIT.key
    assert replace(PRIOR, backbone=other).key != PRIOR.key


def test_the_prior_prompt_is_drawn_with_the_class_noun_alone() -> None:
    assert Request(SNOW, 0, 7).text("dog", "sks dog") == "a sks dog in the snow"
    assert Request(PRIOR_PROMPT, 0, 7).text("dog", "sks dog") == "a dog"


def record() -> JobRecord:
    image = ImageRecord(SNOW, 0, 7, "a dog in the snow", "key", "sha")
    losses = {"instance": ((1, 0.5), (2, 0.25))}
    return JobRecord(JOB, {"images/a.png": image}, 1, Phases(1, 2, 3), {}, 5.0, 7.5, losses)


def scored() -> ScoreRecord:
    return ScoreRecord(*JOB.name, SCORING, "i", "abc", 1.0, "r", {})


@pytest.mark.parametrize(
    "written",
    [record(), scored(), PriorRecord(PRIOR, 1.0, "s", {})],
    ids=lambda r: type(r).__name__,
)
def test_a_record_is_read_back_as_it_was_written(written: Any) -> None:
    content = json.loads(json.dumps(to_json(written)))
    assert from_json(type(written), content, where="here") == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "here has format 1, and format 3 is read: .*into a new --out"),
        ({"kind": "ScoreRecord"}, "here is no JobRecord"),
        ({"drawn": "many"}, "here: drawn: .*: remove it, and run again"),
    ],
)
def test_what_is_no_record_is_named(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_json(JobRecord, to_json(record()) | change, where="here")
    with pytest.raises(UserError, match="has format 1, .*made by another version"):
        from_json(JobRecord, {"key": "k", "job": {}}, where="here")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/x.png",
        "../x.png",
        "images/../../x.png",
        "images",
        "jobs/x",
        "images//x",
        "images/a\\x",
    ],
)
def test_a_record_names_no_file_outside_its_run_directory(path: str) -> None:
    images = {path: record().images["images/a.png"]}
    with pytest.raises(UserError, match="here: '.*' is no file in images: remove it"):
        from_json(JobRecord, to_json(with_images(record(), images)), where="here")
    kept = replace(record(), weights=KeptWeights(path, 1, "sha"))
    with pytest.raises(UserError, match="here: '.*' is no file in weights: remove it"):
        from_json(JobRecord, to_json(kept), where="here")


def test_a_metric_on_record_has_its_encoders_on_record() -> None:
    lacking = replace(scored(), scoring=replace(SCORING, encoders={}))
    with pytest.raises(UserError, match="here: metric '.*' looks through '.*', and no such enc"):
        from_json(ScoreRecord, to_json(lacking), where="here")


def test_what_a_part_of_a_record_refuses_is_named_too() -> None:
    content = to_json(record())
    content["job"]["sampler"]["steps"] = -1
    with pytest.raises(UserError, match="^here: a sampler takes 1 to 10000 steps, not -1: remove"):
        from_json(JobRecord, content, where="here")


#: What somebody's slip of the hand, or a broken disk, may put in any place of a record.
ODD = st.sampled_from([None, -1, "x", "../x", [], {}, True, 2**70, [[1]], {"a": {"b": [None]}}])


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(content, dict):
        inner = list(content.items())
    else:
        inner = list(enumerate(content)) if isinstance(content, list) else []
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_odd_value_anywhere_in_a_record_is_read_or_named(data: st.DataObject) -> None:
    written = data.draw(st.sampled_from([record(), scored(), PriorRecord(PRIOR, 1.0, "s", {})]))
    content = json.loads(json.dumps(to_json(written)))
    *above, last = data.draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in above:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = data.draw(ODD)
    else:
        del inner[last]
    try:
        found = from_json(type(written), content, where="here")
    except UserError as error:
        assert str(error).startswith("here")
    else:
        if isinstance(found, ScoreRecord):
            assert all(found.scoring.key(name) for name in found.scoring.metrics)
        json.dumps(to_json(found))


def test_images_have_a_digest_whatever_their_order() -> None:
    images = {f"{i}.png": ImageRecord(SNOW, i, 7, "", "key", f"sha{i}") for i in range(3)}
    backwards = dict(reversed(images.items()))
    assert images_digest(images) == images_digest(backwards)
    changed = images | {"0.png": replace(images["0.png"], sha256="other")}
    assert images_digest(changed) != images_digest(images)
