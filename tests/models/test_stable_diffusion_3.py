"""Stable Diffusion 3 against diffusers' own pipeline, and flow matching against its script."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from benchmark.api import Sampler, UserError, Word
from benchmark.models.latent_diffusion import LatentDiffusion
from benchmark.models.loading import load_backbone
from benchmark.models.noising import FlowMatching, process_of
from benchmark.models.sampling import FLOW_SCHEDULERS, SCHEDULERS
from tests.models.test_backbone import SEEDS, TEXTS, sample
from tests.reference import finetuning
from tests.tiny_pipeline import LENGTH, SD3_SCHEDULER, WIDTH, WIDTH_2, WIDTH_3, save_tiny_sd3

FLOW = FlowMatchEulerDiscreteScheduler


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd3(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "sd3")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu")


read_pipeline = functools.cache(finetuning.pipeline)


def pipeline_images(
    directory: Path, guidance: float, scheduler: dict = SD3_SCHEDULER, **options
) -> torch.Tensor:
    """Of an untouched pipeline, given no negative prompt."""
    pipe = read_pipeline(directory)
    pipe.scheduler = FLOW.from_config(scheduler)
    return pipe(
        TEXTS,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **options,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", [*FLOW_SCHEDULERS, "own"])
def test_images_are_those_of_diffusers_pipeline(
    backbone, directory, scheduler, guidance, monkeypatch
):
    expected = pipeline_images(directory, guidance)
    for batch in (1, 2, 16):
        monkeypatch.setattr("benchmark.models.latent_stage.BATCH", batch)
        images = sample(backbone, sampler=Sampler(scheduler, 3, guidance))
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.05
    assert (images[0] - images[2]).abs().max() > 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"shift": 1.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 0.7},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"shift_terminal": 0.1},
    ],
    ids=str,
)
def test_the_models_own_schedule_is_obeyed(copy, directory, backbone, change):
    file = copy / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(SD3_SCHEDULER | change))
    other = load_backbone(str(copy), precision="fp32", device="cpu")
    expected = pipeline_images(directory, 4.0, SD3_SCHEDULER | change)
    images = sample(other, sampler=Sampler("own", 3, 4.0))
    assert (images - expected).abs().max() < 1e-4
    usual = sample(backbone, sampler=Sampler("own", 3, 4.0))
    assert (images - usual).abs().max() > 1e-3


@pytest.mark.parametrize("size", [24, 8])
def test_other_sizes_are_drawn(directory, size):
    backbone = load_backbone(str(directory), precision="fp32", device="cpu", resolution=size)
    expected = pipeline_images(directory, 5.0, height=size, width=size)
    images = sample(backbone, sampler=Sampler("own", 3, 5.0))
    assert images.shape[-1] == size and (images - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("size", "message"),
    [(12, "by the 8 pixels: choose a multiple of 8"), (40, "images of at most 32 pixels")],
)
def test_sizes_that_it_cannot_draw_are_refused(directory, size, message):
    with pytest.raises(UserError, match=message):
        load_backbone(str(directory), precision="fp32", device="cpu", resolution=size)


def test_every_text_encoder_counts(backbone):
    with torch.no_grad():
        [stage], condition = backbone.stages, backbone.encode(["a dog"])
        assert condition.embeddings.shape == (1, LENGTH + 256, WIDTH_3)
        assert not condition.embeddings[:, :LENGTH, WIDTH + WIDTH_2 :].any()
        draw = stage.draw(stage.prepare(torch.rand(1, 3, 16, 16)), 1, torch.Generator())
        loss = stage.loss(draw, condition)
        for rows in (slice(0, LENGTH), slice(LENGTH, None)):
            other = condition.embeddings.clone()
            other[:, rows] *= 2
            changed = type(condition)(other, condition.pooled)
            assert abs(stage.loss(draw, changed) - loss) > 1e-6
        changed = type(condition)(condition.embeddings, condition.pooled * 2)
        assert abs(stage.loss(draw, changed) - loss) > 1e-6


def test_a_word_is_learned_by_clip_and_read_as_it_is_written_by_t5(backbone, directory):
    vectors = {"text_encoder": torch.randn(WIDTH), "text_encoder_2": torch.randn(WIDTH_2)}
    found = backbone.encode(["a sks dog", "a dog"], words=[Word("sks", vectors)])
    pipe = finetuning.pipeline(directory)  # whose tables are changed
    with torch.no_grad():
        for name, vector in vectors.items():
            tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
            token = tokenizer.convert_tokens_to_ids("sks</w>")
            getattr(pipe, name).get_input_embeddings().weight[token] = vector
        expected, _, pooled, _ = pipe.encode_prompt(["a sks dog", "a dog"], None, None)
    torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=1e-5)
    plain = backbone.encode(["a sks dog"])
    assert not torch.allclose(found.embeddings[0, :LENGTH], plain.embeddings[0, :LENGTH])
    assert torch.equal(found.embeddings[0, LENGTH:], plain.embeddings[0, LENGTH:])
    word = backbone.new_word("ohwx", init="dog")
    sizes = {name: len(vector) for name, vector in word.vectors.items()}
    assert sizes == {"text_encoder": WIDTH, "text_encoder_2": WIDTH_2}


def test_a_text_is_refused_that_any_text_encoder_would_cut(backbone):
    whole = "a " * (LENGTH - 2)
    assert len(backbone.encode([whole])) == 1
    with pytest.raises(UserError, match=f"has {LENGTH + 1} tokens, but '.*' reads {LENGTH}"):
        backbone.encode([whole + "a"])
    t5 = backbone.readers[-1]
    assert t5.ids(["a " * 255]).shape == (1, 256)
    with pytest.raises(UserError, match="has 257 tokens, but '.*' reads 256"):
        t5.ids(["a " * 256])


# Flow matching ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"use_dynamic_shifting": True}], ids=str)
def test_timesteps_are_logit_normal_through_the_models_schedule(change):
    """As train_dreambooth_sd3.py has them, with its `get_sigmas`."""
    scheduler = FLOW.from_config(SD3_SCHEDULER | change)
    process = process_of(scheduler)
    assert isinstance(process, FlowMatching)
    found = process.timesteps(20_000, torch.Generator().manual_seed(5))
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(5))
    places = 1 / (1 + torch.exp(-normal))
    share = 1 - places.double()  # the schedule goes from noise to images
    share = share if change else 3 * share / (1 + 2 * share)
    assert (found.double() / 1000 - share).abs().max() < 4e-3  # a step is a thousandth, times 3
    every = set(scheduler.timesteps.tolist())
    assert set(found.tolist()) <= every and found.min() > 0 and found.max() <= 1000


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
    encoder = backbone.text_encoders["text_encoder_3"]
    ids = torch.arange(3, 20)[None]
    assert any(isinstance(part, nn.Dropout) for part in encoder.modules())
    try:
        first, again = (encoder.train()(ids)[0] for _ in range(2))
    finally:
        encoder.eval()
    assert torch.equal(first, again) and torch.equal(first, encoder(ids)[0])


def test_t5_reads_in_float32_where_float16_would_overflow(copy):
    for precision, kept in (("fp16", True), ("bf16", False)):
        half = load_backbone(str(copy), precision=precision, device="cpu")
        whole = load_backbone(str(copy), precision="fp32", device="cpu")
        with torch.no_grad():
            found, expected = (b.encode(["a dog"]).embeddings for b in (half, whole))
        assert torch.equal(found[:, LENGTH:], expected[:, LENGTH:]) == kept
        assert not torch.equal(found[:, :LENGTH], expected[:, :LENGTH])


def test_samplers_of_diffusion_and_of_flow_matching_are_told_apart(backbone):
    for name in SCHEDULERS:
        with pytest.raises(UserError, match="taught by flow matching: choose flow-euler, or own"):
            sample(backbone, sampler=Sampler(name, 3, 1.0))
