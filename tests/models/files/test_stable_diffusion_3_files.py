"""What is known of a Stable Diffusion 3 before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from benchmark.api import Sampler, UserError
from benchmark.models.files.identity import backbone_id, worker_memory
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.published import T5, VAE
from tests.tiny_pipeline import LATENT_DIFFUSION, LENGTH, save_tiny_sd3, says


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd3(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "sd3")


def test_it_is_known_by_its_index_or_else_by_its_folders(copy):
    for _ in range(2):
        assert DIFFUSERS.capabilities(str(copy)) == LATENT_DIFFUSION
        DIFFUSERS.check_sampler(str(copy), Sampler("own", 28, 4.5))
        assert isinstance(load_backbone(str(copy), device="cpu").pipeline, StableDiffusion3Pipeline)
        (copy / "model_index.json").unlink(missing_ok=True)
    shutil.rmtree(copy / "tokenizer_3")
    with pytest.raises(UserError, match="it lacks tokenizer_3"):
        DIFFUSERS.capabilities(str(copy))


def test_every_part_is_its_identity(copy):
    found = {backbone_id(str(copy))}
    changes = [
        ("scheduler/scheduler_config.json", {"shift": 1.0}),
        ("transformer/config.json", {"sample_size": 16}),
        ("vae/config.json", {"shift_factor": 0.1}),
        ("text_encoder_3/config.json", {"num_layers": 1}),
        ("tokenizer_3/tokenizer_config.json", {"model_max_length": 128}),
    ]
    for file, change in changes:
        says(copy / file, **change)
        found.add(backbone_id(str(copy)))
    parts = ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae")
    for part in parts:
        [weights] = (copy / part).glob("*.safetensors")
        save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        found.add(backbone_id(str(copy)))
    assert len(found) == 1 + len(changes) + len(parts)


def test_all_parts_count_in_what_training_takes(directory):
    """With the transformer's table of places, which is no parameter."""
    backbone = load_backbone(str(directory), device="cpu")
    parameters = sum(p.numel() for m in backbone.modules().values() for p in m.parameters())
    places = backbone.stages[0].denoiser.pos_embed.pos_embed.numel()
    assert worker_memory(str(directory)) - 12 * 10**8 == 16 * (parameters + places)


#: Of stabilityai/stable-diffusion-3.5-medium, as repositories of GitHub hold it: the transformer
#: and the VAE in tenstorrent/tt-forge-models, T5 as FLUX.1-dev has it, v1.1 XXL too, in
#: lllyasviel/stable-diffusion-webui-forge.
PUBLISHED = {
    "transformer": {
        "_class_name": "SD3Transformer2DModel",
        "_diffusers_version": "0.32.0.dev0",
        "attention_head_dim": 64,
        "caption_projection_dim": 1536,
        "dual_attention_layers": list(range(13)),
        "in_channels": 16,
        "num_attention_heads": 24,
        "num_layers": 24,
        "out_channels": 16,
        "patch_size": 2,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "sample_size": 128,
    },
    "vae": VAE,
    "text_encoder_3": T5,
}
#: What the parts have to agree on, so that the tiny model keeps its own.
WIDTHS = ("joint_attention_dim", "pooled_projection_dim", "d_model", "in_channels", "out_channels")
WIDTHS_OF_VAE = ("latent_channels", "in_channels", "out_channels")


