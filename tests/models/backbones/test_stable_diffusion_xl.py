"""Stable Diffusion XL against diffusers' own pipeline."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from benchmark.api import Sampler, Word
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.loading import load_backbone
from tests.models.backbones.test_backbone import CLASSES, SEEDS, TEXTS, sample
from tests.reference import finetuning
from tests.tiny_pipeline import WIDTH, WIDTH_2, XL_SCHEDULER, save_tiny_xl, says


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl(tmp_path_factory.mktemp("models") / "xl")


@pytest.fixture(scope="module")
def encoding_the_empty_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl(tmp_path_factory.mktemp("models") / "empty", zeros=False)


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "xl")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu")


read_pipeline = functools.cache(finetuning.pipeline)


def pipeline_images(directory: Path, scheduler: str, guidance: float, **options) -> torch.Tensor:
    """Of an untouched pipeline, given no negative prompt."""
    pipe = read_pipeline(directory)
    kind = CLASSES.get(scheduler, diffusers.EulerDiscreteScheduler)
    extra = {"skip_prk_steps": True} if scheduler == "pndm" else {}
    pipe.scheduler = kind.from_config(XL_SCHEDULER, **extra)
    return pipe(
        TEXTS,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **options,
    ).images


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", [*CLASSES, "own"])
def test_images_are_those_of_diffusers_pipeline(
    backbone, directory, scheduler, guidance, monkeypatch
):
    expected = pipeline_images(directory, scheduler, guidance)
    for batch in (2, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        images = sample(backbone, sampler=Sampler(scheduler, 3, guidance))
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.1
    assert (images[0] - images[2]).abs().max() > 0.1


def test_what_guides_away_is_zeros_or_the_empty_text_as_the_model_says(
    directory, encoding_the_empty_text, backbone
):
    other = load_backbone(str(encoding_the_empty_text), precision="fp32", device="cpu")
    sampler = Sampler("euler", 3, 5.0)
    for place, drawn in ((directory, backbone), (encoding_the_empty_text, other)):
        expected = pipeline_images(place, "euler", 5.0)
        said = drawn.encode(["a dog", "a sks dog in the snow", "a dog"])
        for blank in (None, drawn.encode([""])):
            images = drawn.sample(said, SEEDS, unconditional=blank, sampler=sampler)
            assert (images - expected).abs().max() < 1e-4
    zeros, text = (b.encode(["", "a dog"]) for b in (backbone, other))
    assert not zeros.embeddings[0].any() and not zeros.pooled[0].any()
    assert text.embeddings[0].any() and text.pooled[0].any()
    assert torch.equal(zeros.embeddings[1], text.embeddings[1])
    written = pipeline_images(directory, "euler", 5.0, negative_prompt=[""] * 3)
    assert (written - pipeline_images(directory, "euler", 5.0)).abs().max() > 0.01


@pytest.mark.parametrize("size", [24, 16])
def test_the_model_is_told_the_size_that_is_drawn(directory, size):
    backbone = load_backbone(str(directory), precision="fp32", device="cpu", resolution=size)
    expected = pipeline_images(directory, "ddim", 5.0, height=size, width=size)
    images = sample(backbone, sampler=Sampler("ddim", 3, 5.0))
    assert (images - expected).abs().max() < 1e-4
    assert backbone.encode(["a dog"]).sizes.tolist() == [[size, size, 0, 0, size, size]]


def test_the_sizes_and_both_text_encoders_count(backbone):
    with torch.no_grad():
        [stage], condition = backbone.stages, backbone.encode(["a dog"])
        draw = stage.draw(stage.prepare(torch.rand(1, 3, 16, 16)), 1, torch.Generator())
        loss = stage.loss(draw, condition)
        for name in ("embeddings", "pooled", "sizes"):
            given = vars(condition) | {name: getattr(condition, name) * 2}
            assert abs(stage.loss(draw, type(condition)(**given)) - loss) > 1e-6, name
    assert not torch.equal(*(backbone.encode([t]).pooled for t in ("a dog", "a cat")))


def test_a_word_stands_in_for_a_token_of_each_vocabulary(backbone, directory):
    vectors = {"text_encoder": torch.randn(WIDTH), "text_encoder_2": torch.randn(WIDTH_2)}
    found = backbone.encode(["a sks dog", "a dog"], words=[Word("sks", vectors)])
    pipe = finetuning.pipeline(directory)  # whose tables are changed
    pairs = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    tokens = [tokenizer.convert_tokens_to_ids("sks</w>") for tokenizer, _ in pairs]
    assert tokens[0] != tokens[1]
    with torch.no_grad():
        for token, (_, encoder), vector in zip(tokens, pairs, vectors.values(), strict=True):
            encoder.get_input_embeddings().weight[token] = vector
        expected, _, pooled, _ = pipe.encode_prompt(["a sks dog", "a dog"])
    torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=1e-5)
    plain = backbone.encode(["a sks dog"])
    for now, before in zip(found[[0]]._tensors()[:2], plain._tensors()[:2], strict=True):
        assert not torch.allclose(now, before)
    word = backbone.new_word("ohwx", init="dog")
    assert {name: len(vector) for name, vector in word.vectors.items()} == {
        "text_encoder": WIDTH,
        "text_encoder_2": WIDTH_2,
    }


def test_the_vae_decodes_in_float32_where_float16_would_overflow(copy):
    for upcast, expected in ((True, "fp32"), (False, "fp16")):
        says(copy / "vae/config.json", force_upcast=upcast)
        assert load_backbone(str(copy), precision="fp16", device="cpu").decoding == expected
    says(copy / "vae/config.json", force_upcast=True)
    assert load_backbone(str(copy), precision="bf16", device="cpu").decoding == "bf16"


def test_no_weight_is_copied_for_a_loan(backbone):
    stored = {name.partition(".")[0] for name in backbone.stored_weights}
    assert stored == set(backbone.modules()) == {"unet", "vae", "text_encoder", "text_encoder_2"}


def test_nothing_of_reading_stays_on_the_model(backbone):
    backbone.encode(["a dog"])
    for module in backbone.modules().values():
        for part in module.modules():
            assert not part._forward_hooks and not part._forward_pre_hooks
