"""Activations that are computed twice: the same losses and weights, in every family."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from benchmark.api import TRAINING, Method, Sampler, Subject
from benchmark.models.families import families
from benchmark.models.kinds import DIFFUSERS
from methods.dreambooth import DreamBooth
from methods.textual_inversion import TextualInversion
from tests.hand_tools import HandTools
from tests.tiny_pipeline import (
    save_tiny_cascade,
    save_tiny_flux,
    save_tiny_pipeline,
    save_tiny_schnell,
    save_tiny_sd3,
    save_tiny_xl,
)

SAVE = {
    "stable_diffusion": save_tiny_pipeline,
    "stable_diffusion_xl": save_tiny_xl,
    "stable_diffusion_3": save_tiny_sd3,
    "flux": save_tiny_flux,
    "flux_schnell": save_tiny_schnell,
    "deepfloyd_if": save_tiny_cascade,
}
DREAMBOOTH = DreamBooth(
    identifier="sks", steps=2, learning_rate=1e-3, prior_images=2, prior_steps=2
)
DENOISERS = {"UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel"}
METHODS = {
    "dreambooth": DREAMBOOTH,
    "text-encoder-too": replace(DREAMBOOTH, train_text_encoder=True),
    "textual-inversion": TextualInversion(identifier="sks", steps=2),
}


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = tmp_path_factory.mktemp("subject") / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return Subject("dog-biscuit", "dog", True, (path,), "digest")


@pytest.fixture(scope="module", params=sorted(SAVE))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(SAVE[request.param](tmp_path_factory.mktemp("models") / request.param))


def fitted(model: str, method: Method, subject: Subject, on: bool) -> tuple[dict[str, Any], Any]:
    """The weights, the losses, and how often each kind of block was run."""
    backbone = DIFFUSERS.load(
        model, sampler=Sampler("ddpm", 2, 1.0), resolution=16, gradient_checkpointing=on
    )
    passes: list[str] = []
    for module in (*backbone.text_encoders.values(), backbone.stages[0].denoiser):
        note = partial(lambda name, *_: passes.append(name), type(module).__name__)
        for part in module.modules():
            if isinstance(part, nn.GroupNorm | nn.LayerNorm | T5LayerNorm):
                part.register_forward_hook(note)
    tools = HandTools(method, subject)
    learned = method.fit(subject, backbone, tools)
    counts = {name: passes.count(name) for name in set(passes)}
    return {name: tensor.clone() for name, tensor in learned.items()}, (tools.losses, counts)


@pytest.mark.parametrize("name", METHODS)
def test_it_changes_no_number(model: str, subject: Subject, name: str) -> None:
    torch.manual_seed(0)
    weights, (losses, once) = fitted(model, METHODS[name], subject, False)
    torch.manual_seed(0)
    again, (losses_again, twice) = fitted(model, METHODS[name], subject, True)
    for step in losses:
        np.testing.assert_allclose([*losses[step].values()], [*losses_again[step].values()], 1e-6)
    for key, weight in weights.items():
        torch.testing.assert_close(again[key], weight, atol=1e-6, rtol=0)
    [denoiser] = once.keys() & DENOISERS
    assert twice[denoiser] > once[denoiser], "its blocks were run again"
    if name == "text-encoder-too":
        assert all(twice[module] > once[module] for module in once), "all learn"


def test_large_families_have_it_on_a_gpu() -> None:
    assert not DIFFUSERS.gradient_checkpointing("sd15")
    assert DIFFUSERS.gradient_checkpointing("sdxl") and DIFFUSERS.gradient_checkpointing("if")
    training = {name for name, one in families().items() if TRAINING in one.capabilities}
    assert training == SAVE.keys(), "a family is not tested here"
