"""Models of flow matching against diffusers' own pipelines and modules."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler as Scheduler
from torch import nn
from transformers import T5EncoderModel

from benchmark.api import Sampler, UserError
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.diffusion.sampling import FLOW_SCHEDULERS, SCHEDULERS
from benchmark.models.loading import load_backbone
from tests.models.backbones.test_backbone import SEEDS, TEXTS, sample
from tests.reference import finetuning
from tests.tiny_pipeline import (
    FLUX_SCHEDULER,
    LENGTH,
    SCHNELL,
    SD3_SCHEDULER,
    save_tiny_flux,
    save_tiny_schnell,
    save_tiny_sd3,
)


@dataclass(frozen=True)
class Kind:
    """A model, as it is saved, and how it is drawn."""

    save: Any
    scheduler: dict[str, Any]
    tokens: int  #: that T5 reads
    #: Guidances: of `Sampler`, and its true one.
    guidances: tuple[tuple[float, float | None], ...]

    def options(self, sampler: Sampler) -> dict[str, Any]:
        """What its pipeline is called with."""
        if self.save is save_tiny_sd3:
            return {"guidance_scale": sampler.guidance}
        told = {"guidance_scale": sampler.guidance, "max_sequence_length": self.tokens}
        if sampler.true_guidance is None:
            return told
        blank = {"negative_prompt": [""] * len(TEXTS)}
        return told | blank | {"true_cfg_scale": sampler.true_guidance}


KINDS = {
    "sd3": Kind(save_tiny_sd3, SD3_SCHEDULER, 256, ((5.0, None), (1.0, None))),
    "flux": Kind(
        save_tiny_flux,
        FLUX_SCHEDULER,
        512,
        ((3.5, None), (1.0, None), (3.5, 3.0), (1.0, 3.0)),
    ),
    "schnell": Kind(save_tiny_schnell, FLUX_SCHEDULER | SCHNELL, 256, ((1.0, None), (0.0, 3.0))),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def directory(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kind.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "tiny")


def load(directory: Path, precision: str = "fp32", resolution: int = 16) -> LatentDiffusion:
    return load_backbone(str(directory), precision=precision, device="cpu", resolution=resolution)


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load(directory)


read_pipeline = functools.cache(finetuning.pipeline)


def pipeline_images(
    kind: Kind, directory: Path, sampler: Sampler, *, size: int = 16, **change: Any
) -> torch.Tensor:
    """Of an untouched pipeline."""
    pipe = read_pipeline(directory)
    pipe.scheduler = Scheduler.from_config(kind.scheduler | change)
    return pipe(
        TEXTS,
        num_inference_steps=sampler.steps,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        height=size,
        width=size,
        output_type="pt",
        **kind.options(sampler),
    ).images


def usual(kind: Kind) -> Sampler:
    guidance, true_guidance = kind.guidances[0]
    return Sampler("own", 4, guidance, true_guidance=true_guidance)


@pytest.mark.parametrize("scheduler", [*FLOW_SCHEDULERS, "own"])
def test_images_are_those_of_diffusers_pipeline(kind, backbone, directory, scheduler, monkeypatch):
    drawn = []
    for guidance, true_guidance in kind.guidances:
        sampler = Sampler(scheduler, 3, guidance, true_guidance=true_guidance)
        expected = pipeline_images(kind, directory, sampler)
        for batch in (1, 16):
            monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
            images = sample(backbone, sampler=sampler)
            assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
            assert (images - expected).abs().max() < 1e-4
        assert (images[0] - images[1]).abs().max() > 0.05
        assert (images[0] - images[2]).abs().max() > 0.1
        drawn.append(images)
    for number, images in enumerate(drawn):
        assert all((images - other).abs().max() > 1e-3 for other in drawn[:number])


@pytest.mark.parametrize(
    "change",
    [
        {"shift": 2.0, "use_dynamic_shifting": False},
        {"use_dynamic_shifting": True, "max_shift": 2.5, "max_image_seq_len": 300},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 0.7},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"shift_terminal": 0.1},
    ],
    ids=str,
)
def test_the_models_own_schedule_is_obeyed(kind, copy, directory, backbone, change):
    file = copy / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(kind.scheduler | change))
    expected = pipeline_images(kind, directory, usual(kind), **change)
    images = sample(load(copy), sampler=usual(kind))
    assert (images - expected).abs().max() < 1e-4
    assert (images - sample(backbone, sampler=usual(kind))).abs().max() > 1e-3


def test_a_guidance_that_the_model_would_ignore_is_refused(kind, backbone):
    refused = {
        save_tiny_sd3: [Sampler("own", 3, 1.0, true_guidance=3.0)],
        save_tiny_flux: [],
        save_tiny_schnell: [Sampler("own", 3, 3.5), Sampler("own", 3, 3.5, true_guidance=3.0)],
    }
    for sampler in refused[kind.save]:
        with pytest.raises(UserError, match="leave it out, and set guidance|set it to 1"):
            sample(backbone, sampler=sampler)


def test_other_sizes_are_drawn(kind, directory):
    """With the shift of the size, where the schedule has one."""
    for size in (24, 8):
        expected = pipeline_images(kind, directory, usual(kind), size=size)
        images = sample(load(directory, resolution=size), sampler=usual(kind))
        assert images.shape[-1] == size and (images - expected).abs().max() < 1e-4


def test_a_text_is_refused_that_any_text_encoder_would_cut(kind, backbone):
    whole = "a " * (LENGTH - 2)
    assert len(backbone.encode([whole])) == 1
    with pytest.raises(UserError, match=f"has {LENGTH + 1} tokens, but '.*' reads {LENGTH}"):
        backbone.encode([whole + "a"])
    t5 = backbone.readers[-1]
    assert t5.ids(["a " * (kind.tokens - 1)]).shape == (1, kind.tokens)
    with pytest.raises(UserError, match=f"{kind.tokens + 1} tokens, but '.*' reads {kind.tokens}"):
        t5.ids(["a " * kind.tokens])


# Training --------------------------------------------------------------------------------------


def test_latents_are_mixed_with_noise_on_a_straight_line(backbone):
    [stage] = backbone.stages
    with torch.no_grad():
        clean = stage.prepare(torch.rand(2, 3, 16, 16))
        draw = stage.draw(clean, 4, torch.Generator().manual_seed(1))
    share = draw.timesteps.view(-1, 1, 1, 1) / 1000
    noisy, target = stage.process.noised(draw), stage.process.target(draw)
    torch.testing.assert_close(noisy, draw.latents + share * target)
    torch.testing.assert_close(noisy + (1 - share) * target, draw.noise)


def test_latents_are_shifted_and_scaled_as_the_vae_says(backbone, directory):
    [stage], pixels = backbone.stages, torch.rand(2, 3, 16, 16)
    vae = read_pipeline(directory).vae
    with torch.no_grad():
        found, expected = stage.prepare(pixels), vae.encode(pixels * 2 - 1).latent_dist
    torch.testing.assert_close(found.mean, (expected.mean - 0.2) * 0.7)
    torch.testing.assert_close(found.std, expected.std * 0.7)


# What is left behind ---------------------------------------------------------------------------


def test_no_weight_is_copied_for_a_loan(backbone):
    stored = {name.partition(".")[0] for name in backbone.stored_weights}
    assert stored == set(backbone.modules())
    parameters = {
        f"{name}.{key}" for name, m in backbone.modules().items() for key, _ in m.named_parameters()
    }
    assert parameters <= backbone.stored_weights.keys()


def test_training_draws_no_numbers_but_its_own(backbone):
    """T5 ships with dropout."""
    *_, encoder = backbone.text_encoders.values()
    ids = torch.arange(3, 9)[None]
    assert isinstance(encoder, T5EncoderModel)
    assert any(isinstance(part, nn.Dropout) for part in encoder.modules())
    try:
        first, again = (encoder.train()(ids)[0] for _ in range(2))
    finally:
        encoder.eval()
    assert torch.equal(first, again) and torch.equal(first, encoder(ids)[0])


def test_t5_reads_in_float32_where_float16_would_overflow(kind, directory):
    for precision, kept in (("fp16", True), ("bf16", False)):
        with torch.no_grad():
            half = load(directory, precision).encode(["a dog"])
            whole = load(directory).encode(["a dog"])
        t5 = slice(-kind.tokens, None)
        assert torch.equal(half.embeddings[:, t5], whole.embeddings[:, t5]) == kept
        assert not torch.equal(half.pooled, whole.pooled)


def test_samplers_of_diffusion_and_of_flow_matching_are_told_apart(backbone):
    for name in SCHEDULERS:
        with pytest.raises(UserError, match="taught by flow matching: choose flow-euler, or own"):
            sample(backbone, sampler=Sampler(name, 3, 1.0))
