from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.suite import Estimate, Suite, load_suite
from benchmark.runs.plan import Plan, plan
from benchmark.runs.time_left import Forecast
from benchmark.store.records import JobRecord
from tests import toy


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(str(toy.write_world(tmp_path)))


def labels(grid: Plan) -> list[str]:
    return [job.label for job in grid.jobs]


def test_a_plan_is_every_method_on_every_subject_with_every_seed(suite: Suite) -> None:
    grid = plan(suite, ["tests.toy:PAINT", "real-images"], subjects=["dog-red"], seeds=[4, 5])
    assert labels(grid) == [
        "tests.toy:PAINT / dog-red / seed 4",
        "tests.toy:PAINT / dog-red / seed 5",
        "real-images / dog-red / seed 4",
        "real-images / dog-red / seed 5",
    ]
    # 3 prompts x 2 images and 2 of the prior prompt; or the 2 real images.
    assert [grid.images[job.key] for job in grid.jobs] == [8, 8, 2, 2]
    assert grid.jobs[0].settings["identifier"] == "sks"


def test_the_suites_choices_stand_where_none_is_made(suite: Suite) -> None:
    grid = plan(suite, ["tests.toy:PAINT"])
    assert grid.subjects == tuple(toy.SUBJECTS)
    assert grid.seeds == (0,)
    data = suite.data.model_copy(update={"subjects": ["vase-green"]})
    assert plan(suite.model_copy(update={"data": data}), ["tests.toy:PAINT"]).subjects == (
        "vase-green",
    )


def test_all_is_every_installed_method_and_outside_ones_go_beside(suite: Suite) -> None:
    grid = plan(suite, ["all", "tests.toy:PAINT", "untuned"])
    assert {"dreambooth", "textual-inversion", "untuned", "real-images"} < set(grid.methods)
    assert grid.methods[-1] == "tests.toy:PAINT"
    assert len(set(grid.methods)) == len(grid.methods)


def test_the_identifiers_ablation_is_asked_for_by_pattern_and_not_part_of_all(
    suite: Suite,
) -> None:
    names = ("identifier-common-word", "identifier-random-string", "identifier-sks")
    assert not set(plan(suite, ["all"]).methods) & set(names)
    grid = plan(suite, ["dreambooth", "identifier-*"])
    assert grid.methods == ("dreambooth", *names)
    assert plan(suite, ["identifier-sks"]).jobs[0].settings["identifier"] == "sks"
    with pytest.raises(UserError, match="no method fits 'identity-\\*'; known: dreambooth"):
        plan(suite, ["identity-*"])


