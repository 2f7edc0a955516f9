"""The estimate of GPU memory against the same fits in numbers, and what it says of remedies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from click.testing import Result
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPModel
from typer.testing import CliRunner

from benchmark.api import TEXT_TO_IMAGE, Tools, UserError
from benchmark.cli.app import app
from benchmark.config.suite import Suite, load_suite
from benchmark.runs import memory
from benchmark.runs.machine import free_memory
from benchmark.runs.memory import (
    GpuMemory,
    Unknown,
    Way,
    gpu_memories,
    gpu_memory,
)
from benchmark.runs.memory_table import SIZES, print_gpu_memory
from benchmark.runs.plan import Grid, plan
from methods.edit_layer import EditUNet
from tests import toy, true_size
from tests.measured_memory import measured
from tests.tiny_clip import save_tiny_clip
from tests.tiny_pipeline import (
    save_tiny_cascade,
    save_tiny_flux,
    save_tiny_pipeline,
    save_tiny_schnell,
    save_tiny_sd3,
    save_tiny_unclip,
    save_tiny_xl,
)

GB = 10**9
SETTINGS = """
[methods.dreambooth]
steps = 9
batch_size = 2
prior_images = 5
prior_steps = 7
prior_scheduler = "own"
[methods.textual-inversion]
steps = 9
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    file = toy.write_world(tmp_path)
    text = file.read_text().replace('kind = "tests.toy:KIND"\n', "")
    file.write_text(text.replace("[protocol]\n", f"{SETTINGS}[protocol]\n", 1))
    return load_suite(str(file))


def grid_on(suite: Suite, model: Path, *methods: str) -> Grid:
    sampler = suite.sampler.model_copy(update={"scheduler": "own"})
    chosen = suite.on(str(model)).model_copy(update={"sampler": sampler})
    return plan(chosen, methods, subjects=["dog-red"], prompts=["1"])


EVERY = [
    save_tiny_pipeline,
    save_tiny_xl,
    save_tiny_sd3,
    save_tiny_flux,
    save_tiny_schnell,
    save_tiny_cascade,
]


def differs_in_what_is_made_of_numbers_alone(suite: Suite, model: Path, method: str) -> None:
    """Tensors without numbers are not seen where numpy's or Python's become one: schedules, ids."""
    found = measured(grid_on(suite, model, method), Way(False))
    assert found.estimate.weights == found.real.weights
    for phase in ("training", "drawing"):
        estimate, real = getattr(found.estimate, phase), getattr(found.real, phase)
        assert real * 0.999 - 512 <= estimate <= real, phase


@pytest.mark.more
def test_it_is_what_the_same_tensors_take_with_numbers(suite: Suite, tmp_path: Path) -> None:
    model = save_tiny_pipeline(tmp_path / "model")
    differs_in_what_is_made_of_numbers_alone(suite, model, "dreambooth")


@pytest.mark.slow
def test_so_it_is_for_what_is_told_of_an_image(suite: Suite, tmp_path: Path) -> None:
    model = save_tiny_unclip(tmp_path / "model")
    differs_in_what_is_made_of_numbers_alone(suite, model, "image-variation")


@pytest.mark.slow
@pytest.mark.parametrize("save", EVERY)
@pytest.mark.parametrize("method", ["dreambooth", "textual-inversion"])
def test_so_it_is_for_every_family(
    suite: Suite, tmp_path: Path, save: Callable[[Path], Path], method: str
) -> None:
    differs_in_what_is_made_of_numbers_alone(suite, save(tmp_path / "model"), method)


@pytest.mark.slow
def test_what_saves_memory_shows(suite: Suite, tmp_path: Path) -> None:
    grid = grid_on(suite, save_tiny_pipeline(tmp_path / "model"), "dreambooth")
    [job] = grid.jobs

    def training(way: Way) -> int:
        return gpu_memory(grid, job, way).training

    plain = training(Way(False))
    assert training(Way(True)) < plain
    assert training(Way(False, {"optimiser": "adamw-8bit"})) < plain
    assert training(Way(False, {"gradient_accumulation": 4})) < plain
    half = replace(grid, suite=grid.suite.on(precision="bf16"))
    assert gpu_memory(half, job, Way(False)).training < plain


