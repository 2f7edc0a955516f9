"""Stable unCLIP against diffusers' own pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image

from benchmark.api import Sampler, UserError
from benchmark.models.backbones.stable_unclip import StableUnclip
from benchmark.models.files.checkpoints import read_parts
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
from tests.models.backbones.test_backbone import CLASSES, SEEDS, TEXTS
from tests.models.backbones.test_devices import CUDA, on_gpu, on_the_gpu
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
@pytest.mark.parametrize(("guidance", "noise_level"), [(10.0, 0), (10.0, 500), (1.0, 500)])
@pytest.mark.parametrize("scheduler", [*CLASSES, "own"])
def test_images_are_those_of_diffusers_pipeline(
    backbone, pipe, image, scheduler, guidance, noise_level, monkeypatch
):
    sampler = Sampler(scheduler, 3, guidance)
    told = {"image": [opened(image)] * len(TEXTS), "noise_level": noise_level}
    expected = pipeline_images(pipe, sampler, **told)
    for batch in (1, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        images = drawn(backbone, sampler, image, noise_level)
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.05
    assert (images[0] - images[2]).abs().max() > 0.05


DDIM = Sampler("ddim", 3, 10.0)


def test_a_text_alone_is_drawn_with_zeros_in_the_images_place(backbone, pipe):
    """By the plain pipeline of Stable Diffusion, whose U-Net is handed the zeros by a hook."""
    latents, generators = [], [torch.Generator().manual_seed(seed) for seed in SEEDS]
    for generator in generators:
        torch.randn(SEEN, generator=generator)  # the embedding's noise, of no use here
        latents.append(torch.randn(4, 8, 8, generator=generator))

    def handed(_unet, inputs, named):
        return inputs, named | {"class_labels": torch.zeros(len(inputs[0]), 2 * SEEN)}

    handle = pipe.unet.register_forward_pre_hook(handed, with_kwargs=True)
    plain = diffusers.StableDiffusionPipeline(
        unet=pipe.unet,
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=diffusers.DDIMScheduler.from_config(UNCLIP_SCHEDULER, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    plain.set_progress_bar_config(disable=True)
    try:
        given = {"num_inference_steps": 3, "guidance_scale": 10.0, "output_type": "pt"}
        expected = plain(TEXTS, latents=torch.stack(latents), **given).images
    finally:
        handle.remove()
    found = backbone.sample(backbone.encode(TEXTS), SEEDS, sampler=DDIM)
    assert (found - expected).abs().max() < 1e-4


def test_a_row_hangs_on_its_own_image_level_and_seed_alone(backbone, image):
    texts = backbone.encode(TEXTS)
    other = backbone.with_image(texts, 1 - image, 900)
    rows = texts.join(backbone.with_image(texts, image, 500), other)[[0, 3, 6, 4]]
    seeds = [11, 11, 11, 12]
    together = backbone.sample(rows, seeds, sampler=DDIM)
    for n, seed in enumerate(seeds):
        alone = backbone.sample(rows[[n]], [seed], sampler=DDIM)
        assert (together[n] - alone[0]).abs().max() < 1e-4
    for n in range(1, 3):
        assert (together[n] - together[n - 1]).abs().max() > 0.05


def test_the_image_and_its_noise_level_count(backbone, image):
    found = [drawn(backbone, DDIM, *told) for told in ((image, 0), (1 - image, 0), (image, 999))]
    for n in range(3):
        assert (found[n] - found[n - 1]).abs().max() > 0.05


@pytest.mark.parametrize("noise_level", [-1, 1000])
def test_a_noise_level_that_there_is_not_is_refused(backbone, image, noise_level):
    with pytest.raises(UserError, match=f"noise_level is {noise_level}: .* from 0 to 999"):
        backbone.with_image(backbone.encode(["a dog"]), image, noise_level)


def test_what_would_be_drawn_or_learned_wrongly_is_refused(backbone, image):
    texts = backbone.encode(["a dog"])
    shown = backbone.with_image(texts, image, 0)
    with pytest.raises(ValueError, match="guidance leads away from an image"):
        backbone.sample(texts, [1], unconditional=shown, sampler=DDIM)
    with pytest.raises(ValueError, match="is drawn from, and not learned from"):
        shown.for_denoiser()
    assert not texts.for_denoiser()["class_labels"].any()
    with pytest.raises(ValueError, match="an image of .3, 9, 9., and not of .3, 8, 8."):
        backbone.with_image(texts, torch.zeros(3, 9, 9), 0)


def test_drawing_leaves_the_model_as_it_was(directory, image):
    backbone = load_backbone(str(directory), precision="fp32", device="cpu")
    parts = {"unet", "vae", "text_encoder", "image_encoder", "image_normalizer"}
    stored = {name.partition(".")[0] for name in backbone.stored_weights}
    assert stored == set(backbone.modules()) == parts
    loan = Loan(backbone)
    first = drawn(backbone, DDIM, image, 500)
    assert loan.settle(thorough=True) == [] and loan.whole
    with torch.no_grad():
        for name in ("image_encoder", "image_normalizer"):
            for parameter in backbone.modules()[name].parameters():
                parameter.add_(1)
    assert (drawn(backbone, DDIM, image, 500) - first).abs().max() > 0.01
    loan.settle(thorough=False)
    assert torch.equal(drawn(backbone, DDIM, image, 500), first)


@pytest.mark.more
def test_every_tensor_is_on_the_device(directory, image, monkeypatch):
    parts = read_parts(str(directory))
    with on_the_gpu(parts, monkeypatch) as backbone:
        texts = backbone.encode(["a dog", "a cat"])
        shown = backbone.with_image(texts, torch.rand(3, SIGHT, SIGHT), 500)  # from the CPU
        both = texts.join(shown)
        assert {tensor.device for tensor in both._tensors()} == {CUDA}
        generators = [torch.Generator() for _ in range(4)]
        told = backbone.pipeline.noise_image_embeddings(both.pictures, None, None, generators)
        assert told.shape == (4, 2 * SEEN) and told.device == CUDA
        denoiser = backbone.stages[0].denoiser
        latents = torch.zeros(4, 4, 8, 8, device=CUDA)
        given = {"encoder_hidden_states": both.embeddings, "class_labels": told}
        predicted = denoiser(latents, torch.zeros(4, device=CUDA), **given).sample
        images = backbone._decode(predicted)
        assert images.shape == (4, 3, 16, 16) and images.device == CUDA
        stray = replace(both, pictures=both.pictures.cpu())
        with pytest.raises(RuntimeError, match="[Dd]evice"):
            backbone.pipeline.noise_image_embeddings(stray.pictures, None, None, generators)


def test_what_looks_lies_in_main_memory_while_images_are_drawn(directory, monkeypatch):
    with on_the_gpu(read_parts(str(directory)), monkeypatch) as backbone:
        with backbone.set_aside():
            assert on_gpu(backbone) == {"unet", "vae", "image_normalizer"}
        assert on_gpu(backbone) == set(backbone.modules())
