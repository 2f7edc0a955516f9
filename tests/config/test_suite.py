from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from benchmark.api import CHECKPOINT, Draws, UserError, of_backbone
from benchmark.config.method_checks import settings_of
from benchmark.config.registry import available, load_kind, load_method, variant
from benchmark.config.suite import load_suite, suite_names
from benchmark.runs.plan import plan
from benchmark.runs.selection import method_names, unserved
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
    for suite in (*map(load_suite, suite_names()), load_suite(str(suite_file))):
        again = tmp_path / "again.toml"
        again.write_text(suite.dump_toml())
        assert load_suite(str(again)) == suite


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "guidance = 1.0",
            "guidence = 1.0",
            r"sampler.guidence is unknown .did you mean .guidance...; sampler.guidance is missing",
        ),
        ("steps = 2", "steps = 2\ntrue_guidance = 1.0", "sampler.true_guidance: .*greater than 1"),
        ("steps = 2", 'steps = "2"', r"sampler.steps: .*whole number \(it is '2'\)"),
        ("steps = 2", "steps = 0", "sampler.steps: .*greater than 0"),
        ("images_per_prompt = 2", "images_per_prompt = true", "evaluation.images_per_prompt: "),
        ('identifier = "sks"', "resolution = 0", "backbone.resolution: .*greater than 0"),
        ('precision = "fp32"', 'precision = "fp8"', "backbone.precision: .*'auto', 'fp32'"),
        ('name = "toy"', 'name = "../toy"', "name: .*letters, digits"),
        ('name = "toy"', 'name = ".."', "name: .*letters, digits"),
        ('identifier = "sks"', 'identifier = " "', "backbone.identifier: .*other than a blank"),
        ("images_per_prompt = 2", "images_per_prompt = 1000000000", "images_per_prompt: .*10000"),
        ("images_per_prompt = 2", "images_per_prompt = 2\nseed = 9223372036854775808", "seed: "),
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


