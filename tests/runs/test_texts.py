"""Texts that are too long are refused before anything trains, is drawn or is scored."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmark.api import Request, Subject, UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.data.dataset import datasets_directory
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.runs.plan import plan
from benchmark.studies.outside_images import collect, score_images
from tests import toy
from tests.scoring.colours import Colours
from tests.toy import ONE

#: 24 tokens as a caption, with both marks: all that the pocket models read.
FITS = "a {} " + "a dog " * 9 + "a cat"


class Strict(Colours):
    """An encoder that reads captions of three words."""

    def check_texts(self, name: str, table: Mapping[str, Any], texts: Sequence[str]) -> None:
        for text in texts:
            if len(text.split()) > 3:
                raise UserError(f"encoders.{name}: '{text}' is too long")


STRICT = Strict()


@dataclass(frozen=True)
class Telling(toy.Paint):
    """A method that tells its texts."""

    told: str = "well"

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[Any]:
        if self.told == "badly":
            raise RuntimeError("a bug")
        return ["a dog"] if self.told == "well" else [3]


TELLING = Telling()


class Reading(toy.Easels):
    """A kind of backbone that reads nothing."""

    def check_texts(self, model: str, texts: Sequence[str]) -> None:
        raise UserError(f"'{model}' reads none of {', '.join(texts)}")


READING = Reading()


def pocket(folder: Path, template: str) -> Suite:
    """The pocket suite with one dog and one prompt."""
    data = folder / "data"
    shutil.copytree(datasets_directory() / "pocket" / "dog", data / "dog")
    (data / "subjects.toml").write_text('[dog]\nclass_noun = "dog"\nlive = true\n')
    lists = f'recontextualization = ["{template}"]\n'
    (data / "prompts.toml").write_text(f"[live]\n{lists}[object]\n{lists}")
    return load_suite("pocket").with_images(data)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_refuses_what_its_judge_cannot_read(tmp_path: Path, dry_run: bool) -> None:
    grid = plan(pocket(tmp_path, FITS + " cat"), ["untuned"])
    with pytest.raises(UserError, match="'pocket-1': encoders.clip: .* 24 tokens .*: shorten"):
        run_grid(grid, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("method", ["dreambooth", "dreambooth-no-prior"])
def test_a_run_refuses_what_its_backbone_cannot_read(
    tmp_path: Path, method: str, dry_run: bool
) -> None:
    suite = pocket(tmp_path, FITS)
    with pytest.raises(
        UserError, match="prompt 'a sks dog .* has 25 tokens, but 'pocket' reads 24"
    ):
        run_grid(plan(suite, [method]), tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_a_run_refuses_what_its_backbone_cannot_learn_from(tmp_path: Path) -> None:
    suite = pocket(tmp_path, "a {} in the snow")
    settings = {"textual-inversion": {"templates": ["a {}", FITS + " a cat"]}}
    suite = suite.model_copy(update={"methods": settings})
    with pytest.raises(UserError, match="prompt 'a sks a dog .* a cat' has 26 tokens"):
        run_grid(plan(suite, ["textual-inversion"]), tmp_path / "run")


def test_a_run_refuses_a_word_that_its_backbone_cannot_learn(tmp_path: Path) -> None:
    suite = pocket(tmp_path, "a {} in the snow")
    settings = {"textual-inversion": {"identifier": "xyzzy"}}
    suite = suite.model_copy(update={"methods": settings})
    with pytest.raises(UserError, match="'xyzzy' is 5 tokens of 'pocket', but one vector"):
        run_grid(plan(suite, ["textual-inversion"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_other_tools_are_refused_with_their_prompt(tmp_path: Path) -> None:
    suite = pocket(tmp_path, FITS + " cat")
    prompt = suite.data.load().prompts_live[0]
    place = tmp_path / "made" / "dog" / prompt.slug
    place.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place / "0.png")
    with pytest.raises(UserError, match="encoders.clip: .* 24 tokens"):
        score_images(collect(tmp_path / "made", suite), tmp_path / "scored")
    assert not (tmp_path / "scored").exists()


def test_a_run_is_not_scored_by_a_judge_that_cannot_read_its_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = load_suite(str(toy.write_world(tmp_path)))
    run = tmp_path / "run"
    assert run_grid(plan(suite, ["tests.toy:PAINT"], subjects=["dog-red"]), run, resources=ONE) == 0
    before = (run / "scores.csv").read_bytes()
    strict = toy.write_protocol(tmp_path, "strict")
    text = strict.read_text()
    strict.write_text(
        text.replace(
            '[encoders.clip]\nkind = "tests.toy:EYE"',
            f'[encoders.clip]\nkind = "{__name__}:STRICT"',
        )
    )
    with pytest.raises(UserError, match="'strict-1': encoders.clip: 'a dog in the snow' is too"):
        score_run(run, protocol=str(strict))
    assert (run / "scores.csv").read_bytes() == before
    assert not (run / "scores" / "strict-1").exists()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (f"{__name__}:TELLING", "'colours' reads none of a dog$"),
        (
            f"{__name__}:TELLING[told=badly]",
            "texts of method .* 'dog-red' raises RuntimeError",
        ),
        (f"{__name__}:TELLING[told=numbers]", "texts of method .* has 3, which is no text"),
    ],
)
def test_what_a_plugin_tells_is_asked_of_the_backbone(
    tmp_path: Path, method: str, message: str
) -> None:
    suite = load_suite(str(toy.write_world(tmp_path)))
    kind = suite.backbone.model_copy(update={"kind": f"{__name__}:READING"})
    grid = plan(suite.model_copy(update={"backbone": kind}), [method], subjects=["dog-red"])
    with pytest.raises(UserError, match=message):
        run_grid(grid, tmp_path / "run")
    assert not (tmp_path / "run").exists()
