"""Class nouns, and in a closed vocabulary prompts, are looked up before anything trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.api import CUSTOM, KnownWords, UserError
from benchmark.cli.app import app
from benchmark.config.suite import Suite, load_suite
from benchmark.data.dataset import datasets_directory, load_dataset
from benchmark.data.prompts import EXAMPLE
from benchmark.grid.running import run_grid
from benchmark.models.texts.known_words import known_words
from benchmark.runs.plan import plan
from benchmark.runs.vocabulary import check_vocabulary
from tests import toy


def of_dog(folder: Path, noun: str, prompts: str = "", suite: str = "pocket") -> Suite:
    """The suite with the pocket world's dog, as a `noun`, and a file of `prompts` if given."""
    data = folder / "data"
    shutil.copytree(datasets_directory() / "pocket" / "dog", data / "dog")
    (data / "subjects.toml").write_text(f'[dog]\nclass_noun = "{noun}"\nlive = true\n')
    if prompts:
        lists = f'recontextualization = ["{prompts}"]\n'
        (data / "prompts.toml").write_text(f"[live]\n{lists}[object]\n{lists}")
    return load_suite(suite).with_images(data)


@pytest.mark.parametrize(
    ("noun", "prompt", "wanted"),
    [
        (
            "dgo",
            "",
            r"class noun 'dgo' \(did you mean 'dog'\?\) of subject 'dog' \(.*/subjects\.toml\)\. "
            "Choose other words, or another --backbone .* list words` shows them: dog, a, and, b",
        ),
        ("coffee mug", "", "class noun 'coffee mug' of subject 'dog'"),
        ("dog", "a {} on the moon", "'moon' of prompt 'a {} on the moon'.*: on, wooden, a, and,"),
        ("dog", "a {} on the beech", r"'beech' \(did you mean 'beach'\?\) of prompt"),
    ],
)
def test_a_closed_vocabulary_refuses_what_it_lacks(
    tmp_path: Path, noun: str, prompt: str, wanted: str
) -> None:
    suite = of_dog(tmp_path, noun, prompt)
    with pytest.raises(UserError, match=wanted):
        run_grid(plan(suite, ["untuned"]), tmp_path / "run", dry_run=True)
    with pytest.raises(UserError, match="'pocket' was taught .* words, which lack"):
        run_grid(plan(suite, ["untuned"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    copies = plan(suite, ["real-images"]).jobs
    assert check_vocabulary(suite, copies) == [], "nothing is drawn"


def test_the_subjects_that_can_be_drawn_are_a_way_out(tmp_path: Path) -> None:
    suite = of_dog(tmp_path, "dog")
    data = tmp_path / "data"
    for name, noun in (("tin", "cartoon"), ("bot", "robot")):
        shutil.copytree(data / "dog", data / name)
        with (data / "subjects.toml").open("a") as file:
            file.write(f'[{name}]\nclass_noun = "{noun}"\nlive = false\n')
    grid = plan(suite, ["untuned"])
    with pytest.raises(UserError, match=r"'cartoon' of subject 'tin' .* \(--subjects dog,bot\)"):
        check_vocabulary(suite, grid.jobs)
    assert check_vocabulary(suite, plan(suite, ["untuned"], subjects=["dog", "bot"]).jobs) == []


def test_the_example_of_ones_own_prompt_is_one_that_the_default_suite_draws() -> None:
    suite = load_suite("pocket")
    grid = plan(suite, ["untuned"], prompts=[EXAMPLE])
    assert {p.kind for job in grid.jobs for p in job.prompts} == {CUSTOM}
    assert check_vocabulary(suite, grid.jobs) == []


def test_the_words_of_a_suite_are_listed() -> None:
    done = CliRunner().invoke(app, ["list", "words"])
    known = known_words("pocket")
    assert known is not None
    assert done.output.splitlines() == sorted(known.words)
    done = CliRunner().invoke(app, ["list", "words", "--suite", "dreambench"])
    assert isinstance(done.exception, UserError)
    assert "class nouns and prompts may have any" in str(done.exception)


def test_ones_own_subjects_have_the_prompts_of_the_suites_own_dataset(tmp_path: Path) -> None:
    suite = of_dog(tmp_path, "dog")
    grid = plan(suite, ["untuned"])
    assert grid.prompts["dog"] == load_dataset("pocket").prompts_live
    assert check_vocabulary(suite, grid.jobs) == []
    kept = Suite.model_validate(grid.suite.model_dump())
    assert kept.data.load().prompts_live == load_dataset("pocket").prompts_live
    photographs = load_suite("dreambench").with_images(tmp_path / "data")
    assert photographs.data.load().prompts_live == load_dataset("dreambench").prompts_live


class Open(toy.Easels):
    """A kind of backbone with an open vocabulary."""

    def known_words(self, model: str) -> KnownWords | None:
        return None if model == "elsewhere" else KnownWords(frozenset({"kettle"}), closed=False)


OPEN = Open()


@pytest.mark.parametrize(
    ("noun", "said"),
    [
        ("kettle", []),
        ("stuffed animal", []),  # of a dataset that ships
        (
            "dgo",
            [
                "class noun 'dgo' (did you mean 'dog'?) of subject 'dog' ({}), which 'colours' "
                "reads in pieces: is it spelled right?"
            ],
        ),
    ],
)
def test_an_open_vocabulary_warns_once_and_goes_on(
    tmp_path: Path, noun: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    suite = of_dog(tmp_path, noun, "a {} on the moon", suite=str(toy.write_world(tmp_path / "toy")))
    backbone = suite.backbone.model_copy(update={"kind": f"{__name__}:OPEN"})
    suite = suite.model_copy(update={"backbone": backbone})
    said = [line.format(tmp_path / "data" / "subjects.toml") for line in said]
    grid = plan(suite, ["untuned", "tests.toy:PAINT"])
    assert check_vocabulary(suite, grid.jobs) == said
    assert run_grid(grid, tmp_path / "run", dry_run=True) == 0
    assert capsys.readouterr().err.count("did you mean") == len(said)
    away = suite.model_copy(update={"backbone": backbone.model_copy(update={"model": "elsewhere"})})
    assert check_vocabulary(away, plan(away, ["untuned"]).jobs) == []


@pytest.mark.parametrize("model", ["pocket", "pocket-cascade"])
def test_the_pocket_models_know_all_words_of_their_world(model: str) -> None:
    known = known_words(model)
    assert known is not None
    assert known.closed
    dataset = load_dataset("pocket")
    texts = [p.text(s.class_noun) for s in dataset.subjects for p in dataset.prompts_for(s)]
    assert {word for text in texts for word in text.split()} <= known.words
    assert not {"cobblestone", "sks", "dgo"} & known.words


def test_clips_vocabulary_is_looked_up_without_weights() -> None:
    known = known_words("sd15")
    assert known is not None
    assert not known.closed
    assert {"dog", "teapot", "sneaker"} <= known.words
    assert "dgo" not in known.words
