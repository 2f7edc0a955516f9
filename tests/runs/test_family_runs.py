"""Runs on tiny models of other families than the other tests', by the methods of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.results.merge import join
from benchmark.results.run import read_run
from benchmark.runs.plan import plan
from methods.dreambooth import DreamBooth
from methods.textual_inversion import TextualInversion
from tests import toy
from tests.tiny_pipeline import (
    save_tiny_cascade,
    save_tiny_flux,
    save_tiny_pipeline,
    save_tiny_schnell,
    save_tiny_sd3,
    save_tiny_unclip,
    save_tiny_xl,
)
from tests.toy import ONE

SETTINGS = """
[methods.dreambooth]
steps = 2
learning_rate = 1e-3
train_text_encoder = true
prior_images = 2
prior_scheduler = "own"
prior_steps = 2
[methods.textual-inversion]
steps = 2
"""
#: The tiny models read twelve tokens.
SNOW, HAT = "a {} in the snow", "a {} in a hat"
METHODS = ("dreambooth", "textual-inversion")


@pytest.fixture
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # What is drawn in a report hangs on no more than what is compared here, and takes its time.
    monkeypatch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    monkeypatch.setattr("benchmark.report.terminal.print_table", lambda run: None)
    file = toy.write_world(tmp_path)
    text = file.read_text().replace('kind = "tests.toy:KIND"\n', "")
    model = f'model = "{tmp_path / "model"}"\nresolution = 16'
    text = text.replace('model = "colours"', model)
    text = text.replace("[sampler]\n", '[sampler]\nscheduler = "own"\n')
    file.write_text(text.replace("[protocol]\n", f"{SETTINGS}[protocol]\n", 1))
    return file


def no_fit(*_: object) -> None:
    raise AssertionError("nothing is to be fitted")


def images(path: Path) -> dict[str, np.ndarray]:
    found = sorted((path / "images").rglob("*.png"))
    return {str(file.relative_to(path)): np.asarray(Image.open(file), int) for file in found}


@pytest.mark.more
@pytest.mark.parametrize(
    ("save", "more", "sampler"),
    [
        (save_tiny_xl, "", ""),
        (save_tiny_sd3, "", ""),
        (save_tiny_flux, "training_guidance = 1.0\n", "true_guidance = 2.0\n"),
        (save_tiny_schnell, "", "true_guidance = 2.0\n"),
        (save_tiny_cascade, "super_resolution_steps = 2\nsuper_resolution_noise = 0.0\n", ""),
    ],
)
def test_kept_weights_draw_further_prompts_as_if_asked_at_once(
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[[Path], Path],
    more: str,
    sampler: str,
) -> None:
    save(tmp_path / "model")
    for table, settings in (("[methods.dreambooth]\n", more), ("[sampler]\n", sampler)):
        suite_file.write_text(suite_file.read_text().replace(table, table + settings))
    suite = load_suite(str(suite_file))

    def run(name: str, prompts: list[str]) -> dict[str, np.ndarray]:
        grid = plan(suite, [*METHODS], subjects=["dog-red"], prompts=prompts)
        assert run_grid(grid, tmp_path / name, resources=ONE, keep_weights=True) == 0
        return images(tmp_path / name)

    expected = run("at-once", [SNOW, HAT])
    first = run("kept", [SNOW])
    for method in (DreamBooth, TextualInversion):
        monkeypatch.setattr(method, "fit", no_fit)
    found = run("kept", [SNOW, HAT])
    assert found.keys() == expected.keys() > first.keys()
    for name, image in expected.items():  # drawn in another batch: the last digits may differ
        assert np.abs(found[name] - image).max() <= 1
    learned = [image for name, image in expected.items() if "untuned" not in name]
    assert len({image.tobytes() for image in learned}) == len(learned)


@pytest.mark.more
def test_a_method_with_a_backbone_of_its_own_is_reported_beside_others(
    suite_file: Path, tmp_path: Path
) -> None:
    suite = load_suite(str(suite_file))
    models = {"sd": save_tiny_pipeline(tmp_path / "model"), "unclip": tmp_path / "unclip"}
    save_tiny_unclip(models["unclip"])

    def run(model: str, *methods: str) -> Path:
        grid = plan(suite.on(str(models[model])), methods, subjects=["dog-red"], prompts=[SNOW])
        place = tmp_path / "-".join((model, *methods))
        assert run_grid(grid, place, resources=ONE) == 0
        return place

    plain, variation = run("sd", "img2img", "untuned"), run("unclip", "image-variation")
    whole = join([read_run(plain), read_run(variation)], tmp_path / "both")
    assert set(whole.methods) == {"img2img", "untuned", "image-variation"}
    labels = {record.job.fit.backbone.label.partition("@")[0] for record in whole.records}
    assert labels == {"model", "unclip"}


def test_another_family_is_named_when_a_run_is_planned(suite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    index = tmp_path / "model" / "model_index.json"
    index.write_text('{"_class_name": "KandinskyPipeline"}')
    suite = load_suite(str(suite_file))
    with pytest.raises(UserError, match="this is a Kandinsky model .*; known are Stable Diffusion"):
        plan(suite, [*METHODS])


def test_a_text_that_one_text_encoder_would_cut_is_refused_when_a_run_is_planned(
    suite_file: Path, tmp_path: Path
) -> None:
    directory = save_tiny_xl(tmp_path / "model")
    limit = directory / "tokenizer_2" / "tokenizer_config.json"
    limit.write_text(limit.read_text().replace('"model_max_length": 12', '"model_max_length": 5'))
    suite = load_suite(str(suite_file))
    grid = plan(suite, [*METHODS], prompts=[SNOW])
    with pytest.raises(UserError, match="reads 5: shorten it"):
        run_grid(grid, tmp_path / "run", resources=ONE)


def test_samplers_that_a_model_is_not_drawn_by_are_refused_when_a_run_is_planned(
    suite_file: Path, tmp_path: Path
) -> None:
    save_tiny_sd3(tmp_path / "model")
    text = suite_file.read_text()
    for old, new, where in (
        (
            '\nscheduler = "own"',
            '\nscheduler = "euler"',
            "the suite's .sampler.: scheduler 'euler'",
        ),
        ('prior_scheduler = "own"', 'prior_scheduler = "ddpm"', "the prior images of .* 'ddpm'"),
    ):
        suite_file.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=f"{where}.*flow matching: choose flow-euler, or own"):
            plan(load_suite(str(suite_file)), [*METHODS])


def test_what_only_a_cascade_understands_is_refused_when_a_run_is_planned(
    suite_file: Path, tmp_path: Path
) -> None:
    save_tiny_xl(tmp_path / "model")
    text = suite_file.read_text()
    setting = "super_resolution_steps = 2\n"
    for table, message in (
        ("[sampler]\n", r"the suite's \[sampler\] has super_resolution_steps"),
        (
            "[methods.dreambooth]\n",
            "'dreambooth' needs super-resolution.* leave its setting super_resolution_steps out",
        ),
    ):
        suite_file.write_text(text.replace(table, table + setting))
        with pytest.raises(UserError, match=message):
            plan(load_suite(str(suite_file)), [*METHODS])


@pytest.mark.parametrize(
    ("save", "old", "new", "message"),
    [
        (
            save_tiny_schnell,
            "guidance = 1.0",
            "guidance = 3.5",
            r"the suite's .sampler.: guidance is 3.5, and the backbone takes none: set it to 1",
        ),
        (
            save_tiny_schnell,
            "prior_steps = 2",
            "prior_steps = 2\nprior_guidance = 3.5",
            "the prior images of method 'dreambooth': guidance is 3.5, and the backbone takes none",
        ),
        (
            save_tiny_sd3,
            "[sampler]\n",
            "[sampler]\ntrue_guidance = 3.5\n",
            r"the suite's .sampler.: true_guidance is 3.5, and .* leave it out, and set guidance",
        ),
        (
            save_tiny_schnell,
            "[methods.dreambooth]\n",
            "[methods.dreambooth]\ntraining_guidance = 1.0\n",
            "'dreambooth' needs embedded-guidance.* leave its setting training_guidance out",
        ),
        (
            save_tiny_sd3,
            "[methods.textual-inversion]\n",
            "[methods.textual-inversion]\ntraining_guidance = 1.0\n",
            "'textual-inversion' needs embedded-guidance.* its setting training_guidance out",
        ),
    ],
)
def test_a_guidance_that_a_model_would_ignore_is_refused_when_a_run_is_planned(
    suite_file: Path,
    tmp_path: Path,
    save: Callable[[Path], Path],
    old: str,
    new: str,
    message: str,
) -> None:
    save(tmp_path / "model")
    text = suite_file.read_text()
    assert old in text
    suite_file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        plan(load_suite(str(suite_file)), [*METHODS])


def test_a_word_that_is_no_token_of_t5_is_refused_before_anything_trains(
    suite_file: Path, tmp_path: Path
) -> None:
    save_tiny_flux(tmp_path / "model")
    text = suite_file.read_text()
    suite_file.write_text(text.replace('identifier = "sks"', 'identifier = "zwx"'))
    grid = plan(load_suite(str(suite_file)), ["textual-inversion"], prompts=[HAT])
    with pytest.raises(UserError, match="'zwx' is . tokens of .*: choose a word that is a single"):
        run_grid(grid, tmp_path / "run", resources=ONE)
