"""Stable unCLIP against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image

from benchmark.api import Sampler, UserError
from benchmark.models.loading import load_backbone
from benchmark.models.stable_unclip import StableUnclip
from tests.models.test_backbone import CLASSES, SEEDS, TEXTS
from tests.tiny_pipeline import SEEN, SIGHT, UNCLIP_SCHEDULER, save_tiny_unclip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_unclip(tmp_path_factory.mktemp("models") / "unclip")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> StableUnclip:
    return load_backbone(str(directory), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def pipe(directory: Path) -> StableUnCLIPImg2ImgPipeline:
    found = StableUnCLIPImg2ImgPipeline.from_pretrained(directory, use_safetensors=True)
    for name in ("unet", "vae", "text_encoder", "image_encoder", "image_normalizer"):
        getattr(found, name).float()
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (3, SIGHT, SIGHT), generator=generator) / 255


def opened(image: torch.Tensor) -> Image.Image:
    pixels = (image * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def pipeline_images(pipe, sampler: Sampler, **told) -> torch.Tensor:
    kind = CLASSES.get(sampler.scheduler, diffusers.PNDMScheduler)
    extra = {"skip_prk_steps": True} if sampler.scheduler == "pndm" else {}
    pipe.scheduler = kind.from_config({"clip_sample": False, **UNCLIP_SCHEDULER}, **extra)
    return pipe(
        prompt=TEXTS,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **told,
    ).images


def drawn(backbone: StableUnclip, sampler: Sampler, image, noise_level: int) -> torch.Tensor:
    texts = backbone.with_image(backbone.encode(TEXTS), image, noise_level)
    return backbone.sample(texts, SEEDS, sampler=sampler)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("noise_level", [0, 500])
@pytest.mark.parametrize("guidance", [1.0, 10.0])
@pytest.mark.parametrize("scheduler", [*CLASSES, "own"])
def test_images_are_those_of_diffusers_pipeline(
    backbone, pipe, image, scheduler, guidance, noise_level, monkeypatch
):
    sampler = Sampler(scheduler, 3, guidance)
    told = {"image": [opened(image)] * len(TEXTS), "noise_level": noise_level}
    expected = pipeline_images(pipe, sampler, **told)
    for batch in (1, 16):
        monkeypatch.setattr("benchmark.models.latent_stage.BATCH", batch)
        images = drawn(backbone, sampler, image, noise_level)
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.05
    assert (images[0] - images[2]).abs().max() > 0.05
