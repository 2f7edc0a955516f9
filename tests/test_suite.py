from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from benchmark.plugins import settings_of
from benchmark.records import UserError
from benchmark.suite import load_suite, suite_names
from tests import toy


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    return toy.write_world(tmp_path)


@pytest.mark.parametrize("name", suite_names())
def test_a_shipped_suite_sets_only_what_its_methods_have(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    for method in suite.methods:
        settings = settings_of(suite.method(method))
        assert settings.items() >= suite.methods[method].items()


def test_a_dumped_suite_reads_back_equal(suite_file: Path, tmp_path: Path) -> None:
    for suite in (load_suite("pocket"), load_suite(str(suite_file))):
        again = tmp_path / "again.toml"
        again.write_text(suite.dump_toml())
        assert load_suite(str(again)) == suite


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("guidance = 1.0", "guidence = 1.0", "sampler.guidance: .*sampler.guidence: Extra"),
        ("steps = 2", 'steps = "2"', r"sampler.steps: .*valid integer \(it is '2'\)"),
        ("steps = 2", "steps = 0", "sampler.steps: .*greater than 0"),
        ("images_per_prompt = 2", "images_per_prompt = true", "evaluation.images_per_prompt: "),
        ('identifier = "sks"', 'precision = "fp8"', "backbone.precision: .*'auto', 'fp32'"),
        ('name = "toy"', 'name = "../toy"', "name: .*pattern"),
        ('name = "toy"', "name = ", "is no TOML"),
    ],
)
def test_a_bad_suite_is_named_with_file_and_key(
    suite_file: Path, old: str, new: str, message: str
) -> None:
    text = suite_file.read_text()
    assert old in text
    suite_file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        load_suite(str(suite_file))
    assert str(suite_file) in str(caught.value)


def test_an_unknown_suite_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown suite 'nonesuch'; known: .*pocket"):
        load_suite("nonesuch")
    with pytest.raises(UserError, match="cannot read .*none.toml: No such file"):
        load_suite(str(tmp_path / "none.toml"))


def test_settings_and_the_suites_identifier_reach_the_method(suite_file: Path) -> None:
    with suite_file.open("a") as file:
        file.write('[methods."tests.toy:PAINT"]\nsteps = 7\n')
    suite = load_suite(str(suite_file))
    method = suite.method("tests.toy:PAINT")
    assert (method.steps, method.identifier) == (7, "sks")
    with suite_file.open("a") as file:
        file.write('identifier = "zwx"\n')
    assert load_suite(str(suite_file)).method("tests.toy:PAINT").identifier == "zwx"


def test_a_method_without_an_identifier_is_left_alone(
    suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "BARE", Bare(), raising=False)
    assert settings_of(load_suite(str(suite_file)).method("tests.toy:BARE")) == {"steps": 1}


@dataclass(frozen=True)
class Bare:
    version: ClassVar[str] = "1"
    prompted: ClassVar[bool] = True
    description: str = "has no identifier"
    steps: int = 1

    def fit(self) -> None:
        """Never called here."""


def test_a_suite_on_another_backbone_keeps_the_rest_but_its_times() -> None:
    suite = load_suite("pocket")
    assert suite.on() == suite.on("pocket") == suite
    other = suite.on("sd15", "bf16")
    assert (other.backbone.model, other.backbone.precision) == ("sd15", "bf16")
    assert other.estimate is None and suite.estimate is not None
    same = other.model_copy(update={"backbone": suite.backbone, "estimate": suite.estimate})
    assert same == suite
    assert suite.on(precision="fp32").estimate == suite.estimate
