"""What Stable Diffusion 3 has alone; the rest is in test_flow_matching.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from benchmark.api import UserError, Word
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.diffusion.noising import FlowMatching, process_of
from benchmark.models.loading import load_backbone
from tests.reference import finetuning
from tests.tiny_pipeline import LENGTH, SD3_SCHEDULER, WIDTH, WIDTH_2, WIDTH_3, save_tiny_sd3

FLOW = FlowMatchEulerDiscreteScheduler


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd3(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu")


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
