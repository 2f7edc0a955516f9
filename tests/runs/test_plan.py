import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.api import CAPABILITIES, PriorImages, Sampler, UserError
from benchmark.config.suite import Estimate, Suite, load_suite
from benchmark.grid.running import run_grid
from benchmark.models.diffusion.sampling import passes
from benchmark.runs.agenda import Agenda, Work
from benchmark.runs.plan import Grid, plan
from benchmark.runs.selection import method_names
from benchmark.runs.time_left import Forecast
from benchmark.store.records import Job, JobRecord, Phases, Prior, PriorRecord
from tests import toy
from tests.tiny_clip import save_tiny_clip
from tests.tiny_pipeline import save_tiny_pipeline


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(str(toy.write_world(tmp_path)))


def labels(grid: Grid) -> list[str]:
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
    assert [len(job.requests) for job in grid.jobs] == [8, 8, 2, 2]
    assert grid.jobs[0].fit.settings["identifier"] == "sks"


def test_the_suites_choices_stand_where_none_is_made(suite: Suite) -> None:
    grid = plan(suite, ["tests.toy:PAINT"])
    assert grid.subjects == tuple(toy.SUBJECTS)
    assert grid.seeds == (0,)
    data = suite.data.model_copy(update={"subjects": ["vase-green"]})
    assert plan(suite.model_copy(update={"data": data}), ["tests.toy:PAINT"]).subjects == (
        "vase-green",
    )


