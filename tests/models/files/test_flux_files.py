"""What is known of a FLUX.1 before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from benchmark.api import (
    EMBEDDED_GUIDANCE,
    TRUE_GUIDANCE,
    Sampler,
    UserError,
)
from benchmark.models.files.identity import backbone_id, worker_memory
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from benchmark.models.texts.rare_words import IDENTIFIERS
from tests.published import T5, VAE
from tests.tiny_pipeline import (
    LATENT_DIFFUSION,
    LENGTH,
    save_tiny_flux,
    save_tiny_schnell,
    save_tiny_sd3,
    says,
)

SCHNELL = LATENT_DIFFUSION | {TRUE_GUIDANCE}
DEV = SCHNELL | {EMBEDDED_GUIDANCE}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_flux(tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "flux")


@pytest.mark.parametrize(
    ("save", "able", "tokens"), [(save_tiny_flux, DEV, 512), (save_tiny_schnell, SCHNELL, 256)]
)
def test_both_are_known_by_their_index_or_else_by_their_folders(tmp_path, save, able, tokens):
    folder = save(tmp_path / "flux")
    for _ in range(2):
        assert DIFFUSERS.capabilities(str(folder)) == able
        DIFFUSERS.check_sampler(str(folder), Sampler("own", 4, 1.0))
        backbone = load_backbone(str(folder), device="cpu", resolution=16)
        assert isinstance(backbone.pipeline, FluxPipeline)
        assert [reader.tokenizer.model_max_length for reader in backbone.readers] == [
            LENGTH,
            tokens,
        ]
        (folder / "model_index.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "vae")
    with pytest.raises(UserError, match="it lacks vae"):
        DIFFUSERS.capabilities(str(folder))


def test_other_families_without_an_index_stay_what_they_are(tmp_path):
    sd3 = save_tiny_sd3(tmp_path / "sd3")
    (sd3 / "model_index.json").unlink()
    assert DIFFUSERS.capabilities(str(sd3)) == LATENT_DIFFUSION


def test_every_part_is_its_identity_and_counts_in_what_training_takes(copy):
    backbone = load_backbone(str(copy), device="cpu", resolution=16)
    parameters = sum(p.numel() for m in backbone.modules().values() for p in m.parameters())
    assert worker_memory(str(copy)) - 12 * 10**8 == 16 * parameters
    found = {backbone_id(str(copy))}
    changes = [
        ("scheduler/scheduler_config.json", {"max_shift": 1.0}),
        ("transformer/config.json", {"axes_dims_rope": [4, 2, 2]}),
        ("vae/config.json", {"shift_factor": 0.1}),
        ("text_encoder_2/config.json", {"num_layers": 1}),
    ]
    for file, change in changes:
        says(copy / file, **change)
        found.add(backbone_id(str(copy)))
    for part in ("text_encoder", "text_encoder_2", "transformer", "vae"):
        [weights] = (copy / part).glob("*.safetensors")
        save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        found.add(backbone_id(str(copy)))
    assert len(found) == 1 + len(changes) + 4


#: Of black-forest-labs/FLUX.1-dev and FLUX.1-schnell, as repositories of GitHub hold them: the
#: transformers in lllyasviel/stable-diffusion-webui-forge, the VAE and CLIP, which both share, in
#: edkamesh/FluX-optimized. T5 is that of Stable Diffusion 3.5.
PUBLISHED = {
    "transformer": {
        "_class_name": "FluxTransformer2DModel",
        "_diffusers_version": "0.30.0.dev0",
        "_name_or_path": "../checkpoints/flux-dev/transformer",
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    },
    "vae": VAE
    | {"mid_block_add_attention": True, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float16",
        "transformers_version": "4.46.1",
        "vocab_size": 49408,
    },
    "text_encoder_2": T5,
}
#: What the parts have to agree on, so that the tiny model keeps its own.
WIDTHS = {
    "transformer": ("in_channels", "joint_attention_dim", "pooled_projection_dim"),
    "vae": ("latent_channels",),
    "text_encoder": ("hidden_size",),
    "text_encoder_2": ("d_model",),
}


@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_what_the_published_models_say_is_understood(copy, guidance_embeds):
    for part, published in PUBLISHED.items():
        path = copy / part / "config.json"
        tiny = json.loads(path.read_text())
        path.write_text(json.dumps(published | {key: tiny[key] for key in WIDTHS[part]}))
    says(copy / "transformer/config.json", guidance_embeds=guidance_embeds)
    assert DIFFUSERS.capabilities(str(copy)) == (DEV if guidance_embeds else SCHNELL)
    DIFFUSERS.check_resolution(str(copy), None)
    DIFFUSERS.check_resolution(str(copy), 1008)
    with pytest.raises(UserError, match="resolution is 1000, .* by the 16 pixels"):
        DIFFUSERS.check_resolution(str(copy), 1000)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer", {"patch_size": 2}, "its patch_size is 2, none of 1"),
        ("transformer", {"guidance_embeds": 3}, "its guidance_embeds is 3, none of True, False"),
        ("transformer", {"qk_norm": "rms_norm"}, "its qk_norm = 'rms_norm' is not understood"),
        ("transformer", {"_class_name": "SD3Transformer2DModel"}, "none of FluxTransformer2DModel"),
        ("transformer", {"in_channels": 96}, "takes 96 channels, and 4 places .* have 16"),
        ("transformer", {"out_channels": 8}, "gives 8 channels, and 4 places .* have 16"),
        ("transformer", {"joint_attention_dim": 64}, "reads texts of width 64, .*T5 makes 48"),
        ("transformer", {"pooled_projection_dim": 8}, "pooled texts of width 8, and its CLIP"),
        ("transformer", {"axes_dims_rope": [2, 2, 2]}, "no even numbers that add up to .*, 8"),
        ("transformer", {"axes_dims_rope": [1, 3, 4]}, "no even numbers that add up to .*, 8"),
        ("transformer", {"axes_dims_rope": 8}, "its axes_dims_rope are 8, no even numbers"),
        ("vae", {"latents_mean": [0, 0, 0, 0]}, "it wants latents that are centred"),
        ("text_encoder", {"architectures": ["CLIPModel"]}, "is a CLIPModel, none of CLIPTextModel"),
        ("text_encoder_2", {"architectures": ["UMT5EncoderModel"]}, "is a UMT5EncoderModel, none"),
        ("text_encoder_2", {"new": 1}, "its new = 1 is not understood"),
        ("scheduler", {"stochastic_sampling": True}, "its stochastic_sampling is True, none of"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(copy, file, change, message):
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    says(copy / file / name, **change)
    with pytest.raises(UserError, match=message) as caught:
        DIFFUSERS.capabilities(str(copy))
    assert f"{copy}" in str(caught.value)


def test_other_pipelines_of_flux_are_named(copy):
    says(copy / "model_index.json", _class_name="FluxFillPipeline")
    with pytest.raises(UserError, match="this is a FluxFill model .*; known are .*, FLUX.1, FLUX"):
        DIFFUSERS.capabilities(str(copy))


def test_weights_and_sizes_are_checked_before_anything_runs(copy):
    model = str(copy)
    DIFFUSERS.fetch(model)
    DIFFUSERS.check_resolution(model, 16)
    [file] = (copy / "transformer").glob("*.safetensors")
    weights = load_file(file)
    cut = weights | {"x_embedder.weight": weights["x_embedder.weight"][:, :2].contiguous()}
    save_file(cut, file, {"format": "pt"})
    with pytest.raises(UserError, match="takes 2 channels, and transformer/config.json says 16"):
        DIFFUSERS.capabilities(model)
    lacking = "time_text_embed.guidance_embedder.linear_1.bias"
    save_file({k: v for k, v in weights.items() if k != lacking}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"transformer lacks 1 weights, {lacking} among them"):
        DIFFUSERS.fetch(model)
    save_file(weights, file, {"format": "pt"})
    says(copy / "transformer/config.json", guidance_embeds=False)
    with pytest.raises(UserError, match="guidance_embedder.* which its configuration has no place"):
        DIFFUSERS.fetch(model)


def test_words_are_those_of_t5_and_texts_are_read_by_both(copy):
    model = str(copy)
    DIFFUSERS.check_words(model, ["sks"])
    with pytest.raises(UserError, match="'zwx' is . tokens of"):
        DIFFUSERS.check_words(model, ["zwx"])
    assert DIFFUSERS.token(model, "sks") is not None, "which CLIP has in pieces"
    (copy / IDENTIFIERS).write_text("sks\nohwx\nzwx\n")
    assert [*DIFFUSERS.rare_words(model)] == ["sks", "ohwx"]
    DIFFUSERS.check_texts(model, ["a " * (LENGTH - 2)])
    with pytest.raises(UserError, match=f"reads {LENGTH}: shorten it"):
        DIFFUSERS.check_texts(model, ["a " * LENGTH])


@pytest.mark.parametrize(("model", "able"), [("flux-dev", DEV), ("flux-schnell", SCHNELL)])
def test_the_named_models_are_known_without_being_here(model, able, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert DIFFUSERS.capabilities(model) == able
    DIFFUSERS.check_sampler(model, Sampler("own", 4, 1.0, true_guidance=2.0))
    with pytest.raises(UserError, match="scheduler 'ddim' cannot draw .* flow-euler, or own"):
        DIFFUSERS.check_sampler(model, Sampler("ddim", 28, 1.0))
    DIFFUSERS.check_texts(model, ["a doi dog on a cobblestone street"])
    with pytest.raises(UserError, match="reads 77"):
        DIFFUSERS.check_texts(model, ["a doi dog " * 77])
    # T5's vocabulary is with the model, and CLIP's says nothing of it.
    with pytest.raises(UserError, match="gated: accept .* on https://huggingface.co/black-forest"):
        DIFFUSERS.check_words(model, ["doi"])
