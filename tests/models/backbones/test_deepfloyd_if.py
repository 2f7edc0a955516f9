"""DeepFloyd IF against diffusers' own two pipelines."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from benchmark import api
from benchmark.api import Sampler, UserError, Word
from benchmark.models import loading
from benchmark.models.backbones.deepfloyd_if import Cascade
from benchmark.models.files.identity import backbone_id, worker_memory
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.lending.loan import Loan
from benchmark.models.texts.rare_words import IDENTIFIERS, OF_T5, rare_words, rarest
from tests.published import T5
from tests.tiny_pipeline import WIDTH, WORDS, save_tiny_cascade, says, sentences

CAN = {api.TEXT_TO_IMAGE, api.TRAINING, api.WORDS, api.SUPER_RESOLUTION}
TEXTS = ["a dog", "A Sks  dog in the snow", "a dog"]
SEEDS = [3, 3, 2**62 + 5]
#: Name -> diffusers' class, and what is laid over the model's configuration.
OFFERED = {
    "own": (DDPMScheduler, {}),
    "ddpm": (DDPMScheduler, {"variance_type": "fixed_small"}),
    "ddim": (diffusers.DDIMScheduler, {"variance_type": "fixed_small"}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"variance_type": "fixed_small"}),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_cascade(tmp_path_factory.mktemp("models") / "cascade")


@pytest.fixture(scope="module")
def of_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_cascade(tmp_path_factory.mktemp("models") / "pocket-like", clip=True)


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "cascade")


def load(directory: Path, **options) -> Cascade:
    found = loading.load_backbone(str(directory), precision="fp32", device="cpu", **options)
    assert isinstance(found, Cascade)
    return found


@pytest.fixture(scope="module")
def backbone(directory: Path) -> Cascade:
    return load(directory)


@functools.cache
def read_pipelines(directory: Path) -> tuple[IFPipeline, IFSuperResolutionPipeline]:
    kinds = {"base": IFPipeline, "super_resolution": IFSuperResolutionPipeline}
    missing = {"super_resolution": {"text_encoder": None}, "base": {}}
    found = []
    for stage, kind in kinds.items():
        pipe = kind.from_pretrained(directory / stage, **missing[stage])
        pipe.to(torch.float32)
        pipe.set_progress_bar_config(disable=True)
        found.append(pipe)
    return tuple(found)


def embeddings(directory: Path, texts: list[str]) -> torch.Tensor:
    """As the first pipeline reads texts; of CLIP's, the text encoder's own states."""
    base, _ = read_pipelines(directory)
    with torch.no_grad():
        if isinstance(base.text_encoder, CLIPTextModel):
            ids = base.tokenizer(texts, padding="max_length", max_length=12, return_tensors="pt")
            return base.text_encoder(ids.input_ids)[0]
        return base.encode_prompt(texts, do_classifier_free_guidance=False)[0]


def pipeline_images(
    directory: Path,
    scheduler: str,
    guidance: float,
    *,
    steps: int = 3,
    larger_guidance: float | None = None,
    noise_level: int = 250,
) -> torch.Tensor:
    """Of untouched pipelines, one generator an image through both."""
    kind, extra = OFFERED[scheduler]
    for stage, pipe in zip(("base", "super_resolution"), read_pipelines(directory), strict=True):
        own = DDPMScheduler.load_config(directory / stage / "scheduler")
        pipe.scheduler = kind.from_config({**own, **extra})
    base, larger = read_pipelines(directory)
    given = {
        "prompt_embeds": embeddings(directory, TEXTS),
        "negative_prompt_embeds": embeddings(directory, [""] * 3),
        "generator": [torch.Generator().manual_seed(seed) for seed in SEEDS],
        "output_type": "pt",
    }
    small = base(num_inference_steps=3, guidance_scale=guidance, **given).images
    images = larger(
        image=small,
        num_inference_steps=steps,
        guidance_scale=guidance if larger_guidance is None else larger_guidance,
        noise_level=noise_level,
        **given,
    ).images
    return (images / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", OFFERED)
def test_images_are_those_of_diffusers_two_pipelines(
    backbone, directory, scheduler, guidance, monkeypatch
):
    expected = pipeline_images(directory, scheduler, guidance)
    for batch in (2, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        images = backbone.sample(
            backbone.encode(TEXTS), SEEDS, sampler=Sampler(scheduler, 3, guidance)
        )
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.05
    assert (images[0] - images[2]).abs().max() > 0.1


@pytest.mark.parametrize(("precision", "apart"), [("bf16", 0.15), ("fp16", 0.03)])
def test_images_in_half_precision_are_nearly_the_same(directory, precision, apart):
    sampler = Sampler("ddpm", 3, 2.0)
    drawn = []
    for used in ("fp32", precision):
        found = loading.load_backbone(str(directory), precision=used, device="cpu")
        drawn.append(found.sample(found.encode(TEXTS), SEEDS, sampler=sampler))
    assert 0 < (drawn[0] - drawn[1]).abs().mean() < apart


def test_what_makes_larger_has_settings_of_its_own(backbone, directory):
    sampler = Sampler(
        "own",
        3,
        5.0,
        super_resolution_steps=2,
        super_resolution_guidance=1.0,
        super_resolution_noise=0.1,
    )
    expected = pipeline_images(directory, "own", 5.0, steps=2, larger_guidance=1.0, noise_level=100)
    images = backbone.sample(backbone.encode(TEXTS), SEEDS, sampler=sampler)
    assert (images - expected).abs().max() < 1e-4
    assert (images - pipeline_images(directory, "own", 5.0)).abs().max() > 0.01


def test_a_sampler_takes_no_more_noise_than_all() -> None:
    for noise in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="super_resolution_noise is .*: it should be from 0 to"):
            Sampler(super_resolution_noise=noise)


def test_one_with_a_text_encoder_of_clips_reads_as_long_as_its_tokenizer(of_clip):
    backbone = load(of_clip)
    assert backbone.encode(TEXTS).embeddings.shape == (3, 12, WIDTH)
    images = backbone.sample(backbone.encode(TEXTS), SEEDS, sampler=Sampler("own", 3, 5.0))
    assert (images - pipeline_images(of_clip, "own", 5.0)).abs().max() < 1e-4
    (of_clip / "base" / IDENTIFIERS).write_text("ohwx\nsks\n")
    assert list(rare_words(str(of_clip))) == ["ohwx", "sks"]


def test_t5_reads_77_tokens_in_small_letters(backbone, directory):
    found = backbone.encode(TEXTS).embeddings
    assert found.shape == (3, 77, WIDTH)
    torch.testing.assert_close(found, embeddings(directory, TEXTS), atol=1e-5, rtol=1e-5)
    DIFFUSERS.check_texts(str(directory), ["a " * 76])
    with pytest.raises(UserError, match="has 78 tokens, but '.*' reads 77"):
        DIFFUSERS.check_texts(str(directory), ["a " * 77])
    with pytest.raises(UserError, match="has no tokens for '☃'"):
        backbone.encode(["☃"])


def test_a_word_stands_in_for_a_token_of_t5s(backbone, directory):
    vector = torch.randn(WIDTH)
    found = backbone.encode(["a sks dog"], words=[Word("SKS", {"text_encoder": vector})])
    base, _ = read_pipelines(directory)
    table, token = base.text_encoder.get_input_embeddings().weight, WORDS.index("sks") + 3
    before = table[token].clone()
    with torch.no_grad():
        table[token] = vector
        expected = embeddings(directory, ["a sks dog"])
        table[token] = before
    torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(backbone.encode(["a sks dog"]).embeddings, expected)
    word = backbone.new_word("ohwx", init="dog")
    assert torch.equal(word.vectors["text_encoder"], table[WORDS.index("dog") + 3])
    with pytest.raises(UserError, match="'zz' is 3 tokens of"):
        backbone.new_word("zz", init="dog")


def test_rare_words_of_t5_are_looked_for_where_the_paper_looks(monkeypatch):
    assert (OF_T5[0], OF_T5[-1]) == (5000, 10000)
    assert rarest(sentences()) == {}
    monkeypatch.setattr("benchmark.models.texts.rare_words.OF_T5", range(5, 13))
    expected = {"sks": 12, "cat": 10, "dog": 9, "the": 7, "in": 6, "of": 5}
    assert list(rarest(sentences()).items()) == list(expected.items())


def test_nothing_is_left_behind_and_no_weight_copied_for_a_loan(backbone):
    stored = {name.partition(".")[0] for name in backbone.stored_weights}
    assert stored == set(backbone.modules())
    assert stored == {"base/unet", "super_resolution/unet", "base/text_encoder"}
    loan = Loan(backbone)
    with torch.no_grad():
        for module in backbone.modules().values():
            next(module.parameters()).add_(1)
    word = Word("sks", {"text_encoder": torch.zeros(WIDTH)})
    backbone.sample(backbone.encode(["a dog"], words=[word]), [1], sampler=Sampler("ddpm", 2, 5.0))
    assert loan.settle(thorough=True) == [] and loan.whole
    state = backbone.modules()["super_resolution/unet"].state_dict()
    assert torch.equal(
        state["conv_in.weight"],
        backbone.stored_weights["super_resolution/unet.conv_in.weight"].float(),
    )


def test_each_stage_learns_the_noise_alone(backbone):
    generator = torch.Generator().manual_seed(0)
    condition = backbone.encode(["a dog"] * 2)
    for stage in backbone.stages:
        side = stage.resolution
        clean = stage.prepare(torch.rand(4, 3, side, side, generator=generator))
        draw = stage.draw(clean, 2, generator)
        losses = stage.loss(draw, condition)
        with torch.no_grad():
            stage.denoiser.conv_out.bias[3:] += 100
            assert torch.equal(stage.loss(draw, condition), losses), "the variance does not count"
            stage.denoiser.conv_out.bias[:3] += 1
            assert not torch.allclose(stage.loss(draw, condition), losses)
            stage.denoiser.conv_out.bias[3:] -= 100
            stage.denoiser.conv_out.bias[:3] -= 1


def test_less_noise_leaves_more_of_the_small_image(backbone):
    [base, larger] = backbone.stages
    photographs = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    clean = larger.prepare(photographs)
    blurred = torch.nn.functional.interpolate(
        clean.small, (16, 16), mode="bilinear", align_corners=True
    )
    assert clean.small.shape == (1, 3, 8, 8)
    kept = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    for noise, level in ((0.0, 0), (0.25, 250), (1.0, 999)):
        stage = larger.with_noise(noise)
        draw = stage.draw(clean, 1, torch.Generator().manual_seed(0))
        again = larger.draw(clean, 1, torch.Generator().manual_seed(0))
        assert draw.levels.tolist() == [level]
        assert torch.equal(draw.noise, again.noise)
        sigma = (1 - kept[level]).sqrt()
        noise_of = (draw.enlarged - kept[level].sqrt() * blurred) / sigma
        assert 0.9 < noise_of.std() < 1.1
    assert larger.draw(clean, 1, torch.Generator()).levels.tolist() == [250], "as it is drawn"
    with pytest.raises(ValueError, match="stage 'base' makes no images larger"):
        base.with_noise(0.0)


# What is known before it is loaded --------------------------------------------------------------


def test_both_models_are_its_identity_and_count(copy, backbone):
    assert DIFFUSERS.capabilities(str(copy)) == CAN
    found = {backbone_id(str(copy))}
    says(copy / "super_resolution/image_noising_scheduler/scheduler_config.json", beta_end=0.03)
    found.add(backbone_id(str(copy)))
    for stage in ("base", "super_resolution"):
        weights = copy / stage / "unet/diffusion_pytorch_model.safetensors"
        save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        found.add(backbone_id(str(copy)))
    assert len(found) == 4
    says(copy / "super_resolution/model_index.json", safety_checker=["deepfloyd_if", "IFSafety"])
    assert backbone_id(str(copy)) in found
    parameters = sum(p.numel() for m in backbone.modules().values() for p in m.parameters())
    assert worker_memory(str(copy)) - 12 * 10**8 == 16 * parameters


def test_no_safety_checker_or_watermarker_is_read(copy):
    for part in ("safety_checker", "watermarker", "feature_extractor"):
        (copy / "base" / part).mkdir()
        (copy / "base" / part / "model.safetensors").write_bytes(b"no tensors")
        says(copy / "base/model_index.json", **{part: ["deepfloyd_if", "IFThing"]})
    before = backbone_id(str(copy))
    pipeline = load(copy).base.pipeline
    assert pipeline.safety_checker is None and pipeline.watermarker is None
    shutil.rmtree(copy / "base" / "watermarker")
    assert backbone_id(str(copy)) == before


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("base/unet/config.json", {"out_channels": 3}, "its out_channels is 3, and has to be 6"),
        ("base/unet/config.json", {"encoder_hid_dim": 8}, "reads texts of width 8, its text enc"),
        ("base/unet/config.json", {"encoder_hid_dim_type": "image_proj"}, "none of text_proj"),
        ("base/unet/config.json", {"class_embed_type": "timestep"}, "wants a class, as an upscal"),
        ("super_resolution/unet/config.json", {"class_embed_type": None}, "has to be 'timestep'"),
        ("super_resolution/unet/config.json", {"in_channels": 7}, "is 7, and has to be 6"),
        ("base/text_encoder/config.json", {"model_type": "mt5"}, "'mt5', none of t5"),
        ("base/text_encoder/config.json", {"new": 1}, "its new = 1 is not understood"),
        ("base/scheduler/scheduler_config.json", {"prediction_type": "sample"}, "none of epsilon"),
        ("super_resolution/scheduler/scheduler_config.json", {"thresholding": False}, "be True"),
        ("base/scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "is a DDIMSch"),
        ("base/model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "is a UNet2DModel"),
        ("base/model_index.json", {"_class_name": "KandinskyPipeline"}, "a IFPipeline belongs"),
        ("base/tokenizer/tokenizer.json", {"added_tokens": [{"id": 99, "content": "<x>"}]}, "<x>"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(copy, file, change, message):
    says(copy / file, **change)
    with pytest.raises(UserError, match=message) as caught:
        DIFFUSERS.capabilities(str(copy))
    assert f"{copy}" in str(caught.value)


def test_half_a_cascade_is_named(copy):
    shutil.rmtree(copy / "super_resolution")
    wanted = "IFPipeline in base/ and IFSuperResolutionPipeline in super_resolution/"
    for place in (copy, copy / "base"):
        with pytest.raises(UserError, match=f"lacks .*super_resolution.*{wanted}"):
            DIFFUSERS.identify(str(place))


def test_it_draws_its_own_size_by_schedulers_that_threshold(directory):
    with pytest.raises(UserError, match="resolution is 64, but the cascade draws 16: leave it out"):
        load(directory, resolution=64)
    assert load(directory, resolution=16).resolution == 16
    for scheduler in OFFERED:
        DIFFUSERS.check_sampler(str(directory), Sampler(scheduler, 20, 5.0))
    for scheduler in ("euler", "pndm"):
        with pytest.raises(UserError, match=f"'{scheduler}' does not draw DeepFloyd IF: choose"):
            DIFFUSERS.check_sampler(str(directory), Sampler(scheduler, 20, 5.0))
    with pytest.raises(UserError, match="2000 steps are more than the 1000"):
        DIFFUSERS.check_sampler(
            str(directory), Sampler("own", 20, 5.0, super_resolution_steps=2000)
        )


def test_a_vocabulary_of_sentencepiece_says_what_reads_it(copy):
    (copy / "base/tokenizer/tokenizer.json").rename(copy / "base/tokenizer/spiece.model")
    assert DIFFUSERS.capabilities(str(copy)) == CAN
    with pytest.raises(UserError, match="pip install sentencepiece protobuf"):
        load(copy)


def test_the_pockets_tokenizer_is_clips(of_clip):
    assert isinstance(load(of_clip).reader.tokenizer, CLIPTokenizer)


#: Of the super-resolution's U-Net beside its sizes, as diffusers' scripts/convert_if.py makes it.
PUBLISHED_UNET = {
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "attention_head_dim": 64,
    "class_embed_type": "timestep",
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim_type": None,  # of earlier versions, which knew one alone
    "mid_block_scale_factor": 1 / 0.7071,
    "only_cross_attention": True,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1 / 0.7071,
    "resnet_skip_time_act": True,
    "resnet_time_scale_shift": "scale_shift",
    "time_embedding_act_fn": "gelu",
    "upcast_attention": False,
    "use_linear_projection": False,
}


def test_what_the_published_models_say_is_understood(copy):
    (copy / "base/text_encoder/config.json").write_text(json.dumps(T5 | {"d_model": WIDTH}))
    says(copy / "super_resolution/unet/config.json", **PUBLISHED_UNET)
    assert DIFFUSERS.capabilities(str(copy)) == CAN


def test_a_size_that_the_cascade_does_not_draw_is_refused_when_planning(directory):
    own = json.loads((directory / "super_resolution/unet/config.json").read_text())["sample_size"]
    DIFFUSERS.check_resolution(str(directory), None)
    DIFFUSERS.check_resolution(str(directory), own)
    with pytest.raises(UserError, match=f"backbone.resolution is 8, but the cascade draws {own}"):
        DIFFUSERS.check_resolution(str(directory), 8)
