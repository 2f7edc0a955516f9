"""What public checkpoints say of themselves is understood; what is wrong with others is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.models.files.configuration import check_configuration, known
from benchmark.models.files.diffusers_layout import configuration_file
from tests.tiny_pipeline import save_tiny_pipeline

FILES = {part: configuration_file(part) for part in ("unet", "vae", "text_encoder", "scheduler")}
BLOCKS = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
}
VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
}
TEXTS = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
    "vocab_size": 49408,
}
CLIP_L = TEXTS | {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "torch_dtype": "float32",
}
#: As these repositories of GitHub hold them, by part.
PUBLIC = [
    # wswplay/stable-diffusion-v1-4
    (
        "unet",
        {
            "_class_name": "FlaxUNet2DConditionModel",
            "_diffusers_version": "0.5.0.dev0",
            "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "dropout": 0.0,
            "sample_size": 64,
        },
    ),
    (
        "vae",
        VAE
        | {
            "_class_name": "FlaxAutoencoderKL",
            "_diffusers_version": "0.5.0.dev0",
            "sample_size": 512,
        },
    ),
    (
        "text_encoder",
        CLIP_L
        | {"_name_or_path": "openai/clip-vit-large-patch14", "transformers_version": "4.23.1"},
    ),
    # jack-op11/stable-diffusion-2-1-base
    (
        "unet",
        BLOCKS
        | {
            "_class_name": "UNet2DConditionModel",
            "_diffusers_version": "0.10.0.dev0",
            "_name_or_path": "./stability/stable-diffusion-2-1-base/unet",
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "dual_cross_attention": False,
            "num_class_embeds": None,
            "only_cross_attention": False,
            "sample_size": 64,
            "use_linear_projection": True,
        },
    ),
    (
        "text_encoder",
        TEXTS
        | {
            "_name_or_path": "./stability/stable-diffusion-2-1-base/text_encoder",
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "projection_dim": 512,
            "torch_dtype": "float16",
            "transformers_version": "4.26.0.dev0",
        },
    ),
    # jartemio/The_Owl_Characters_V2
    (
        "unet",
        BLOCKS
        | {
            "_class_name": "UNet2DConditionModel",
            "_diffusers_version": "0.13.0",
            "attention_head_dim": 8,
            "class_embed_type": None,
            "conv_in_kernel": 3,
            "conv_out_kernel": 3,
            "cross_attention_dim": 768,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "projection_class_embeddings_input_dim": None,
            "resnet_time_scale_shift": "default",
            "sample_size": 64,
            "time_cond_proj_dim": None,
            "time_embedding_type": "positional",
            "timestep_post_act": None,
            "upcast_attention": False,
        },
    ),
    # smbands/realistic-vision-v51
    (
        "vae",
        VAE
        | {
            "_class_name": "AutoencoderKL",
            "_diffusers_version": "0.21.2",
            "force_upcast": True,
            "sample_size": 512,
            "scaling_factor": 0.18215,
        },
    ),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_tiny_pipeline(tmp_path / "tiny")


@pytest.mark.parametrize(("part", "configuration"), PUBLIC)
def test_what_public_checkpoints_say_is_understood(directory, part, configuration):
    path = directory / FILES[part]
    tiny = json.loads(path.read_text())
    widths = {key: tiny[key] for key in ("cross_attention_dim", "hidden_size") if key in tiny}
    path.write_text(json.dumps(configuration | widths))
    check_configuration(directory)


def test_a_model_that_was_just_saved_is_understood(directory):
    check_configuration(directory)
    shutil.rmtree(directory / "tokenizer")
    (directory / "model_index.json").unlink()
    check_configuration(directory)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("unet/config.json", "{", "unet/config.json cannot be read as JSON"),
        ("vae/config.json", "[]", "vae/config.json should hold a JSON object, not list"),
        ("model_index.json", '{"vae": ["diffusers", "VQModel"]}', "its vae is a VQModel, none of"),
        ("text_encoder/config.json", '{"architectures": ["RobertaModel"]}', "is a RobertaModel"),
        (
            "text_encoder/config.json",
            '{"model_type": "t5"}',
            "its model_type is 't5', none of",
        ),
        ("tokenizer/added_tokens.json", '{"<toy>": 9999}', "token '<toy>' has the id 9999"),
    ],
)
def test_files_that_are_wrong_are_named(directory, file, content, message):
    (directory / file).write_text(content)
    with pytest.raises(UserError, match=message):
        check_configuration(directory)


@pytest.mark.parametrize(
    ("part", "key"), [(part, key) for part in FILES for key in known()[part]["wanted"]]
)
def test_each_want_is_refused_and_null_is_none(directory, part, key):
    path = directory / FILES[part]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: None}))
    check_configuration(directory)
    path.write_text(json.dumps(content | {key: 1}))
    with pytest.raises(UserError, match=f"{FILES[part]}: its {key} is 1: it wants "):
        check_configuration(directory)
