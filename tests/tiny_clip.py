"""A CLIP of a few thousand random numbers, in transformers' layout and in open_clip's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from benchmark.pocket.vocabulary import build_tokenizer, save_tokenizer

SIZE, WIDTH = 32, 32  #: of its images in pixels, and of its states and embeddings
LAYERS, PATCH, LENGTH = 3, 8, 16
WORDS = [
    "a",
    "dog",
    "vase",
    "red",
    "in",
    "the",
    "snow",
    "photo",
    "of",
    "picture",
    "green",
    "screen",
    "over",
    "front",
]


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Weights, configuration, vocabulary and preprocessing."""
    tokenizer = build_tokenizer(WORDS)
    torch.manual_seed(seed)
    ids = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    small = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    config = CLIPConfig(
        text_config=text | small | ids | {"pad_token_id": ids["eos_token_id"]},
        vision_config=small | {"image_size": SIZE, "patch_size": PATCH},
        projection_dim=WIDTH,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # as if trained: layers begin with biases of 0 and gains of 1
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    sizes = {"shortest_edge": SIZE}, {"height": SIZE, "width": SIZE}
    CLIPImageProcessor(size=sizes[0], crop_size=sizes[1]).save_pretrained(folder)
    return folder


def save_as_open_clip(clip: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The same model as open_clip keeps it: renamed, joined and transposed, one file of weights."""
    tensors = CLIPModel.from_pretrained(clip).state_dict()
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(_open_clip_config()))
    (folder / "tokenizer_config.json").write_bytes((clip / "tokenizer_config.json").read_bytes())
    found = {
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "text_projection": tensors["text_projection.weight"].T,
        "logit_scale": tensors["logit_scale"],
        "visual.class_embedding": tensors["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": tensors["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": tensors["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": tensors["visual_projection.weight"].T,
    }
    found |= _norm(tensors, "text_model.final_layer_norm", "ln_final")
    found |= _norm(tensors, "vision_model.pre_layrnorm", "visual.ln_pre")
    found |= _norm(tensors, "vision_model.post_layernorm", "visual.ln_post")
    for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
        for layer in range(LAYERS):
            old = f"{tower}.encoder.layers.{layer}"
            found |= _block(tensors, old, f"{prefix}transformer.resblocks.{layer}")
    kept = {name: tensor.to(dtype).contiguous() for name, tensor in found.items()}
    save_file(kept, folder / "open_clip_model.safetensors")
    return folder


def _norm(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{part}": tensors[f"{old}.{part}"] for part in ("weight", "bias")}


def _block(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    found = _norm(tensors, f"{old}.layer_norm1", f"{new}.ln_1")
    found |= _norm(tensors, f"{old}.layer_norm2", f"{new}.ln_2")
    found |= _norm(tensors, f"{old}.mlp.fc1", f"{new}.mlp.c_fc")
    found |= _norm(tensors, f"{old}.mlp.fc2", f"{new}.mlp.c_proj")
    found |= _norm(tensors, f"{old}.self_attn.out_proj", f"{new}.attn.out_proj")
    for part in ("weight", "bias"):
        joined = [tensors[f"{old}.self_attn.{one}_proj.{part}"] for one in "qkv"]
        found[f"{new}.attn.in_proj_{part}"] = torch.cat(joined)
    return found


def _open_clip_config() -> dict[str, object]:
    vision = {"image_size": SIZE, "layers": LAYERS, "width": WIDTH, "head_width": WIDTH // 2}
    text = {"context_length": LENGTH, "vocab_size": len(build_tokenizer(WORDS)), "width": WIDTH}
    text |= {"heads": 2, "layers": LAYERS, "mlp_ratio": 2.0, "hf_tokenizer_name": "tiny"}
    config = {
        "embed_dim": WIDTH,
        "quick_gelu": True,
        "vision_cfg": vision | {"patch_size": PATCH, "mlp_ratio": 2.0},
        "text_cfg": text,
    }
    return {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
