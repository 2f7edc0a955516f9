"""Images that begin with other images are those of diffusers' own img2img pipelines."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from benchmark.api import IMAGE_TO_IMAGE, Sampler, Start, UserError
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.reference import finetuning
from tests.tiny_pipeline import (
    save_tiny_flux,
    save_tiny_pipeline,
    save_tiny_schnell,
    save_tiny_sd3,
    save_tiny_xl,
)

PIPELINES = {
    save_tiny_pipeline: diffusers.StableDiffusionImg2ImgPipeline,
    save_tiny_xl: diffusers.StableDiffusionXLImg2ImgPipeline,
    save_tiny_sd3: diffusers.StableDiffusion3Img2ImgPipeline,
    save_tiny_flux: diffusers.FluxImg2ImgPipeline,
    save_tiny_schnell: diffusers.FluxImg2ImgPipeline,
}
TEXTS, SEEDS = ["a dog", "a cat", "a dog"], [3, 3, 4]
GUIDANCE = {save_tiny_flux: 2.0, save_tiny_schnell: 1.0}


@pytest.fixture(scope="module", params=PIPELINES, ids=lambda save: save.__name__)
def save(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture(scope="module")
def directory(save, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu", resolution=16)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def drawn(backbone, images, strength: float, sampler: Sampler) -> torch.Tensor:
    [stage] = backbone.stages
    condition = backbone.encode(TEXTS)
    start = Start(stage.prepare(images), strength)
    return backbone.sample(condition, SEEDS, sampler=sampler, start=start)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_they_are(save, backbone, directory, images, strength, monkeypatch):
    pipe = PIPELINES[save](**finetuning.pipeline(directory).components)
    pipe.set_progress_bar_config(disable=True)
    sampler = Sampler("own", 4, GUIDANCE.get(save, 3.0))
    size = {"height": 16, "width": 16} if hasattr(pipe, "transformer") else {}
    if save in GUIDANCE:
        size["max_sequence_length"] = finetuning.t5_length(pipe)
    expected = pipe(
        TEXTS,
        image=images,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=sampler.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **size,
    ).images
    for batch in (1, 2, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        found = drawn(backbone, images, strength, sampler)
        assert (found - expected).abs().max() < 1e-4
    assert (found[0] - found[1]).abs().max() > 0.01
    assert (found[0] - found[2]).abs().max() > 0.01


@pytest.mark.more
def test_latents_of_any_number_of_channels_do(images):
    """Pipelines of a U-Net take four channels for latents, and the pocket's has others."""
    backbone = load_backbone("pocket", precision="fp32", sampler=Sampler("ddim", 20, 1.0))
    [stage] = backbone.stages
    real = torch.nn.functional.interpolate(images, 64)
    start = Start(stage.prepare(real), 0.05)
    assert start.clean.mean.shape[1] != 4
    found = backbone.sample(backbone.encode(TEXTS), SEEDS, start=start)
    other = backbone.sample(backbone.encode(TEXTS), SEEDS)
    assert (found - real).abs().mean() < 0.7 * (other - real).abs().mean()


def test_the_less_strength_the_nearer_they_stay(backbone, images):
    """To what the VAE alone makes of them."""
    [stage] = backbone.stages
    with torch.no_grad():
        kept = backbone._decode(stage.prepare(images).mean)
        far = [
            (drawn(backbone, images, strength, Sampler("own", 8, 1.0)) - kept).abs().mean()
            for strength in (0.125, 0.5, 1.0)
        ]
    assert far == sorted(far)


def test_the_backbone_says_that_it_can(directory):
    assert IMAGE_TO_IMAGE in DIFFUSERS.capabilities(str(directory))


def test_a_strength_that_is_no_whole_step_is_refused(backbone, images):
    with pytest.raises(UserError, match="strength is 0.2, which of 4 steps is not one"):
        drawn(backbone, images, 0.2, Sampler("own", 4, 1.0))
    for strength in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            drawn(backbone, images, strength, Sampler("own", 4, 1.0))
    with pytest.raises(ValueError, match="3 texts, but 2 images"):
        drawn(backbone, images[:2], 1.0, Sampler("own", 4, 1.0))
