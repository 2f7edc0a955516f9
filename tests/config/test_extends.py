"""A suite says only what differs from the one it extends."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.registry import available
from benchmark.config.suite import load_suite, suite_names
from benchmark.data.dataset import load_dataset
from tests import toy


def extending(suite: str) -> str:
    return f'extends = "{suite}"\nname = "mine"\ndescription = "mine"\n'


HEAD = extending("toy.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy.write_world(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_what_it_does_not_say_is_the_extended_suites(folder: Path) -> None:
    with (folder / "toy.toml").open("a") as file:
        file.write('[methods."tests.toy:PAINT"]\nsteps = 7\nseconds = 0.5\n')
    changes = """
controls = ["untuned"]
[sampler]
guidance = 3.0
[protocol.encoders.clip]
note = "bright"
[groups]
more = ["untuned"]
[methods."tests.toy:PAINT"]
steps = 9
[methods.dreambooth]
steps = 3
"""
    whole = tomllib.loads((folder / "toy.toml").read_text())
    whole |= {"name": "mine", "description": "mine", "controls": ["untuned"]}
    whole["sampler"]["guidance"] = 3.0
    whole["protocol"]["encoders"]["clip"]["note"] = "bright"
    whole["groups"]["more"] = ["untuned"]
    whole["methods"]["tests.toy:PAINT"]["steps"] = 9
    whole["methods"]["dreambooth"] = {"steps": 3}
    suite = load_suite(write(folder, HEAD + changes))
    assert suite == type(suite).model_validate(whole)
    assert "extends" not in suite.dump_toml(), "a run's suite.toml needs no other file"


def test_a_chain_is_followed_from_each_files_own_folder(folder: Path) -> None:
    (folder / "deep").mkdir()
    write(folder, HEAD + "[sampler]\nsteps = 5\nguidance = 4.0\n")
    text = 'extends = "../mine.toml"\nname = "third"\ndescription = "third"\n'
    third = load_suite(write(folder / "deep", text + "[sampler]\nsteps = 6\n", "third.toml"))
    assert (third.name, third.sampler.steps, third.sampler.guidance) == ("third", 6, 4.0)
    assert third.controls == load_suite(str(folder / "toy.toml")).controls


def test_a_file_may_have_the_name_of_the_shipped_suite_it_extends(folder: Path) -> None:
    text = extending("pocket") + "[sampler]\nsteps = 3\n"
    suite, shipped = load_suite(write(folder, text, "pocket.toml")), load_suite("pocket")
    assert (suite.sampler.steps, shipped.sampler.steps) == (3, 20)
    assert suite.methods == shipped.methods


def test_another_dataset_or_model_leaves_behind_what_belongs_to_the_first(folder: Path) -> None:
    shipped = load_suite("pocket")
    head = extending("pocket")
    assert shipped.data.subjects and shipped.estimate
    same = load_suite(write(folder, head + '[data]\ndataset = "pocket"\n'))
    assert (same.data, same.estimate) == (shipped.data, shipped.estimate)
    other = load_suite(write(folder, head + f'[data]\ndataset = "{folder / "data"}"\n'))
    assert (other.data.subjects, other.data.split) == ([], None)
    split = load_suite(write(folder, head + '[data]\nsplit = "development"\n'))
    assert (split.data.subjects, split.data.dataset) == ([], "pocket")
    assert other.estimate == shipped.estimate
    other = load_suite(write(folder, head + '[backbone]\nmodel = "sd15"\n'))
    assert (other.estimate, other.backbone.identifier) == (None, "sks")
    own = "[estimate]\ntrain_step_seconds = 2\n"
    with pytest.raises(UserError, match="estimate.image_seconds is missing"):
        load_suite(write(folder, head + '[backbone]\nmodel = "sd15"\n' + own))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (extending("poket"), r"extends: unknown suite 'poket' \(did you mean 'pocket'"),
        (extending("none.toml"), r"extends: cannot read .*none.toml: No such file"),
        (extending("mine.toml"), r"mine.toml would extend itself: take one `extends`"),
        (extending("loop.toml"), r"loop.toml: extends: .*mine.toml would extend itself"),
        ("extends = 3\n", r"extends: it should be a suite's name or file \(it is 3\)"),
        ('extends = "toy.toml"\n', r"toy.toml: name is missing; description is missing"),
        (HEAD + "[sampler]\nsteps = 0\n", r"toy.toml: sampler.steps: .*greater than 0"),
        (HEAD + 'data = "x"\n', r"toy.toml: data: .*\(it is 'x'\)"),
        (HEAD + '[data]\nsubjects = ["dog-reed"]\n',
         r"data.subjects: unknown subject 'dog-reed' \(did you mean 'dog-red'\?\); known: .*vase"),
        (HEAD + '[data]\nsubjects = ["dog-red", "dog-red"]\n',
         r"data.subjects: 'dog-red' is named twice: name it once"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_the_file(folder: Path, text: str, message: str) -> None:
    write(folder, extending("mine.toml"), "loop.toml")
    with pytest.raises(UserError, match=message) as caught:
        load_suite(write(folder, text))
    assert str(caught.value).startswith(str(folder / "mine.toml"))


def test_a_link_that_leads_to_itself_is_no_file(folder: Path) -> None:
    (folder / "loop.toml").symlink_to("loop.toml")
    with pytest.raises(UserError, match=r"cannot read .*loop\.toml"):
        load_suite(str(folder / "loop.toml"))
    with pytest.raises(UserError, match=r"mine\.toml: extends: cannot read .*loop\.toml"):
        load_suite(write(folder, HEAD.replace("toy.toml", "loop.toml")))


def test_subjects_of_a_dataset_that_lies_elsewhere_are_left_to_the_plan(folder: Path) -> None:
    text = HEAD + '[data]\ndataset = "nowhere"\nsubjects = ["dog-red"]\n'
    suite = load_suite(write(folder, text))
    with pytest.raises(UserError, match="unknown dataset 'nowhere'"):
        suite.data.load()
    assert suite.with_images(folder / "data").data.load().subjects


def test_pocket_30_is_pocket_on_all_its_test_subjects() -> None:
    six, thirty = load_suite("pocket"), load_suite("pocket-30")
    own = {"name", "description", "data"}
    assert six.model_dump(exclude=own) == thirty.model_dump(exclude=own)
    assert thirty.data == six.data.model_copy(update={"subjects": []})
    everyone = load_dataset("pocket", split="test").subjects
    assert (len(six.data.subjects), len(everyone)) == (6, 30)


def test_dreambench_mini_differs_from_dreambench_in_amounts_alone() -> None:
    whole, mini = load_suite("dreambench"), load_suite("dreambench-mini")
    amounts = {"name", "description", "data", "sampler", "evaluation", "methods"}
    assert whole.model_dump(exclude=amounts) == mini.model_dump(exclude=amounts)
    assert (mini.sampler.scheduler, mini.sampler.guidance) == ("ddim", 7.5)
    for method in available("methods"):
        theirs, ours = whole.settings(method), mini.settings(method)
        differ = {key for key in theirs if theirs[key] != ours[key]}
        assert differ <= {"steps", "word_steps", "prior_images", "prior_steps"}


@pytest.mark.parametrize("name", suite_names())
def test_a_shipped_suite_names_subjects_that_there_are(name: str) -> None:
    suite = load_suite(name)
    known = [subject.name for subject in suite.data.load().subjects]
    assert set(suite.data.subjects) <= set(known)