@pytest.mark.parametrize("part", PUBLISHED)
def test_what_the_published_model_says_is_understood(copy, part):
    path = copy / part / "config.json"
    tiny = json.loads(path.read_text())
    kept = {key: tiny[key] for key in (WIDTHS_OF_VAE if part == "vae" else WIDTHS) if key in tiny}
    path.write_text(json.dumps(PUBLISHED[part] | kept))
    assert DIFFUSERS.capabilities(str(copy)) == LATENT_DIFFUSION


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer", {"qk_norm": "layer_norm"}, "its qk_norm is 'layer_norm', none of rms_norm"),
        ("transformer", {"guidance_embeds": True}, "its guidance_embeds = True is not understood"),
        ("transformer", {"_class_name": "FluxTransformer2DModel"}, "none of SD3Transformer2DModel"),
        ("transformer", {"in_channels": 33}, "takes 33 channels and its VAE makes 4"),
        ("transformer", {"out_channels": 8}, "gives 8 channels and its VAE makes 4"),
        ("transformer", {"joint_attention_dim": 64}, "reads texts of width 64, its text encoders"),
        ("transformer", {"pooled_projection_dim": 16}, "pooled texts of width 16, .* 12 and 20"),
        ("vae", {"latents_mean": [0, 0, 0, 0]}, "it wants latents that are centred"),
        ("text_encoder", {"architectures": ["CLIPTextModel"]}, "is a CLIPTextModel, none of CL"),
        ("text_encoder_3", {"architectures": ["UMT5EncoderModel"]}, "is a UMT5EncoderModel, none"),
        ("text_encoder_3", {"new": 1}, "its new = 1 is not understood"),
        ("scheduler", {"stochastic_sampling": True}, "its stochastic_sampling is True, none of"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "scheduler_config.json: it is a .*DDIM"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(copy, file, change, message):
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    says(copy / file / name, **change)
    if "_class_name" in change and file == "scheduler":
        (copy / "model_index.json").unlink()
    with pytest.raises(UserError, match=message) as caught:
        DIFFUSERS.capabilities(str(copy))
    assert f"{copy}" in str(caught.value)


def test_weights_of_other_shapes_are_named(copy):
    for part, key, message in (
        ("transformer", "pos_embed.proj.weight", "takes 2 channels, and transformer/config.json"),
        ("text_encoder_3", "shared.weight", r"tokenizer_3/tokenizer.json: token '.*' has the id"),
    ):
        [file] = (copy / part).glob("*.safetensors")
        weights = load_file(file)
        cut = weights | {key: weights[key][:, :2] if weights[key].ndim == 4 else weights[key][:9]}
        save_file({k: v.contiguous() for k, v in cut.items()}, file, {"format": "pt"})
        with pytest.raises(UserError, match=message):
            DIFFUSERS.capabilities(str(copy))
        save_file(weights, file, {"format": "pt"})


def test_texts_are_checked_for_every_text_encoder(copy, directory):
    texts = ["a dog", "a " * (LENGTH - 2)]
    DIFFUSERS.check_texts(str(directory), texts)
    with pytest.raises(UserError, match=f"reads {LENGTH}: shorten it"):
        DIFFUSERS.check_texts(str(directory), ["a " * LENGTH])
    says(copy / "tokenizer_3/tokenizer_config.json", model_max_length=6)
    with pytest.raises(UserError, match="has 11 tokens, but '.*' reads 6"):
        DIFFUSERS.check_texts(str(copy), texts)
    with pytest.raises(UserError, match="reads 6"):
        load_backbone(str(copy), device="cpu").encode(texts)


def test_identifiers_are_single_tokens_of_clip_alone(directory):
    assert "sks" in DIFFUSERS.rare_words(str(directory))
    assert DIFFUSERS.token(str(directory), "sks") is not None
    assert DIFFUSERS.token(str(directory), "teapots") is None


@pytest.mark.more
@pytest.mark.parametrize("model", ["sd35-medium", "sd35-large"])
def test_the_named_models_are_known_without_being_here(model, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert DIFFUSERS.capabilities(model) == LATENT_DIFFUSION
    DIFFUSERS.check_sampler(model, Sampler("own", 28, 4.5))
    with pytest.raises(
        UserError, match="scheduler 'ddim' cannot draw .* choose flow-euler, or own"
    ):
        DIFFUSERS.check_sampler(model, Sampler("ddim", 28, 4.5))
    DIFFUSERS.check_texts(model, ["a sks dog on a cobblestone street"])
    with pytest.raises(UserError, match="reads 77"):
        DIFFUSERS.check_texts(model, ["a sks dog " * 77])
    assert DIFFUSERS.token(model, "sks") == 48136


def test_weights_and_sizes_are_checked_before_anything_runs(copy):
    model = str(copy)
    DIFFUSERS.fetch(model)
    DIFFUSERS.check_resolution(model, None)
    DIFFUSERS.check_words(model, ["sks"])
    with pytest.raises(UserError, match="'teapots' is . tokens of"):
        DIFFUSERS.check_words(model, ["teapots"])
    with pytest.raises(UserError, match="model '.*': backbone.resolution is 40, .* most 32 pixels"):
        DIFFUSERS.check_resolution(model, 40)
    says(copy / "transformer/config.json", sample_size=5)
    with pytest.raises(UserError, match="sample_size in transformer/config.json is 5, which makes"):
        DIFFUSERS.check_resolution(model, None)
    [file] = (copy / "text_encoder_3").glob("*.safetensors")
    weights = load_file(file)
    both = weights | {"encoder.embed_tokens.weight": weights["shared.weight"].clone()}
    save_file(both, file, {"format": "pt"})
    DIFFUSERS.fetch(model)
    norm = "encoder.final_layer_norm.weight"
    save_file({k: v for k, v in weights.items() if k != norm}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"text_encoder_3 lacks 1 weights, {norm} among them"):
        DIFFUSERS.fetch(model)
