"""What is known of a Stable unCLIP before it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from safetensors.torch import load_file, save_file

from benchmark.api import IMAGE_EMBEDDING, TEXT_TO_IMAGE, Sampler, UserError
from benchmark.models.files.identity import backbone_id, worker_memory
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import SIGHT, save_tiny_pipeline, save_tiny_unclip, says

CAN = {TEXT_TO_IMAGE, IMAGE_EMBEDDING}
PROCESSOR = "feature_extractor/preprocessor_config.json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_unclip(tmp_path_factory.mktemp("models") / "unclip")


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "unclip")


def test_it_is_known_by_its_index_or_else_by_its_folders(copy):
    for _ in range(2):
        assert DIFFUSERS.capabilities(str(copy)) == CAN
        DIFFUSERS.check_sampler(str(copy), Sampler("own", 20, 10.0))
        DIFFUSERS.fetch(str(copy))
        backbone = load_backbone(str(copy), device="cpu")
        assert isinstance(backbone.pipeline, StableUnCLIPImg2ImgPipeline)
        (copy / "model_index.json").unlink(missing_ok=True)


def test_a_plain_stable_diffusion_has_no_image_encoder(copy, tmp_path):
    plain = save_tiny_pipeline(tmp_path / "plain")
    assert IMAGE_EMBEDDING not in DIFFUSERS.capabilities(str(plain))
    (plain / "model_index.json").unlink()
    assert IMAGE_EMBEDDING not in DIFFUSERS.capabilities(str(plain))
    (plain / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')
    lacks = "it lacks feature_extractor, image_encoder, image_noising_scheduler, image_normalizer"
    with pytest.raises(UserError, match=lacks):
        DIFFUSERS.capabilities(str(plain))
    (copy / PROCESSOR).unlink()
    with pytest.raises(UserError, match=f"it lacks {PROCESSOR}"):
        DIFFUSERS.capabilities(str(copy))


def test_the_one_with_a_prior_is_another(copy):
    says(copy / "model_index.json", _class_name="StableUnCLIPPipeline")
    with pytest.raises(UserError, match="this is a StableUnCLIP model"):
        DIFFUSERS.capabilities(str(copy))


def test_every_part_is_its_identity(copy):
    found = {backbone_id(str(copy))}
    changes = [
        (PROCESSOR, {"image_std": [0.5, 0.5, 0.5]}),
        ("image_noising_scheduler/scheduler_config.json", {"beta_schedule": "linear"}),
        ("image_encoder/config.json", {"hidden_act": "gelu"}),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}),
    ]
    for file, change in changes:
        says(copy / file, **change)
        found.add(backbone_id(str(copy)))
    parts = ("unet", "vae", "text_encoder", "image_encoder")
    for part in parts:
        [weights] = (copy / part).glob("*.safetensors")
        save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        found.add(backbone_id(str(copy)))
    [statistics] = (copy / "image_normalizer").glob("*.safetensors")
    for name in ("mean", "std"):
        tensors = load_file(statistics)
        save_file(tensors | {name: tensors[name] + 1}, statistics, {"format": "pt"})
        found.add(backbone_id(str(copy)))
    assert len(found) == 1 + len(changes) + len(parts) + 2


def test_all_parts_count_in_its_memory(directory):
    backbone = load_backbone(str(directory), device="cpu")
    parameters = sum(p.numel() for m in backbone.modules().values() for p in m.parameters())
    assert worker_memory(str(directory)) - 12 * 10**8 == 16 * parameters


#: As diffusers' conversion writes Stability AI's v2-1-stable-unclip-h-inference.yaml, and as
#: transformers 4 wrote the configuration of CLIP ViT-H/14 and its preprocessor.
WRITTEN = {
    "unet/config.json": {
        "act_fn": "silu",
        "addition_embed_type": None,
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280],
        "class_embed_type": "projection",
        "dual_cross_attention": False,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "sample_size": 96,
        "upcast_attention": None,
        "use_linear_projection": True,
    },
    "image_encoder/config.json": {
        "_name_or_path": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 32,
        "torch_dtype": "float32",
        "transformers_version": "4.28.0.dev0",
    },
    PROCESSOR: {
        "crop_size": SIGHT,
        "do_rescale": None,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_processor_type": None,
        "rescale_factor": None,
        "size": SIGHT,
    },
}


@pytest.mark.parametrize("file", WRITTEN)
def test_what_converted_models_say_is_understood(copy, file):
    says(copy / file, **WRITTEN[file])
    assert DIFFUSERS.capabilities(str(copy)) == CAN


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"class_embed_type": None}, "class_embed_type is None, and has to be"),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 6},
            "class embeddings of width 6, and an image's embedding and its noise level have 6 each",
        ),
        ("image_normalizer/config.json", {"embedding_dim": 7}, "of width 7, and .* makes 6"),
        ("image_encoder/config.json", {"new": 1}, "its new = 1 is not understood"),
        ("image_encoder/config.json", {"architectures": ["CLIPModel"]}, "it is a CLIPModel, none"),
        ("image_encoder/config.json", {"image_size": 224}, "size = .*encoder takes 224 pixels"),
        (PROCESSOR, {"do_center_crop": False}, "its do_center_crop is False, none of True"),
        (PROCESSOR, {"resample": 2}, "its resample is 2, none of 3"),
        (PROCESSOR, {"image_mean": [0.5]}, "image_mean = .0.5., and not three numbers"),
        (PROCESSOR, {"size": {"height": SIGHT}}, "has size = .*, and its image_encoder takes 8"),
        (
            "image_noising_scheduler/scheduler_config.json",
            {"prediction_type": "sample"},
            "its prediction_type is 'sample', none of epsilon",
        ),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(copy, file, change, message):
    says(copy / file, **change)
    with pytest.raises(UserError, match=message) as caught:
        DIFFUSERS.capabilities(str(copy))
    assert f"{copy}" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("image_encoder", "vision_model.post_layernorm.bias"),
        ("image_encoder", "visual_projection.weight"),
        ("image_normalizer", "std"),
    ],
)
def test_a_weight_that_is_missing_is_named(copy, part, weight):
    [file] = (copy / part).glob("*.safetensors")
    found = load_file(file)
    lost = found.pop(weight)
    save_file(found, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{part} lacks 1 weights, {weight} among them"):
        DIFFUSERS.fetch(str(copy))
    save_file(found | {weight: torch.full_like(lost, torch.nan)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"the tensor {weight} holds NaN"):
        DIFFUSERS.fetch(str(copy))


def test_the_named_model_is_known_without_being_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert DIFFUSERS.identify("stable-unclip") == "stable-unclip@e99f66a92bdc"
    assert DIFFUSERS.capabilities("stable-unclip") == CAN
    DIFFUSERS.check_sampler("stable-unclip", Sampler("ddim", 50, 10.0))
    DIFFUSERS.check_texts("stable-unclip", ["a dog on a cobblestone street"])
    with pytest.raises(UserError, match="reads 77"):
        DIFFUSERS.check_texts("stable-unclip", ["a dog " * 77])