@pytest.mark.parametrize(
    ("choices", "templates"),
    [
        (["accessory"], {"dog-red": ["a {} in a hat"]}),
        (["property", "1"], {"dog-red": ["a {} in the snow"],
                             "vase-green": ["a {} in the snow", "a red {}"]}),
        (["a {} on the beach"], {"dog-red": ["a {} on the beach"],
                                 "vase-green": ["a {} on the beach"]}),
    ],
)  # fmt: skip
def test_prompts_are_chosen_by_kind_number_and_template(
    suite: Suite, choices: list[str], templates: dict[str, list[str]]
) -> None:
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red", "vase-green"], prompts=choices)
    found = {job.subject: [prompt.template for prompt in job.prompts] for job in grid.jobs}
    assert found == templates
    assert set(grid.left_out) == {"dog-red", "vase-green"} - set(templates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["nonesuch"]}, "unknown method 'nonesuch'; known: dreambooth, .*untuned"),
        ({"methods": []}, "no method chosen; known: all, dreambooth"),
        ({"methods": ["tests.toy:NONE"]}, "module 'tests.toy' has no 'NONE'"),
        ({"subjects": ["cat"]}, "unknown subject 'cat'; known: dog-red, dog-blue, vase-green"),
        ({"prompts": ["4"]}, "unknown prompt '4'; known: recontextualization, .*; 1 to 3; a {} "),
        ({"prompts": ["a {} in space"]}, "unknown prompt 'a {} in space'; known: .*a red {}"),
        ({"prompts": ["accessory"], "subjects": ["vase-green"]}, "prompts accessory: not meant"),
    ],
)
def test_what_is_not_known_is_named_with_what_is(
    suite: Suite, arguments: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(suite, **({"methods": ["tests.toy:PAINT"]} | arguments))


def test_settings_for_an_unknown_method_or_key_are_an_error(suite: Suite) -> None:
    typo = suite.model_copy(update={"methods": {"dreamboth": {"steps": 3}}})
    with pytest.raises(UserError, match="settings for an unknown method 'dreamboth'"):
        plan(typo, ["tests.toy:PAINT"])
    typo = suite.model_copy(update={"methods": {"tests.toy:PAINT": {"step": 3}}})
    with pytest.raises(
        UserError, match="method 'tests.toy:PAINT' has no setting 'step'; it has: steps"
    ):
        plan(typo, ["tests.toy:PAINT"])


def test_a_changed_image_is_noticed_before_anything_runs(suite: Suite) -> None:
    image = Path(suite.data.dataset) / "dog-red" / "00.png"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(UserError, match="dog-red/00.png has SHA-256"):
        plan(suite, ["tests.toy:PAINT"])


def changed_protocol(suite: Suite, **change: str) -> Suite:
    return suite.model_copy(update={"protocol": suite.protocol.model_copy(update=change)})


def test_the_configuration_is_all_that_decides_the_scores_and_no_more(suite: Suite) -> None:
    def configuration(changed: Suite = suite, **arguments: object) -> str:
        return plan(changed, ["tests.toy:PAINT"], **arguments).configuration  # type: ignore[arg-type]

    same = configuration()
    assert configuration() == same
    estimate = Estimate(train_step_seconds=1, image_seconds=1)
    assert configuration(suite.model_copy(update={"estimate": estimate})) == same
    assert configuration(suite.model_copy(update={"description": "words"})) == same
    assert configuration(suite.model_copy(update={"encoders": "elsewhere"})) == same
    others = [
        configuration(changed_protocol(suite, version="2")),
        configuration(changed_protocol(suite, caption="as-given")),
        configuration(suite.model_copy(update={"methods": {"tests.toy:PAINT": {"steps": 3}}})),
        configuration(seeds=[1]),
        configuration(subjects=["dog-red"]),
        configuration(prompts=["1"]),
        configuration(images_per_prompt=1),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_a_resolution_of_its_own_is_part_of_the_backbones_name_and_of_the_key(suite: Suite) -> None:
    smaller = suite.backbone.model_copy(update={"resolution": 64})
    (own, *_), (other, *_) = (
        plan(one, ["tests.toy:PAINT"]).jobs
        for one in (suite, suite.model_copy(update={"backbone": smaller}))
    )
    assert (own.backbone, other.backbone) == (
        "tests.toy:load:colours",
        "tests.toy:load:colours at 64 px",
    )
    assert own.key != other.key
    assert suite.backbone.options() == {"precision": "auto"}
    assert smaller.options() == {"precision": "auto", "resolution": 64}


def test_a_runs_suite_file_makes_the_same_plan_again(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-blue"], images_per_prompt=3)
    (tmp_path / "again.toml").write_text(grid.suite.dump_toml())
    again = plan(load_suite(str(tmp_path / "again.toml")), ["tests.toy:PAINT"])
    assert again == replace(grid, left_out=again.left_out)


def test_time_is_forecast_from_rates_and_then_from_what_jobs_took(suite: Suite) -> None:
    assert (
        Forecast(plan(suite, ["tests.toy:PAINT"])).seconds(plan(suite, ["tests.toy:PAINT"]).jobs)
        is None
    )
    rates = Estimate(train_step_seconds=10, image_seconds=1)
    grid = plan(suite.model_copy(update={"estimate": rates}), ["tests.toy:PAINT", "real-images"])
    forecast = Forecast(grid)
    assert forecast.seconds(grid.jobs) == 3 * (2 * 10 + 8 * 1) + 3 * 2 * 1
    forecast.learn(grid.jobs[0], JobRecord("", {}, {}, 1.0, 2.0, 3.0, 0.0, 8))
    assert forecast.seconds(grid.jobs) == 3 * 6 + 3 * 2 * 1


def test_long_jobs_come_first_and_classes_alternate(suite: Suite) -> None:
    rates = Estimate(train_step_seconds=10, image_seconds=1)
    grid = plan(suite.model_copy(update={"estimate": rates}), ["real-images", "tests.toy:PAINT"])
    order = [(job.method, job.class_noun) for job in Forecast(grid).order(grid.jobs)]
    assert order == [
        ("tests.toy:PAINT", "dog"),
        ("tests.toy:PAINT", "vase"),
        ("tests.toy:PAINT", "dog"),
        ("real-images", "dog"),
        ("real-images", "vase"),
        ("real-images", "dog"),
    ]