def test_all_is_every_installed_method_and_outside_ones_go_beside(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a backbone that can do all that they ask of one."""
    monkeypatch.setattr("tests.toy.KIND", toy.Easels(frozenset(CAPABILITIES)))
    grid = plan(suite, ["all", "tests.toy:PAINT", "untuned"])
    assert {"dreambooth", "textual-inversion", "untuned", "real-images"} < set(grid.methods)
    assert grid.methods[-1] == "tests.toy:PAINT"
    assert len(set(grid.methods)) == len(grid.methods)


def test_a_model_and_its_samplers_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    model = save_tiny_pipeline(tmp_path / "tiny")
    suite = load_suite("pocket").on(str(model))
    asked = {"subjects": ["dog"]}
    plan(suite, ["dreambooth", "untuned"], **asked)
    with pytest.raises(UserError, match="prior images of .*'ddpm': its 600 steps begin at .* 600"):
        plan(suite, ["dreambooth[prior_steps=600]"], **asked)
    sampler = suite.sampler.model_copy(update={"steps": 1000})
    with pytest.raises(UserError, match=r"the suite's \[sampler\]: .* begin at timestep 1000"):
        plan(suite.model_copy(update={"sampler": sampler}), ["untuned"], **asked)
    path = model / "unet" / "config.json"
    path.write_text(path.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    with pytest.raises(UserError, match=f"model '{model}': .* takes 9 channels .*inpainting"):
        plan(suite, ["untuned"], **asked)


def test_groups_and_patterns_are_spelled_out(suite: Suite) -> None:
    grid = plan(suite, ["paints", "untuned"])
    assert grid.methods == ("tests.toy:PAINT", "tests.toy:TELL", "untuned")
    own = suite.model_copy(update={"groups": {"all": ["untuned", "identifier-*"]}})
    names = ("identifier-common-word", "identifier-random-string", "identifier-sks")
    assert plan(own, ["all"]).methods == ("untuned", *names)
    with pytest.raises(UserError, match="no method fits 'identity-\\*'; known: checkpoint, "):
        plan(suite, ["identity-*"])


def test_of_groups_and_patterns_what_the_backbone_cannot_serve_is_left_out_and_told(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is named is refused, and says which families can."""
    groups = {"mine": ["paints", "dreambooth-*"], "paints": ["tests.toy:PAINT", "img2img"]}
    own = suite.model_copy(update={"groups": groups})
    grid = plan(own, ["mine", "image-*", "untuned"])
    assert "tests.toy:PAINT" in grid.methods and "untuned" in grid.methods
    assert "dreambooth-lora" in grid.methods, "the toy backbone can train"
    assert grid.unserved == {"img2img": ["image-to-image"], "image-variation": ["image-embedding"]}
    assert run_grid(grid, tmp_path / "run", dry_run=True) == 0
    said = "left out    img2img (needs image-to-image), image-variation (needs image-embedding): "
    assert f"{said}backbone 'colours' has not that\n" in capsys.readouterr().out
    with pytest.raises(UserError) as error:
        plan(own, ["mine", "img2img"])
    assert str(error.value).startswith("method 'img2img' needs image-to-image, and backbone 'col")
    able = "Stable Diffusion 1 or 2 (sd14, sd15, sd21, sd21-base), Stable Diffusion XL (sdxl)"
    assert f": choose another --backbone, a model of {able}, Stable" in str(error.value)
    with pytest.raises(UserError, match="--backbone, a model of Stable unCLIP .stable-unclip., or"):
        plan(own, ["image-variation"])
    serves_none = "backbone 'colours' serves no method of image-.: 'image-variation' needs image-e"
    with pytest.raises(UserError, match=serves_none):
        plan(own, ["image-*"])


def test_what_needs_a_file_is_in_no_group_and_fits_no_pattern(suite: Suite) -> None:
    assert "checkpoint" not in method_names(suite.model_copy(update={"groups": {}}), ["all"])
    assert "untuned" in method_names(suite.model_copy(update={"groups": {}}), ["all"])
    with pytest.raises(UserError, match="no method fits 'check\\*'"):
        plan(suite, ["check*"])
    with pytest.raises(
        UserError, match="file, digest and identifier have to be set: `checkpoints`"
    ):
        plan(load_suite("pocket"), ["checkpoint"], subjects=["dog"])


def test_controls_come_along_where_there_are_images_enough(suite: Suite) -> None:
    grid = plan(suite, ["untuned", "tests.toy:PAINT"], controls=suite.controls)
    assert grid.methods == ("untuned", "tests.toy:PAINT", "real-images")


def test_a_fits_key_knows_nothing_of_prompts_images_and_scores(suite: Suite) -> None:
    def key(changed: Suite = suite, **choice: object) -> str:
        return plan(changed, ["tests.toy:PRIMED"], subjects=["dog-red"], **choice).jobs[0].fit.key  # type: ignore[arg-type]

    same = key()
    assert same == key(prompts=["1"]) == key(images_per_prompt=7)
    assert same == key(suite.under("pocket"))
    sampler = suite.sampler.model_copy(update={"steps": 9})
    assert same == key(suite.model_copy(update={"sampler": sampler}))
    others = [key(seeds=[1]), key(suite.on("crayons")), key(suite.on(precision="bf16"))]
    assert len({same, *others}) == 4


def test_the_keys_have_the_resolved_precision(suite: Suite) -> None:
    from benchmark.models.precision import resolve_device, resolve_precision

    (job,) = plan(suite.on(precision="auto"), ["tests.toy:PAINT"], subjects=["dog-red"]).jobs
    assert job.fit.precision == resolve_precision("auto", resolve_device("auto")) != "auto"


def test_prior_images_are_jobs_shared_by_those_that_ask_alike(suite: Suite) -> None:
    grid = plan(suite, ["tests.toy:PRIMED", "tests.toy:PRIMED[steps=3]", "tests.toy:PAINT"])
    assert {(p.class_noun, p.count) for p in grid.priors.values()} == {("dog", 20), ("vase", 20)}
    named = [job.fit.prior for job in grid.jobs]
    assert set(named) == {*grid.priors, None}
    assert named[0] == named[1] == named[3]  # both dogs, whatever the steps
    two = plan(suite, ["tests.toy:PRIMED"], seeds=[0, 1])
    assert len(two.priors) == 4


def test_classmates_share_their_class_nouns_prior_images() -> None:
    """As in DreamBench, where the 30 subjects are of 15 class nouns."""
    grid = plan(load_suite("pocket-30"), ["dreambooth"], seeds=[0, 1])
    shared: dict[str, set[tuple[str, int]]] = {}
    for job in grid.jobs:
        shared.setdefault(job.fit.prior or "", set()).add((job.subject, job.seed))
    expected = {
        frozenset((f"{noun}{number}", seed) for number in ("", "2", "3"))
        for noun in ("dog", "cat", "duck", "rabbit", "backpack")
        + ("teapot", "vase", "boot", "clock", "robot")
        for seed in (0, 1)
    }
    assert set(map(frozenset, shared.values())) == expected
    assert set(shared) == set(grid.priors), "ten class nouns, two seeds"


def test_any_subject_of_the_split_may_be_asked_for() -> None:
    suite = load_suite("pocket")
    assert plan(suite, ["untuned"]).subjects == tuple(suite.data.subjects)
    asked = plan(suite, ["untuned"], subjects=["dog3", "dog"])
    assert asked.subjects == ("dog", "dog3")
    assert asked.directory == plan(suite, ["untuned"]).directory
    thirty = {job.name: job for job in plan(load_suite("pocket-30"), ["untuned"]).jobs}
    assert all(thirty[job.name] == job for job in asked.jobs), "the same jobs in either suite"
    with pytest.raises(
        UserError, match=r"subject 'dog4' \(did you mean 'dog\d?'\?\); known: dog, "
    ):
        plan(suite, ["untuned"], subjects=["dog4"])


def test_a_method_that_needs_no_backbone_has_none_in_its_key(suite: Suite) -> None:
    (real, *_), (untuned, *_) = (plan(suite, [m]).jobs for m in ("real-images", "untuned"))
    assert (real.fit.backbone, real.fit.precision, real.sampler) == (None, None, None)
    assert untuned.fit.backbone is not None and untuned.sampler is not None


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
        (
            {"methods": ["nonesuch"]},
            "unknown method 'nonesuch'; known: checkpoint, custom.*untuned",
        ),
        ({"methods": []}, "no method chosen; known: all, paints, checkpoint, custom-diffusion"),
        ({"methods": ["tests.toy:NONE"]}, "module 'tests.toy' has no 'NONE'"),
        ({"subjects": ["cat"]}, "unknown subject 'cat'; known: dog-red, dog-blue, vase-green"),
        ({"prompts": ["4"]}, "'4'; known: all, recontextualization, accessory, property, 1 to 3"),
        (
            {"prompts": ["acessory"]},
            r"'acessory' \(did you mean 'accessory'\?\); known: .* of your",
        ),
        ({"prompts": ["a {} in {}"]}, "prompt 'a {} in {}' needs {} once"),
        ({"prompts": ["A {}  in the snow!"]}, "are alike: their images would share a name"),
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
        UserError, match="method 'tests.toy:PAINT' has no setting 'step' .*; it has: steps"
    ):
        plan(typo, ["tests.toy:PAINT"])


