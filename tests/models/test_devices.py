"""That nothing stays behind on the CPU, without a GPU: torch's fake tensors know their device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextModel

from benchmark.api import Sampler, Word
from benchmark.models import latent_stage, stable_diffusion
from benchmark.models.checkpoints import read_parts
from benchmark.models.latent_stage import Moments, Texts
from benchmark.models.stable_diffusion import TEXT_ENCODER, StableDiffusion, build_pipeline
from tests.tiny_pipeline import save_tiny_pipeline

CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return read_parts(str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture
def backbone(parts: dict, monkeypatch: pytest.MonkeyPatch) -> Iterator[StableDiffusion]:
    """On a GPU that is not there. In a test, every tensor is fake."""
    for module in (latent_stage, stable_diffusion):  # a fake tensor has no numbers to look at
        monkeypatch.setattr(module, "check_finite", lambda *_: None)
    with FakeTensorMode():
        scheduler = DDPMScheduler.from_config(parts["noise_scheduler"].config)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(CUDA)
        with CUDA:
            pipeline = build_pipeline(
                unet=UNet2DConditionModel.from_config(parts["unet"].config),
                vae=AutoencoderKL.from_config(parts["vae"].config),
                text_encoder=CLIPTextModel(parts["text_encoder"].config),
                tokenizer=parts["tokenizer"],
                noise_scheduler=scheduler,
            )
        yield StableDiffusion("tiny@0", pipeline, 16, CUDA, "fp32", Sampler(), {})


def test_every_tensor_is_on_the_device(backbone):
    [stage] = backbone.stages
    word = backbone.new_word("sks", init="dog")
    assert word.vectors[TEXT_ENCODER].device == CUDA
    condition = backbone.encode(["a sks", "a dog"], words=[word])
    assert condition.embeddings.device == CUDA
    clean = stage.prepare(torch.rand(3, 3, 16, 16))  # on the CPU, where images are read
    assert clean.mean.device == clean.std.device == CUDA
    draw = stage.draw(clean, 2, torch.Generator())
    assert {tensor.device for tensor in draw._tensors()} == {CUDA}
    joined = draw.join(draw)[[0, 3]]
    losses = stage.loss(joined, condition)
    assert losses.shape == (2,) and losses.device == CUDA
    predicted = stage.denoiser(draw.latents, draw.timesteps, condition.embeddings).sample
    images = backbone._decode(predicted)
    assert images.shape == (2, 3, 16, 16) and images.device == CUDA


@pytest.mark.parametrize("stray", ["condition", "timesteps", "latents", "word"])
def test_a_tensor_on_the_cpu_is_noticed(backbone, stray):
    [stage] = backbone.stages
    on_device = torch.zeros(1, 4, 8, 8, device=CUDA)
    clean = Moments(on_device, on_device)
    condition = backbone.encode(["a dog"])
    draw = stage.draw(clean, 1, torch.Generator())
    stage.loss(draw, condition)
    with pytest.raises(RuntimeError, match="[Dd]evice"):
        if stray == "word":
            backbone.encode(["a sks"], words=[Word("sks", {TEXT_ENCODER: torch.zeros(16)})])
        elif stray == "condition":
            stage.loss(draw, Texts(condition.embeddings.cpu()))
        else:
            vars(draw)[stray] = getattr(draw, stray).cpu()
            stage.loss(draw, condition)
