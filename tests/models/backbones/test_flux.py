"""What FLUX.1 has alone; the rest is in test_flow_matching.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from benchmark.api import EMBEDDED_GUIDANCE, TRUE_GUIDANCE, Sampler, UserError, Word
from benchmark.models.backbones.flux import packed, places
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.backbones.latent_stage import LatentDraw
from benchmark.models.diffusion.noising import FlowMatching
from benchmark.models.diffusion.sampling import passes
from benchmark.models.loading import load_backbone
from tests.reference import finetuning
from tests.tiny_pipeline import WIDTH, WIDTH_3, save_tiny_flux, save_tiny_schnell


@pytest.fixture(scope="module", params=[save_tiny_flux, save_tiny_schnell])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu", resolution=16)


@pytest.fixture
def draw(backbone: LatentDiffusion) -> LatentDraw:
    [stage] = backbone.stages
    generator = torch.Generator().manual_seed(2)
    return stage.draw(stage.prepare(torch.rand(2, 3, 16, 16)), 3, generator)


def test_both_text_encoders_count(backbone, draw):
    [stage], condition = backbone.stages, backbone.encode(["a dog"] * 3)
    tokens = 512 if backbone.calls.told else 256
    assert condition.embeddings.shape == (3, tokens, WIDTH_3)
    assert condition.pooled.shape == (3, WIDTH)
    with torch.no_grad():
        losses = stage.loss(draw, condition)
        for name in ("embeddings", "pooled"):
            changed = replace(condition, **{name: getattr(condition, name) * 2})
            assert (stage.loss(draw, changed) - losses).abs().min() > 1e-6


@pytest.mark.parametrize("directory", [save_tiny_flux], indirect=True)
def test_training_is_told_the_guidance_that_is_asked_for(backbone, directory, draw, monkeypatch):
    """The reference tells the default of train_dreambooth_flux.py."""
    [stage], texts = backbone.stages, ["a dog", "a cat", "a dog"]
    given = finetuning.Given(draw.latents, draw.noise, draw.timesteps, texts)
    pipe, condition = finetuning.pipeline(directory), backbone.encode(texts)
    with torch.no_grad():
        usual = stage.loss(draw, condition).mean()
        assert abs(usual - finetuning.term_loss(pipe, given)) < 1e-5
        assert abs(usual - stage.with_guidance(3.5).loss(draw, condition).mean()) < 1e-7
        monkeypatch.setattr(finetuning, "GUIDANCE", 1.0)
        other = stage.with_guidance(1.0).loss(draw, condition).mean()
        assert abs(other - finetuning.term_loss(pipe, given)) < 1e-5
    assert abs(usual - other) > 1e-4
    assert stage.calls == backbone.calls, "the stage itself stays"


@pytest.mark.parametrize("directory", [save_tiny_schnell], indirect=True)
def test_a_model_that_takes_no_guidance_is_told_none(backbone):
    [stage] = backbone.stages
    with pytest.raises(ValueError, match="told no guidance, and was to be told 2"):
        stage.with_guidance(2.0)


def test_a_word_is_learned_by_t5_and_read_as_it_is_written_by_clip(backbone, directory):
    vector = torch.randn(WIDTH_3)
    found = backbone.encode(["a sks dog"], words=[Word("sks", {"text_encoder_2": vector})])
    pipe = finetuning.pipeline(directory)  # whose table is changed
    with torch.no_grad():
        [token] = pipe.tokenizer_2("sks", add_special_tokens=False).input_ids
        pipe.text_encoder_2.get_input_embeddings().weight[token] = vector
        length = finetuning.t5_length(pipe)
        expected, pooled, _ = pipe.encode_prompt(["a sks dog"], max_sequence_length=length)
    torch.testing.assert_close(found.embeddings, expected, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=1e-5)
    plain = backbone.encode(["a sks dog"])
    assert not torch.allclose(found.embeddings, plain.embeddings)
    assert torch.equal(found.pooled, plain.pooled)
    word = backbone.new_word("ohwx", init="dog")
    assert {name: len(vector) for name, vector in word.vectors.items()} == {
        "text_encoder_2": WIDTH_3
    }
    with pytest.raises(UserError, match="'zwx' is . tokens"):
        backbone.new_word("zwx", init="dog")


@pytest.mark.parametrize("scale", [0.5, 1.0, float("inf"), float("nan")])
def test_a_second_pass_that_does_not_guide_is_refused(scale):
    with pytest.raises(UserError, match="guidance is (.*does not guide|inf|nan).*: it should be"):
        Sampler("own", 3, 1.0, true_guidance=scale)


def test_a_second_pass_counts_in_how_long_drawing_takes():
    told, plain = frozenset({EMBEDDED_GUIDANCE, TRUE_GUIDANCE}), frozenset[str]()
    assert passes(Sampler("own", 5, 3.5), plain) == 10
    assert passes(Sampler("own", 5, 1.0), plain) == 5
    assert passes(Sampler("own", 5, 3.5), told) == 5
    assert passes(Sampler("own", 5, 1.0, true_guidance=2.0), told) == 10


def test_latents_are_packed_and_placed_as_in_diffusers_pipeline():
    latents = torch.randn(2, 4, 8, 8)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 4, 8, 8))
    expected = FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
    assert torch.equal(places(latents), expected)


def test_unpacking_undoes_packing(backbone):
    latents = torch.randn(2, 4, 8, 8)
    assert torch.equal(backbone.calls.unpacked(packed(latents), 8), latents)


def test_timesteps_are_uniform_before_the_models_own_shift(backbone):
    """As train_dreambooth_flux.py has them by default: no shift by the size, in either model."""
    [stage] = backbone.stages
    assert isinstance(stage.process, FlowMatching)
    found = stage.process.timesteps(20_000, torch.Generator().manual_seed(5))
    expected = 1 - torch.rand(20_000, generator=torch.Generator().manual_seed(5))
    assert (found / 1000 - expected).abs().max() <= 1e-3
    assert found.min() > 0 and found.max() <= 1000


def test_its_images_are_of_128_latents_or_of_the_size_that_is_asked_for(backbone, directory):
    assert load_backbone(str(directory), precision="fp32", device="cpu").resolution == 256
    assert backbone.resolution == 16
    with pytest.raises(UserError, match="by the 8 pixels: choose a multiple of 8"):
        load_backbone(str(directory), precision="fp32", device="cpu", resolution=12)