def test_a_changed_image_is_noticed_before_anything_runs(suite: Suite) -> None:
    image = Path(suite.data.dataset) / "dog-red" / "00.png"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(UserError, match="dog-red/00.png has SHA-256"):
        plan(suite, ["tests.toy:PAINT"])


def changed(suite: Suite, **tables: dict[str, object]) -> Suite:
    update = {name: getattr(suite, name).model_copy(update=new) for name, new in tables.items()}
    return suite.model_copy(update=update)


@pytest.mark.parametrize(
    ("tables", "methods", "message"),
    [
        (
            {"backbone": {"kind": "tests.toy:NO_TRAINING"}},
            ["dreambooth"],
            "method 'dreambooth' needs training.*, and backbone 'colours' has text-to-image: ",
        ),
        (
            {"sampler": {"scheduler": "euler"}},
            ["untuned"],
            r"the suite's \[sampler\]: unknown scheduler 'euler'; known: ddim, ddpm",
        ),
        (
            {},
            ["tests.toy:PRIMED[prior_scheduler=pndm]"],
            "prior images of method '.*prior_scheduler=pndm.*: unknown scheduler 'pndm'; known",
        ),
        (
            {},
            ["tests.toy:PAINT[steps=0]"],
            r"setting 'steps' of method 'tests.toy:PAINT\[steps=0\]' is 0: it should be at least 1",
        ),
        (
            {},
            ["tests.toy:PAINT[subject_images=3]"],
            "asks for 3 images of subject 'dog-red', which has 2: ask for fewer",
        ),
        ({}, ["untuned[subject_images=1]"], "learns from no images: .*; it has: none"),
        ({}, ["tests.toy:PAINT[subject_images=0]"], "is 0: it should be a whole number from 1"),
        (
            {},
            ["real-images[subject_images=1]"],
            "method 'real-images.*' learns from no images: it has no setting 'subject_images'",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    suite: Suite, tables: dict, methods: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(changed(suite, **tables), methods)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seeds": [-1]}, "seed -1 is none: seeds are whole numbers from 0 to 2"),
        ({"seeds": [0, 2**63]}, "seed 9223372036854775808 is none"),
        ({"images_per_prompt": 0}, "images_per_prompt: .*at least 1"),
        ({"images_per_prompt": 10**9}, "images_per_prompt: .*at most 10000"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_runs(
    suite: Suite, asked: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(suite, ["untuned"], **asked)


def test_a_name_in_two_unicode_forms_is_asked_for_once(suite: Suite) -> None:
    names = [f"tests.toy:PAINT[mishap={word}]" for word in ("caf\u00e9", "cafe\u0301")]
    assert plan(suite, names, subjects=["dog-red"]).methods == (names[0],)


def fails(*_: object) -> None:
    raise RuntimeError("no prior for you")


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            fails,
            "prior of method '.*PAINT' for subject 'dog-red' raises RuntimeError: no prior",
        ),
        (lambda *_: ("dog", 3), r"gives \('dog', 3\): it should be PriorImages with a count from"),
        (
            lambda *_: PriorImages("dog", 0, Sampler("ddpm", 2, 1.0)),
            "count=0.*: it should be",
        ),
    ],
)
def test_prior_images_that_are_none_are_refused_before_anything_runs(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, prior: Callable[..., object], message: str
) -> None:
    monkeypatch.setattr(toy.Paint, "prior", prior)
    with pytest.raises(UserError, match=message):
        plan(suite, ["tests.toy:PAINT"])


def test_what_cannot_be_scored_is_refused_before_anything_runs(
    suite: Suite, tmp_path: Path
) -> None:
    for one, message in (
        (
            changed(suite, protocol={"encoders": {}}),
            "metric 'clip_i' needs an encoder 'clip', and protocol 'toy-1' has",
        ),
        (suite.under("kosmos-g", encoders=tmp_path / "nowhere"), "nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            run_grid(plan(one, ["untuned"]), tmp_path / "run", dry_run=True)


def test_a_reference_that_is_none_of_the_subjects_images_is_refused_before_anything_runs(
    suite: Suite,
) -> None:
    named = {"references": "one", "reference": {"dog-blue": "nowhere.png"}}
    one = changed(suite, protocol=named)
    assert plan(one, ["untuned"], subjects=["dog-red"]).jobs
    with pytest.raises(UserError, match="compares subject 'dog-blue' with 'nowhere.png' alone"):
        plan(one, ["untuned"])


def test_a_resolution_of_its_own_is_part_of_the_backbones_name_and_of_the_key(suite: Suite) -> None:
    (own, *_), (other, *_) = (
        plan(one, ["tests.toy:PAINT"]).jobs
        for one in (suite, changed(suite, backbone={"resolution": 64}))
    )
    assert own.fit.backbone is not None
    assert other.fit.backbone == replace(own.fit.backbone, resolution=64)
    assert other.fit.backbone.label == f"{own.fit.backbone.label} at 64 px"
    assert own.fit.key != other.fit.key


def test_a_runs_suite_file_makes_the_same_jobs_again(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-blue"], images_per_prompt=3)
    (tmp_path / "again.toml").write_text(grid.suite.dump_toml())
    again = plan(load_suite(str(tmp_path / "again.toml")), ["tests.toy:PAINT"])
    assert again.jobs == grid.jobs
    assert again.suite == grid.suite


# Time and order --------------------------------------------------------------------------------

RATES = Estimate(train_step_seconds=10, image_seconds=1)


def works(grid: Grid) -> list[Work]:
    priors = [Work(prior, draws=prior.count) for prior in grid.priors.values()]
    jobs = [
        Work(j, True, len(j.requests), len(j.requests), waits_for=j.fit.prior) for j in grid.jobs
    ]
    return [*priors, *jobs]


def test_time_is_forecast_from_rates_and_then_from_what_jobs_took(suite: Suite) -> None:
    unknown = plan(suite, ["tests.toy:PAINT"])
    assert Forecast(unknown.suite).total(works(unknown)) is None
    rated = suite.model_copy(update={"estimate": RATES})
    trains = plan(rated, ["textual-inversion"])
    unsaid = [replace(job, fit=replace(job.fit, settings={})) for job in trains.jobs]
    assert Forecast(rated).total(works(trains)) is not None
    assert Forecast(rated).total([Work(job, fits=True) for job in unsaid]) is None
    grid = plan(rated, ["tests.toy:PAINT", "real-images"])
    forecast = Forecast(grid.suite)
    assert forecast.total(works(grid)) == 3 * (2 * 10 + 8 * 1) + 3 * 2 * 1
    forecast.learn_job(JobRecord(grid.jobs[0], {}, 8, Phases(fit=1.0, draw=16.0), {}, 0.0))
    # Of what nothing tells, the suite's figures, as much off as they were: 17 s, and not 28.
    assert forecast.total(works(grid)) == pytest.approx(3 * (1 + 8 * 2) + 3 * 2 * 17 / 28)
    forecast.learn_scores(4.0, 8)
    assert forecast.total(works(grid)) == pytest.approx(3 * (1 + 8 * 2.5) + 6 * (17 / 28 + 0.5))
    # Of a job whose weights were kept, and of one that is drawn, not all is left.
    job = grid.jobs[0]
    assert forecast.seconds(Work(job, False, 2, 8)) == 2 * 2 + 8 * 0.5
    assert forecast.seconds(Work(job, scores=8)) == 4.0


def test_a_method_that_nothing_tells_of_is_forecast_by_the_images_that_it_trains_on(
    suite: Suite,
) -> None:
    grid = plan(suite, ["textual-inversion", "dreambooth"], subjects=["dog-red"])
    word, whole = grid.jobs[0], grid.jobs[1]
    assert whole.fit.prior is not None and word.fit.prior is None
    forecast = Forecast(grid.suite)
    steps, batch = (word.fit.settings[key] for key in ("steps", "batch_size"))
    forecast.learn_job(JobRecord(word, {}, 8, Phases(fit=7.0, draw=16.0), {}, 0.0))
    image = 7.0 / (steps * batch)
    both = 2 * whole.fit.settings["steps"] * whole.fit.settings["batch_size"]
    assert forecast.seconds(Work(whole, fits=True)) == pytest.approx(both * image)
    # A fit that goes at its own pace tells more.
    forecast.learn_pace(whole, 90.0)
    assert forecast.seconds(Work(whole, fits=True)) == 90.0


def test_before_any_fit_prior_images_tell_what_a_pass_through_the_model_takes(
    suite: Suite,
) -> None:
    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["dog-red"])
    (prior,) = grid.priors.values()
    forecast = Forecast(grid.suite)
    assert not forecast.measured
    forecast.learn_prior(PriorRecord(prior, 30.0, "", {}, 0.0))
    assert forecast.measured
    assert forecast.seconds(Work(prior, draws=prior.count)) == pytest.approx(30.0)
    (job,) = grid.jobs
    sampler = grid.suite.sampler.sampler()
    each = 30.0 / (prior.count * passes(prior.sampler, frozenset()))
    assert forecast.seconds(Work(job, draws=2)) == pytest.approx(
        2 * passes(sampler, frozenset()) * each
    )
    trained = 2 * job.fit.settings["steps"] * job.fit.settings.get("batch_size", 1)
    assert forecast.seconds(Work(job, fits=True)) == pytest.approx(3 * trained * each)


def test_what_draws_without_a_backbone_is_forecast_by_its_steps_an_image(
    suite: Suite, tmp_path: Path
) -> None:
    guide = {"kind": "clip", "model": str(save_tiny_clip(tmp_path / "guide"))}
    rated = suite.model_copy(update={"estimate": RATES, "assets": {"guide": guide}})
    grid = plan(rated, ["text2live[steps=7]"], subjects=["dog-red"])
    (job,) = grid.jobs
    assert job.fit.backbone is None and len(job.requests) == 8
    assert Forecast(grid.suite).total(works(grid)) == 8 * 7 * 10


def test_prior_images_are_forecast_by_passes_through_the_model(suite: Suite) -> None:
    rated = changed(suite, sampler={"steps": 4, "guidance": 7.5}).model_copy(
        update={"estimate": RATES}
    )
    grid = plan(rated, ["tests.toy:PRIMED"], subjects=["dog-red"])
    (prior,) = grid.priors.values()
    # An image of the suite's passes 4 steps with guidance, 8 times; a prior image twice.
    assert Forecast(rated).seconds(Work(prior, draws=20)) == pytest.approx(20 * 2 / 8)


@pytest.mark.parametrize(
    ("says", "steps", "refused"),
    [
        (
            {"timestep_spacing": "linspace"},
            50,
            "says timestep_spacing = 'linspace', for which diff",
        ),
        ({}, 1001, "scheduler 'ddim': 1001 steps are more than the 1000 that its schedule has"),
        ({"timestep_spacing": "trailing"}, 50, None),
        ({}, 50, None),
    ],
)
def test_what_cannot_be_inverted_is_refused_by_the_plan(
    suite: Suite, tmp_path: Path, says: dict[str, str], steps: int, refused: str | None
) -> None:
    """The suite's own sampler draws in a few steps, by whatever spacing."""
    model = save_tiny_pipeline(tmp_path / "model")
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | says))
    backbone = {"kind": "diffusers", "model": str(model)}
    there = suite.model_copy(update={"backbone": suite.backbone.model_copy(update=backbone)})
    method = f"prompt-to-prompt[steps={steps}]"
    if refused is None:
        assert plan(there, [method], subjects=["dog-red"]).jobs
        return
    with pytest.raises(UserError, match=rf"^method '{re.escape(method)}': .*{refused}"):
        plan(there, [method], subjects=["dog-red"])


def test_a_job_waits_for_its_prior_images_and_the_longest_come_first(suite: Suite) -> None:
    rated = suite.model_copy(update={"estimate": RATES})
    grid = plan(rated, ["untuned", "tests.toy:PRIMED[steps=5]", "tests.toy:PRIMED"])
    agenda = Agenda(works(grid), Forecast(rated).seconds)
    first, second = agenda.take(), agenda.take()
    assert isinstance(first, Prior) and isinstance(second, Prior)
    assert (first.class_noun, second.class_noun) == ("dog", "vase"), "two jobs of each need dogs"
    waiting = [agenda.take() for _ in range(4)]
    assert [w.method for w in waiting[:3] if isinstance(w, Job)] == ["untuned"] * 3
    assert waiting[3] is None, "all others wait"
    agenda.finish(second)
    vases = [agenda.take(), agenda.take(), agenda.take()]
    assert [w and w.label for w in vases] == [
        "tests.toy:PRIMED[steps=5] / vase-green / seed 0",
        "tests.toy:PRIMED / vase-green / seed 0",
        None,
    ]
    lost = agenda.give_up(first)
    assert {task.label for task in lost} == {
        f"{method} / {subject} / seed 0"
        for method in ("tests.toy:PRIMED[steps=5]", "tests.toy:PRIMED")
        for subject in ("dog-red", "dog-blue")
    }
    assert agenda.take() is None


def test_an_image_that_is_not_among_those_that_are_learned_is_refused() -> None:
    asked = {"subjects": ["dog"], "prompts": ["1"]}
    for name in ("img2img", "paste", "prompt-to-prompt"):
        [job] = plan(load_suite("pocket"), [f"{name}[image=2]"], **asked).jobs
        assert job.seen == (1,)
        with pytest.raises(UserError, match=r"looks at image 2 of 'dog', which has 1: choose"):
            plan(load_suite("pocket"), [f"{name}[image=2,subject_images=1]"], **asked)
    [job] = plan(load_suite("pocket"), ["dreambooth[subject_images=2]"], **asked).jobs
    assert job.seen == (0, 1)
    [job] = plan(load_suite("pocket"), ["dreambooth"], **asked).jobs
    assert job.seen is None
