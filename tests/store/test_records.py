"""Records: prompts, noise seeds, job keys, requests."""

from dataclasses import fields, replace

import pytest

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, noise_seed
from benchmark.store.records import Job

SNOW = Prompt("a {} in the snow", "recontextualization")
JOB = Job(
    method="dreambooth",
    method_version="1",
    settings={"steps": 2},
    subject="rex",
    class_noun="dog",
    live=True,
    images_digest="ab",
    backbone="pocket@0",
    sampler={"steps": 3},
    encoders={"dino": {}},
    prompts=(SNOW,),
    images_per_prompt=2,
    prior_prompt_images=1,
    seed=0,
    protocol="pocket-1",
)


def test_a_prompt_takes_the_subject_phrase() -> None:
    assert SNOW.text("sks dog") == "a sks dog in the snow"


@pytest.mark.parametrize("position", range(4))
def test_a_noise_seed_depends_on_each_of_its_four(position: int) -> None:
    known = ["rex", SNOW.template, 0, 0]
    other = list(known)
    other[position] = ["max", "a {}", 1, 1][position]
    assert noise_seed(*known) != noise_seed(*other)
    assert 0 <= noise_seed(*known) < 2**63


def test_methods_share_their_noise() -> None:
    other = replace(JOB, method="untuned", settings={}, method_version="9")
    asked = [job.requests(prompted=True, references=5) for job in (JOB, other)]
    assert asked[0] == asked[1]


def test_requests_are_the_prompts_then_the_prior_prompts() -> None:
    requests = JOB.requests(prompted=True, references=5)
    assert [(r.prompt, r.index) for r in requests] == [(SNOW, 0), (SNOW, 1), (PRIOR_PROMPT, 0)]
    assert len({r.noise_seed for r in requests}) == 3


def test_a_method_without_prompts_is_asked_for_each_reference() -> None:
    requests = JOB.requests(prompted=False, references=3)
    assert [(r.prompt, r.index) for r in requests] == [(REAL_PROMPT, i) for i in range(3)]


@pytest.mark.parametrize("name", [field.name for field in fields(Job)])
def test_a_jobs_key_depends_on_every_field(name: str) -> None:
    value = getattr(JOB, name)
    changed = {
        str: lambda: value + "x",
        int: lambda: value + 1,
        bool: lambda: not value,
        dict: lambda: {**value, "more": 1},
        tuple: lambda: (*value, PRIOR_PROMPT),
    }[type(value)]()
    assert replace(JOB, **{name: changed}).key != JOB.key
    assert replace(JOB).key == JOB.key
