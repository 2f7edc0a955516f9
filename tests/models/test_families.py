"""What is known of a family's model before it is loaded, by the example of an XL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline as XLPipeline
from safetensors.torch import load_file, save_file

from benchmark.api import Sampler, UserError
from benchmark.models.files.identity import backbone_id, worker_memory
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import LATENT_UNET, LENGTH, save_tiny_xl, says


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl(tmp_path_factory.mktemp("models") / "xl")


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "xl")


def test_the_kind_knows_it_by_its_index_or_else_by_its_folders(copy):
    for _ in range(2):
        assert DIFFUSERS.capabilities(str(copy)) == LATENT_UNET
        DIFFUSERS.check_sampler(str(copy), Sampler("own", 20, 5.0))
        assert isinstance(load_backbone(str(copy), device="cpu").pipeline, XLPipeline)
        (copy / "model_index.json").unlink(missing_ok=True)
    shutil.rmtree(copy / "tokenizer_2")
    with pytest.raises(UserError, match="it lacks tokenizer_2"):
        DIFFUSERS.capabilities(str(copy))


@pytest.mark.parametrize(
    ("named", "called"),
    [
        ("KandinskyPipeline", "this is a Kandinsky model"),
        ("StableDiffusion3Img2ImgPipeline", "this is a StableDiffusion3Img2Img model"),
        ("StableDiffusionXLInpaintPipeline", "this is a StableDiffusionXLInpaint model"),
        (["pipeline_mine", "MyPipeline"], "MyPipeline"),
    ],
)
def test_another_family_is_named_whatever_folders_it_has(tmp_path, named, called):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": named}))
    with pytest.raises(UserError, match="model_index.json: this is a ") as caught:
        DIFFUSERS.capabilities(str(tmp_path))
    assert called in str(caught.value) and "lacks" not in str(caught.value)
    assert "known are Stable Diffusion 1 or 2, Stable Diffusion XL" in str(caught.value)


def test_every_part_and_what_the_index_says_is_its_identity(copy):
    found = {backbone_id(str(copy))}
    changes = [
        ("model_index.json", {"force_zeros_for_empty_prompt": False}),
        ("text_encoder_2/config.json", {"hidden_act": "quick_gelu"}),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 11}),
        ("vae/config.json", {"force_upcast": False}),
    ]
    for file, change in changes:
        says(copy / file, **change)
        found.add(backbone_id(str(copy)))
    weights = copy / "text_encoder_2/model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    found.add(backbone_id(str(copy)))
    assert len(found) == len(changes) + 2
    says(copy / "model_index.json", _diffusers_version="0.1")
    assert backbone_id(str(copy)) in found, "of the index only what changes images"


def test_all_parts_count_in_what_training_takes(directory):
    backbone = load_backbone(str(directory), device="cpu")
    parameters = sum(p.numel() for m in backbone.modules().values() for p in m.parameters())
    assert worker_memory(str(directory)) - 12 * 10**8 == 16 * parameters


#: Of stabilityai/stable-diffusion-xl-base-1.0, as repositories of GitHub hold them.
PUBLISHED = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.19.0.dev0",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.25.0",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder_2": {
        "architectures": ["CLIPTextModelWithProjection"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "pad_token_id": 1,
        "torch_dtype": "float16",
        "transformers_version": "4.34.0",
        "vocab_size": 49408,
    },
}
#: What the parts have to agree on, so that the tiny model keeps its own.
WIDTHS = (
    "cross_attention_dim",
    "hidden_size",
    "projection_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)


@pytest.mark.parametrize("part", PUBLISHED)
def test_what_the_published_model_says_is_understood(copy, part):
    path = copy / part / "config.json"
    tiny = json.loads(path.read_text())
    kept = {key: tiny[key] for key in WIDTHS if key in tiny}
    path.write_text(json.dumps(PUBLISHED[part] | kept))
    assert DIFFUSERS.capabilities(str(copy)) == LATENT_UNET


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet", {"addition_embed_type": None}, "its addition_embed_type is None, and has to be"),
        ("unet", {"addition_embed_type": "image"}, "'image', and has to be 'text_time'"),
        ("unet", {"time_cond_proj_dim": 256}, "it wants an embedded guidance scale"),
        ("unet", {"cross_attention_dim": 16}, "reads texts of width 16, its text encoders make 16"),
        ("unet", {"addition_time_embed_dim": 8}, "second embedding of width 44, and a pooled text"),
        ("unet", {"in_channels": 9}, "takes 9 channels and its VAE makes 4 .it is for inpainting"),
        ("vae", {"latents_mean": [0, 0, 0, 0]}, "it wants latents that are centred"),
        ("text_encoder_2", {"architectures": ["CLIPTextModel"]}, "is a CLIPTextModel, none of CL"),
        ("text_encoder_2", {"new": 1}, "its new = 1 is not understood"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(copy, file, change, message):
    says(copy / file / "config.json", **change)
    with pytest.raises(UserError, match=message) as caught:
        DIFFUSERS.capabilities(str(copy))
    assert f"{copy}" in str(caught.value)


def test_each_vocabulary_has_its_table_and_its_limit(copy, directory):
    texts = ["a dog", "a " * (LENGTH - 2)]
    DIFFUSERS.check_texts(str(directory), texts)
    says(copy / "tokenizer_2/tokenizer_config.json", model_max_length=6)
    with pytest.raises(UserError, match="has 12 tokens, but '.*' reads 6"):
        DIFFUSERS.check_texts(str(copy), texts)
    with pytest.raises(UserError, match="reads 6"):
        load_backbone(str(copy), device="cpu").encode(texts)
    (copy / "tokenizer_2/added_tokens.json").write_text('{"<toy>": 9999}')
    with pytest.raises(UserError, match="tokenizer_2/added_tokens.json: token '<toy>'"):
        DIFFUSERS.capabilities(str(copy))


def test_every_part_is_whole_and_each_word_a_token_before_the_first_job(copy):
    DIFFUSERS.fetch(str(copy))
    DIFFUSERS.check_words(str(copy), ["sks", "ohwx"])
    with pytest.raises(UserError, match="'zwx' is 3 tokens"):
        DIFFUSERS.check_words(str(copy), ["zwx"])
    DIFFUSERS.check_resolution(str(copy), 24)
    with pytest.raises(UserError, match="resolution is 20, .*choose a multiple of 8"):
        DIFFUSERS.check_resolution(str(copy), 20)
    weights = copy / "text_encoder_2/model.safetensors"
    found = load_file(weights)
    lost = found.pop("text_projection.weight")
    save_file(found, weights, {"format": "pt"})
    with pytest.raises(UserError, match="text_encoder_2 lacks 1 weights, text_projection.weight"):
        DIFFUSERS.fetch(str(copy))
    save_file(found | {"text_projection.weight": lost[:-1].clone()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"text_projection.weight is \[19, 24\], and its config"):
        DIFFUSERS.fetch(str(copy))


def test_the_named_model_is_known_without_being_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert DIFFUSERS.identify("sdxl") == "sdxl@462165984030"
    assert DIFFUSERS.capabilities("sdxl") == LATENT_UNET
    DIFFUSERS.check_sampler("sdxl", Sampler("euler", 50, 5.0))
    DIFFUSERS.check_texts("sdxl", ["a sks dog on a cobblestone street"])
    with pytest.raises(UserError, match="reads 77"):
        DIFFUSERS.check_texts("sdxl", ["a sks dog " * 77])