def test_names_in_two_unicode_forms_are_the_same(suite_file: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    text = suite_file.read_text().replace('identifier = "sks"', f'identifier = "{decomposed}"')
    text = text.replace("[groups]", f'[groups]\n"{decomposed}" = ["untuned"]')
    text += f'\n[methods."tests.toy:PAINT"]\nmishap = "{decomposed}"\n'
    suite_file.write_text(text)
    suite = load_suite(str(suite_file))
    assert suite.backbone.identifier == composed and composed in suite.groups
    assert suite.methods["tests.toy:PAINT"] == {"mishap": composed}
    suite_file.write_text(text.replace("[groups]", f'[groups]\n"{composed}" = ["untuned"]'))
    with pytest.raises(UserError, match="'.*' is there twice, in two Unicode forms"):
        load_suite(str(suite_file))


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
    role: ClassVar[str] = "method"
    draws: ClassVar[Draws] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset()
    description: str = "has no identifier"
    variant_of: str | None = None
    steps: int = 1

    def prior(self) -> None:
        """Never called here."""

    fit = generate = prior


def test_dreambench_is_the_papers_protocol() -> None:
    """Section 4 of the paper, and section 3.2 for the training."""
    suite = load_suite("dreambench")
    assert suite.protocol.name == "paper"
    assert (suite.data.subjects, suite.evaluation.prompts) == ([], [])  # all 30, all 25
    assert suite.evaluation.images_per_prompt == 4
    settings = settings_of(suite.method("dreambooth"))
    paper = {"steps": 1000, "learning_rate": 5e-6, "prior_weight": 1.0, "prior_images": 1000}
    assert settings.items() >= {**paper, "prior_scheduler": "ddpm", "identifier": "sks"}.items()
    inversion = settings_of(suite.method("textual-inversion"))
    theirs = {"steps": 6100, "learning_rate": 5e-3, "batch_size": 2}
    assert inversion.items() >= theirs.items()


@pytest.mark.parametrize("name", suite_names())
def test_ablations_differ_from_dreambooth_in_what_is_ablated(name: str) -> None:
    suite = load_suite(name)
    whole = settings_of(suite.method("dreambooth"))
    changes = {
        "no-prior": {"prior_weight"},
        "wrong-class": {"noun"},
        "no-class": {"noun", "prior_weight"},
    }
    for ablation, changed in changes.items():
        settings = settings_of(suite.method(f"dreambooth-{ablation}"))
        differ = {key for key in whole if settings[key] != whole[key]}
        assert differ == changed


@pytest.mark.parametrize("name", suite_names())
def test_the_identifiers_ablation_differs_from_dreambooth_in_the_identifier_alone(
    name: str,
) -> None:
    suite = load_suite(name)
    whole = settings_of(suite.method("dreambooth"))
    found = set()
    for ablation in method_names(suite, ["identifiers"]):
        settings = settings_of(suite.method(ablation))
        found.add(settings["identifier"])
        assert settings == whole | {"identifier": settings["identifier"]}
    assert len(found) == 3


@pytest.mark.parametrize("name", suite_names())
def test_every_method_is_of_a_group_and_every_names_all_but_the_identifiers(name: str) -> None:
    """Of those that the suite's backbone can serve; the plan leaves the others out."""
    suite = load_suite(name)
    listed = {group: method_names(suite, [group]) for group in suite.groups}
    left = unserved(suite, [name for names in listed.values() for name in names])
    named = {group: [n for n in names if n not in left] for group, names in listed.items()}
    served = load_kind(suite.backbone.kind).capabilities(suite.backbone.model)
    needs = {name: of_backbone(load_method(name).needs) for name in available("methods")}
    elsewhere = {name for name in needs if CHECKPOINT in load_method(name).needs}
    able = {name for name, needed in needs.items() if needed <= served} - elsewhere
    of_groups = {variant(name)[0] for group in named.values() for name in group}
    assert able <= of_groups <= {*available("methods")}
    assert {variant(name)[0] for name in named["every"]} == able - {*named["identifiers"]}
    assert named["every"][: len(named["all"])] == named["all"]
    assert all(suite.method(name) for name in named["every"])
    roles = {suite.method(control).role for control in suite.controls}
    assert roles == {"upper bound", "lower bound"}
    assert suite.objective is not None
    assert {suite.objective.fidelity, suite.objective.prompt} <= set(suite.protocol.metrics)


def test_a_group_may_name_groups_and_a_method_that_is_called_as_it_is(suite_file: Path) -> None:
    text = suite_file.read_text().replace(
        "[groups]", '[groups]\nboth = ["paints", "untuned"]\nuntuned = ["untuned", "both"]'
    )
    suite_file.write_text(text)
    suite = load_suite(str(suite_file))
    paints = ["tests.toy:PAINT", "tests.toy:TELL"]
    assert method_names(suite, ["both"]) == [*paints, "untuned", "both"]
    assert method_names(suite, ["untuned"]) == ["untuned", *paints]


def test_a_variant_starts_from_the_suites_table_of_what_it_varies(
    suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tables = "tests.toy:PAINT", '[methods."tests.toy:PAINT"]\nsteps = 7\nseconds = 0.5\n'
    for name, changes in {"LESS": {"seconds": 0.25}, "MUCH": {"mishap": "much"}}.items():
        varied = replace(toy.PAINT, variant_of=base, **changes)
        monkeypatch.setattr(toy, name, varied, raising=False)
    suite_file.write_text(
        suite_file.read_text() + tables + '[methods."tests.toy:MUCH"]\nsteps = 9\n'
    )
    suite = load_suite(str(suite_file))
    less, much = suite.method("tests.toy:LESS"), suite.method("tests.toy:MUCH")
    assert (less.steps, less.seconds) == (7, 0.25), "what is ablated stays ablated"
    assert (much.steps, much.seconds, much.mishap) == (9, 0.5, "much")
    assert suite.method("tests.toy:LESS[seconds=2]").seconds == 2.0
    assert suite.method("tests.toy:PAINT[seconds=2]").steps == 7


def test_the_suites_prompts_are_those_that_are_planned(suite_file: Path) -> None:
    text = suite_file.read_text().replace("[evaluation]", '[evaluation]\nprompts = ["1"]')
    suite_file.write_text(text)
    suite = load_suite(str(suite_file))
    for given, expected in (([], ["1"]), (["2"], ["2"])):
        grid = plan(suite, ["real-images"], prompts=given)
        assert grid.suite.evaluation.prompts == expected
        assert {len(job.prompts) for job in grid.jobs} == {1}


def test_a_suite_on_another_backbone_keeps_the_rest_but_its_times() -> None:
    suite = load_suite("pocket")
    assert suite.on() == suite.on("pocket") == suite
    other = suite.on("sd15", "bf16")
    assert (other.backbone.model, other.backbone.precision) == ("sd15", "bf16")
    assert other.estimate is None and suite.estimate is not None
    same = other.model_copy(update={"backbone": suite.backbone, "estimate": suite.estimate})
    assert same == suite
    assert suite.on(precision="fp32").estimate == suite.estimate


OF_CRAYONS = """
[backbones.crayons]
sampler = { scheduler = "ddpm", steps = 9, guidance = 2.0 }
methods."tests.toy:PAINT" = { steps = 9 }
estimate = { train_step_seconds = 3, image_seconds = 4 }
"""


def test_what_a_suite_says_of_another_backbone_holds_on_it_alone(suite_file: Path) -> None:
    with suite_file.open("a") as file:
        file.write('[methods."tests.toy:PAINT"]\nsteps = 5\nseconds = 0.25\n' + OF_CRAYONS)
    suite = load_suite(str(suite_file))
    assert suite.on("sd15").sampler == suite.sampler != suite.on("crayons").sampler
    other = suite.on("crayons")
    assert (other.sampler.scheduler, other.sampler.steps, other.sampler.guidance) == ("ddpm", 9, 2)
    method = other.method("tests.toy:PAINT")
    assert (method.steps, method.seconds) == (9, 0.25)
    assert suite.method("tests.toy:PAINT").steps == 5
    assert other.estimate and other.estimate.image_seconds == 4
    assert other.on("crayons") == other


def test_what_a_suite_says_of_another_backbone_is_what_differs(suite_file: Path) -> None:
    with suite_file.open("a") as file:
        file.write("[backbones.crayons]\nsampler.steps = 9\nbackbone.identifier = 'ohwx'\n")
    suite = load_suite(str(suite_file))
    other = suite.on("crayons")
    assert other.sampler == suite.sampler.model_copy(update={"steps": 9})
    assert (other.backbone.identifier, other.backbone.model) == ("ohwx", "crayons")
    with suite_file.open("a") as file:
        file.write("[backbones.crayons.methods.dreamboth]\n")
    with pytest.raises(UserError, match="settings for an unknown method 'dreamboth'"):
        plan(load_suite(str(suite_file)), ["untuned"])


def test_a_suite_that_extends_another_on_another_backbone_starts_from_what_that_says_of_it(
    suite_file: Path, tmp_path: Path
) -> None:
    with suite_file.open("a") as file:
        file.write(OF_CRAYONS)
    own = tmp_path / "own.toml"
    own.write_text(
        f'extends = "{suite_file.name}"\nname = "own"\ndescription = "Mine"\n'
        '[backbone]\nmodel = "crayons"\n[sampler]\nsteps = 3\n'
    )
    suite = load_suite(str(own))
    assert (suite.sampler.scheduler, suite.sampler.steps) == ("ddpm", 3)
    assert suite.method("tests.toy:PAINT").steps == 9


def test_a_variants_name_overrides_its_own_table(suite_file: Path) -> None:
    name = "tests.toy:PAINT[steps=7]"
    with suite_file.open("a") as file:
        file.write('[methods."tests.toy:PAINT"]\nseconds = 0.25\nmishap = "none"\n')
        file.write(f'[methods."{name}"]\nseconds = 0.5\nsteps = 9\n')
    suite = load_suite(str(suite_file))
    method = suite.method(name)
    assert (method.steps, method.seconds, method.mishap) == (7, 0.5, "none")
    plain = suite.method("tests.toy:PAINT")
    assert (plain.steps, plain.seconds, plain.mishap) == (2, 0.25, "none")