@pytest.mark.slow
def test_narrow_weights_take_half_of_the_layers_they_are_of(suite: Suite, tmp_path: Path) -> None:
    """In a training; texts are encoded for drawing while all lie there as they were loaded."""
    model = save_tiny_pipeline(tmp_path / "model")
    grid = grid_on(suite.on(precision="bf16"), model, "dreambooth-lora")
    [job] = grid.jobs
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    layers = [one for one in unet.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    weights = sum(p.numel() for layer in layers for p in layer.parameters(recurse=False))
    weights -= unet.conv_in.weight.numel()  # the first
    plain, narrow = (
        gpu_memory(grid, job, Way(False, {"narrow_weights": on})) for on in (False, True)
    )
    assert narrow.weights == plain.weights
    assert plain.training - narrow.training >= 2 * weights
    assert narrow.drawing < plain.drawing


def test_methods_that_differ_in_names_are_looked_at_once(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(grid: Grid, job: memory.Job, way: Way) -> GpuMemory:
        seen.append(job.method)
        return GpuMemory(job.method, 1, 2, 3, 16)

    monkeypatch.setattr(memory, "gpu_memory", noted)
    names = ("dreambooth", "identifier-common-word", "dreambooth-no-prior", "real-images")
    grid = grid_on(suite, save_tiny_pipeline(tmp_path / "model"), *names)
    assert [one.method for one in gpu_memories(grid, "auto")] == [*names[:3]]
    assert seen == ["dreambooth", "dreambooth-no-prior"]


def test_remedies_are_added_until_it_fits_and_those_that_do_not_help_left_out(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def made_up(grid: Grid, job: memory.Job, way: Way) -> GpuMemory:
        size = 60.0
        if way.checkpointing:
            size -= 20
        if way.settings.get("optimiser"):
            size -= 20
        if way.settings.get("gradient_accumulation"):
            size += 5
        if way.resolution:
            size -= 10
        return GpuMemory(job.method, GB, round(size * 2**30), GB, 16)

    monkeypatch.setattr(memory, "gpu_memory", made_up)
    grid = grid_on(suite, save_tiny_pipeline(tmp_path / "model"), "dreambooth")
    print_gpu_memory(grid, "auto")
    said = capsys.readouterr().out
    # 60 GiB, 5 % and 2 GiB; then 44, 23, and 12.5 in the end.
    assert "an estimate" in said and "dreambooth: 65.0 GiB" in said
    lines = [line.split(": ", 1)[1] for line in said.splitlines()[-5:]]
    both = "--gradient-checkpointing on, optimiser = adamw-8bit"
    assert lines[0] == "no"
    assert lines[1] == f"{both}, resolution = 8 (12.5)"
    assert lines[2] == f"{both} (23.0)"
    assert lines[3] == "--gradient-checkpointing on (44.0)"
    assert lines[4] == "as it is (65.0)"


def test_what_does_not_help_is_not_switched_on(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Way] = []

    def made_up(grid: Grid, job: memory.Job, way: Way) -> GpuMemory:
        tried.append(way)
        size = 60 - bool(way.resolution) + way.checkpointing
        return GpuMemory(job.method, GB, size * GB, GB, 16)

    monkeypatch.setattr(memory, "gpu_memory", made_up)
    grid = grid_on(suite, save_tiny_pipeline(tmp_path / "model"), "dreambooth")
    found = list(memory.remedies(grid, GpuMemory("dreambooth", GB, 60 * GB, GB, 16), "auto"))
    assert [words for words, _ in found] == ["resolution = 8"]
    assert tried[-1] == Way(False, {}, 8)


def test_what_no_remedy_makes_fit_is_not_tried(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Weights of 90 GiB are those of every way."""
    tried: list[Way] = []

    def made_up(grid: Grid, job: memory.Job, way: Way) -> GpuMemory:
        tried.append(way)
        return GpuMemory(job.method, 90 * 2**30, 95 * 2**30, 91 * 2**30, 16)

    monkeypatch.setattr(memory, "gpu_memory", made_up)
    grid = grid_on(suite, save_tiny_pipeline(tmp_path / "model"), "dreambooth")
    print_gpu_memory(grid, "auto")
    assert capsys.readouterr().out.count(": no\n") == len(SIZES)
    assert len(tried) == 1


def test_a_kind_that_makes_no_hollow_model_says_so(tmp_path: Path) -> None:
    grid = plan(load_suite(str(toy.write_world(tmp_path))), ["tests.toy:PAINT"])
    with pytest.raises(UserError, match="kind 'tests.toy:KIND' makes no model without its weights"):
        list(gpu_memories(grid, "auto"))


def test_a_model_that_is_not_here_has_no_estimate(suite: Suite, tmp_path: Path) -> None:
    grid = grid_on(suite, save_tiny_pipeline(tmp_path / "model"), "untuned")
    away = replace(grid, suite=suite.on("sd15"))
    with pytest.raises(UserError, match="model 'sd15' is not on this machine.*`hf download"):
        list(gpu_memories(away, "auto"))


def test_a_dry_run_says_it_when_asked(tmp_path: Path) -> None:
    """A plugin's kind has no estimate, and that is an error only if one was asked for."""
    suite = str(toy.write_world(tmp_path))
    asked = ["run", "--suite", suite, "--methods", "tests.toy:PAINT", "--out", str(tmp_path / "o")]

    def said(*options: str) -> Result:
        return CliRunner().invoke(app, [*asked, *options])

    unasked = said("--dry-run")
    assert unasked.exit_code == 0 and "GPU memory" not in unasked.output
    refused = said("--dry-run", "--gpu-memory").exception
    assert isinstance(refused, UserError) and "makes no model without its weights" in str(refused)
    refused = said("--gpu-memory").exception
    assert isinstance(refused, UserError) and "give it with --dry-run" in str(refused)


def test_where_nobody_asked_it_is_said_in_a_line_why_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    grid = plan(load_suite(str(toy.write_world(tmp_path))), ["tests.toy:PAINT"])
    print_gpu_memory(grid, "auto", asked=False)
    assert "none: backbone kind" in capsys.readouterr().out


@pytest.mark.slow
def test_the_pocket_model_makes_a_process_grow_as_estimated() -> None:
    """By a third more at most: libraries' code and workspaces, and what malloc keeps."""
    method = "dreambooth[batch_size=16,prior_images=4]"
    estimate, real, grown = in_a_process_of_its_own("pocket", method)
    assert estimate == pytest.approx(real, rel=0.001)
    assert estimate <= grown <= 4 / 3 * estimate


@pytest.mark.slow  # 860 million parameters and their gradients, on a CPU: minutes, 12 GB
def test_stable_diffusion_of_true_size_grows_as_estimated(tmp_path: Path) -> None:
    """Full fine-tuning with moments in 8 bits, which are a stand-in's: AdamW's would be 16 GB."""
    if (free_memory() or 0) < 14 * GB:
        pytest.skip("needs 14 GB of free memory")
    model = tmp_path / "model"
    true_size.save_hollow_pipeline(model)
    method = "dreambooth[optimiser=adamw-8bit,prior_weight=0.0,batch_size=1]"
    estimate, real, grown = in_a_process_of_its_own("pocket", method, str(model), "256")
    assert estimate == pytest.approx(real, rel=0.02)
    assert grown == pytest.approx(estimate, rel=0.1)


def in_a_process_of_its_own(*arguments: str) -> list[float]:
    """The estimate, the same tensors with numbers, and what the process grew by, at most: MB."""
    made = subprocess.run(
        [sys.executable, "-m", "tests.measured_memory", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(number) for number in made.stdout.split()[-3:]]


@pytest.mark.more
def test_a_method_in_which_numbers_decide_is_unknown_and_the_others_are_not() -> None:
    grid = plan(load_suite("pocket"), ["paste", "untuned"], subjects=["dog"])
    pasted, untuned = gpu_memories(grid, "off")
    assert pasted == Unknown("paste", "aten.nonzero.default needs real values")
    assert isinstance(untuned, GpuMemory) and untuned.drawing > untuned.weights / 2


@pytest.mark.slow
def test_what_works_under_a_guide_is_estimated_without_a_backbone(
    suite: Suite, tmp_path: Path
) -> None:
    """At least what Adam, gradients and the guide's weights take, and all of that in drawing."""
    guide = save_tiny_clip(tmp_path / "guide")
    table = {"kind": "clip", "model": str(guide)}
    guided = suite.model_copy(update={"assets": {"guide": table}})
    small, large = (
        f"text2live[resolution=32,scales=2,channels={channels}]" for channels in (8, 64)
    )
    grid = grid_on(guided, save_tiny_pipeline(tmp_path / "tiny"), small, large)
    one, other = gpu_memories(grid, "off")
    assert isinstance(one, GpuMemory) and isinstance(other, GpuMemory)
    weights = CLIPModel.from_pretrained(guide).num_parameters() * 4
    unet = EditUNet(64, 2, torch.Generator())
    trained = 4 * 4 * sum(parameter.numel() for parameter in unet.parameters())
    assert one.weights == 0 and one.drawing > weights and one.resolution is None
    assert other.drawing > max(weights + trained, one.drawing)


@dataclass(frozen=True)
class Crashes:
    """Goes to another folder, and asks more of an image than tensors without numbers have."""

    version: ClassVar[str] = "1"
    role: ClassVar[str] = "method"
    variant_of: ClassVar[None] = None
    draws: ClassVar[str] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE})
    description: str = "crashes"
    moves: bool = False

    def prior(self, subject: object) -> None:
        return None

    def fit(self, subject: object, backbone: object, tools: Tools) -> dict[str, torch.Tensor]:
        if self.moves:
            os.chdir("/")
        raise RuntimeError(f"{len(tools.images(16))} images are too few")

    def generate(self, *_: object) -> None: ...


CRASHES, MOVES = Crashes(), Crashes(moves=True)


@pytest.mark.more
def test_a_method_that_crashes_is_unknown_leaves_nothing_and_the_others_are_not() -> None:
    here = Path.cwd()
    crashes, moves = (f"tests.runs.test_memory:{name}" for name in ("CRASHES", "MOVES"))
    methods = f"{moves},{crashes},untuned"
    asked = ["run", "--methods", methods, "--subjects", "dog", "--prompts", "1"]
    said = CliRunner().invoke(app, [*asked, "--no-controls", "--dry-run", "--gpu-memory"])
    assert said.exit_code == 0 and Path.cwd() == here
    error = "RuntimeError: 5 images are too few"
    assert f"            {crashes}: unknown: {error}\n" in said.output
    left = f"LeftBehind: {error}; it left the working folder at /"
    assert f"            {moves}: unknown: {left}\n" in said.output
    assert "            untuned: " in said.output and "untuned: unknown" not in said.output
    asked[2] = crashes
    said = CliRunner().invoke(app, [*asked, "--no-controls", "--dry-run", "--gpu-memory"])
    assert said.output.splitlines()[-1] == f"            {crashes}: unknown: {error}"
