"""Single files in the original layout against the diffusers modules they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmark.api import Sampler, UserError
from benchmark.models.files import single_file, single_file_header
from benchmark.models.files.header import Header
from benchmark.models.files.identity import SingleFile, backbone_id
from benchmark.models.files.single_file_header import Description
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.reference import ldm_layout
from tests.tiny_pipeline import XL_SCHEDULER

#: Parameters of the true models, as published with them.
PARAMETERS = {
    "1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "xl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}
#: So many tensors of a U-Net.
TENSORS = {"1": 686, "2": 686, "xl": 1680}
#: Some tensors of `v1-5-pruned.safetensors`, `v2-1_768-ema-pruned.safetensors` and
#: `sd_xl_base_1.0.safetensors`.
SHAPES = {
    "1": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 768),
        "model.diffusion_model.input_blocks.9.0.op.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    },
    "2": {
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
        "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (
            320,
            1024,
        ),
        "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024),
        "cond_stage_model.model.positional_embedding": (77, 1024),
    },
    "xl": {
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
        "model.diffusion_model.input_blocks.4.1.proj_in.weight": (640, 640),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (
            640,
            2048,
        ),
        "model.diffusion_model.middle_block.1.transformer_blocks.9.norm1.weight": (1280,),
        "model.diffusion_model.output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (
            77,
            768,
        ),
        "conditioner.embedders.1.model.positional_embedding": (77, 1280),
        "conditioner.embedders.1.model.text_projection": (1280, 1280),
        "conditioner.embedders.1.model.transformer.resblocks.31.mlp.c_proj.bias": (1280,),
    },
}
TEXTS, SEEDS = ["a sks dog", "a photo of a cat!"], [3, 4]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same structure with few channels."""
    channels = {"block_out_channels": (32, 64), "cross_attention_dim": 32}
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    first = channels | blocks | {"attention_head_dim": 4}
    second = channels | blocks | {"attention_head_dim": (2, 4), "use_linear_projection": True}
    third = second | {
        "cross_attention_dim": 32 + 40,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }
    monkeypatch.setattr(single_file, "UNET", {"1": first, "2": second, "xl": third})
    vae = {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    monkeypatch.setattr(single_file, "VAE", vae)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    texts = {
        "1": text | {"num_hidden_layers": 2},
        "2": text | {"num_hidden_layers": 3, "hidden_act": "gelu"},
        "xl": text | {"num_hidden_layers": 2},
    }
    second = {"hidden_size": 40, "num_hidden_layers": 3, "hidden_act": "gelu"}
    monkeypatch.setattr(single_file, "TEXT_ENCODER_2", text | second | {"projection_dim": 24})
    monkeypatch.setattr(single_file, "TEXT_ENCODER", texts)
    sizes = {("1", "epsilon"): 8, ("2", "epsilon"): 8, ("2", "v_prediction"): 12}
    sizes |= {("xl", "epsilon"): 8}
    monkeypatch.setattr(single_file, "SAMPLE_SIZE", sizes)


@dataclass
class Original:
    """A model in the original layout, and diffusers' pipeline of the same weights."""

    weights: dict[str, torch.Tensor]
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline


def original(generation: str, prediction: str) -> Original:
    torch.manual_seed(0)
    size, scaling = single_file.SAMPLE_SIZE[generation, prediction], 0.18215
    parts = {
        "unet": UNet2DConditionModel(sample_size=size, **single_file.UNET[generation]),
        "tokenizer": single_file.clip_tokenizer(pad="!" if generation == "2" else "<|endoftext|>"),
        "text_encoder": CLIPTextModel(configuration(single_file.TEXT_ENCODER[generation])).eval(),
    }
    kind, options = StableDiffusionPipeline, {"requires_safety_checker": False}
    options |= {"safety_checker": None, "feature_extractor": None}
    if generation == "xl":
        second = CLIPTextModelWithProjection(configuration(single_file.TEXT_ENCODER_2)).eval()
        parts |= {"text_encoder_2": second, "tokenizer_2": single_file.clip_tokenizer(pad="!")}
        kind, options, scaling = StableDiffusionXLPipeline, {"add_watermarker": False}, 0.13025
    vae = AutoencoderKL(sample_size=2 * size, scaling_factor=scaling, **single_file.VAE)
    with torch.no_grad():
        for name in parts.keys() & {"text_encoder", "text_encoder_2"}:
            parts[name].get_input_embeddings().weight.mul_(30)
        vae.decoder.conv_out.weight.mul_(4)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    pipe = kind(vae=vae, scheduler=scheduler, **parts, **options)
    pipe.set_progress_bar_config(disable=True)
    return Original(in_original_layout(pipe.components, generation), pipe)


def configuration(settings: dict) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        **settings,
    )


def in_original_layout(parts: dict, generation: str) -> dict[str, torch.Tensor]:
    if generation == "xl":
        both = (parts[name].state_dict() for name in ("text_encoder", "text_encoder_2"))
        text = ldm_layout.original_xl_text_encoders(*both)
    else:
        text = ldm_layout.original_text_encoder(parts["text_encoder"].state_dict(), generation)
    return {
        **ldm_layout.original_unet(
            parts["unet"].state_dict(), parts["unet"].config.layers_per_block
        ),
        **ldm_layout.original_vae(parts["vae"].state_dict()),
        **text,
        "betas": torch.zeros(1000),
        "model_ema.decay": torch.zeros(()),
    }


def save(weights: dict[str, torch.Tensor], path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


@pytest.mark.parametrize(
    ("generation", "prediction", "said"),
    [
        ("1", "epsilon", ""),
        ("1", "epsilon", "@epsilon"),
        ("2", "epsilon", "@epsilon"),
        ("2", "v_prediction", "@v_prediction"),
        ("xl", "epsilon", ""),
    ],
)
def test_images_are_those_of_the_pipeline_the_file_was_made_from(
    tiny, tmp_path, generation, prediction, said
):
    made = original(generation, prediction)
    path = save(made.weights, tmp_path / "model.safetensors")
    DIFFUSERS.fetch(f"{path}{said}")
    backbone = load_backbone(f"{path}{said}", precision="fp32", device="cpu")
    side = 24 if prediction == "v_prediction" else 16
    expected = made.pipe(
        TEXTS,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    images = backbone.sample(backbone.encode(TEXTS), SEEDS, sampler=Sampler("ddim", 3, 4.0))
    assert images.shape == expected.shape == (2, 3, side, side)
    assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.05
    assert made.pipe.vae.config.scaling_factor == backbone.pipeline.vae.config.scaling_factor
    for name in backbone.modules():
        ours, theirs = (
            getattr(owner, name).state_dict() for owner in (backbone.pipeline, made.pipe)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("generation", PARAMETERS)
def test_the_true_configurations_have_the_true_models_sizes_and_names(monkeypatch, generation):
    prediction = "v_prediction" if generation == "2" else "epsilon"
    with torch.device("meta"):
        parts = single_file.empty_modules(generation, prediction)
        parts |= {name: parts[name].to("meta") for name in parts}
        weights = in_original_layout(parts, generation)
        for name, shape in SHAPES[generation].items():
            assert tuple(weights[name].shape) == shape
        assert (
            len([name for name in weights if name.startswith("model.diff")]) == TENSORS[generation]
        )
        assert len([name for name in weights if name.startswith("first_stage_model.")]) == 248
        monkeypatch.setattr(single_file, "load_file", lambda path: weights)
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        header = Header(Path("true.safetensors"), shapes, frozenset(), {})
        monkeypatch.setattr(single_file_header, "read_header", lambda path: header)
        parts = single_file.read_single_file(SingleFile(Path("true.safetensors"), prediction))
    for name, count in PARAMETERS[generation].items():
        assert sum(p.numel() for p in parts.modules[name].parameters()) == count
    sizes = {"1": 64, "2": 96, "xl": 128}
    assert parts.modules["unet"].config.sample_size == sizes[generation]


def test_the_schedule_of_an_xl_is_the_published_one():
    found = single_file_header.scheduler_of(Description("xl", "epsilon", False))
    assert found == {key: XL_SCHEDULER[key] for key in found}


def test_what_a_file_cannot_say_has_to_be_said(tiny, tmp_path):
    path = save(original("2", "epsilon").weights, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match=r"say which, two.safetensors@epsilon or two.safetens"):
        load_backbone(str(path), device="cpu")


def test_the_id_is_of_the_content_and_of_what_was_said(tiny, tmp_path):
    weights = {"anything": torch.zeros(3)}
    path = save(weights, tmp_path / "model.safetensors")
    ids = {backbone_id(f"{path}{said}") for said in ("", "@epsilon", "@v_prediction")}
    assert len(ids) == 3 and all(name.startswith("model@") for name in ids)
    other = save({"anything": torch.ones(3)}, tmp_path / "other.safetensors")
    assert backbone_id(str(other)).partition("@")[2] not in {i.partition("@")[2] for i in ids}


def test_broken_and_foreign_files_are_named(tiny, tmp_path):
    made = original("1", "epsilon")

    def refusal(name: str, weights: dict[str, torch.Tensor]) -> str:
        path = save(weights, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=rf"{name}\.safetensors") as caught:
            load_backbone(str(path), device="cpu")
        return str(caught.value)

    unet = {k: v for k, v in made.weights.items() if k.startswith("model.")}
    assert "no whole Stable Diffusion 1 or 2 or Stable Diffusion XL" in refusal("unet", unet)
    foreign = {
        "conditioner.embedders.0.model.ln_final.bias": "Stable Diffusion XL refiner",
        "double_blocks.0.img_attn.norm.key_norm.scale": "FLUX",
    }
    for tensor, family in foreign.items():
        said = refusal("other", {tensor: torch.zeros(1)})
        assert f"this is a {family} model; known are Stable Diffusion 1 or 2, " in said
    for prefix in ("", "model.diffusion_model."):
        joint = {f"{prefix}joint_blocks.0.x_block.mlp.fc1.weight": torch.zeros(1)}
        said = refusal("joint", joint)
        assert "this is a Stable Diffusion 3 model, which is not read from a single file" in said
    lost = "model.diffusion_model.output_blocks.1.0.in_layers.0.weight"
    partial = {k: v for k, v in made.weights.items() if k != lost}
    assert "not of Stable Diffusion 1's shape" in refusal("partial", partial)
    with pytest.raises(UserError, match="not of Stable Diffusion 1's shape.* bring a whole check"):
        DIFFUSERS.fetch(str(tmp_path / "partial.safetensors"))  # by the header alone
    packed = made.weights | {lost: made.weights[lost].to(torch.int8)}
    with pytest.raises(UserError, match=f"{lost} holds whole numbers: its weights are packed"):
        DIFFUSERS.fetch(str(save(packed, tmp_path / "packed.safetensors")))
    DIFFUSERS.fetch(str(save(made.weights, tmp_path / "whole.safetensors")))
    entry = "model.diffusion_model.input_blocks.0.0.weight"
    inpainting = made.weights | {entry: torch.zeros(32, 9, 3, 3)}
    assert "takes 9 channels and its VAE makes 4: it is for inpainting" in refusal("i", inpainting)
    (tmp_path / "cut.safetensors").write_bytes(b"\x20\0\0")
    with pytest.raises(UserError, match="cut.safetensors is no safetensors file"):
        load_backbone(str(tmp_path / "cut.safetensors"), device="cpu")
    with pytest.raises(UserError, match="no such file .*none.safetensors"):
        load_backbone(str(tmp_path / "none.safetensors"), device="cpu")
    (tmp_path / "old.ckpt").write_bytes(b"anything")
    with pytest.raises(UserError, match="old.ckpt is a pickle"):
        load_backbone(str(tmp_path / "old.ckpt"), device="cpu")


def test_the_tokenizer_is_clips():
    ours, theirs = single_file.clip_tokenizer(), SimpleTokenizer()
    texts = ["a sks dog", "an ohwx backpack on a cobblestone street", "xxy5syt00!", "Café 3"]
    for text in texts:
        assert ours(text, add_special_tokens=False).input_ids == theirs.encode(text)
        padded = ours(text, padding="max_length", max_length=77).input_ids
        length = len(theirs.encode(text)) + 1
        assert padded[:length] == theirs(text)[0, :length].tolist()
        assert set(padded[length:]) == {49407}
    with_marks = single_file.clip_tokenizer(pad="!")
    assert with_marks("a", padding="max_length").input_ids[:5] == [49406, 320, 49407, 0, 0]
