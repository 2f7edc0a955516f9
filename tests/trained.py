"""Checkpoints as other trainers leave them, made by diffusers and peft themselves, or by hand."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tests.reference import finetuning

LAYERS = {
    "denoiser": ["to_q", "to_v", "to_out.0"],
    "text": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"],
}


def save_lora(pipe: Any, folder: Path, *, seed: int = 0, name: str | None = None) -> Path:
    """By the pipeline's own `save_lora_weights`, as diffusers' scripts do. Noise for weights."""
    torch.manual_seed(seed)
    part, denoiser = finetuning.denoiser(pipe)
    config = LoraConfig(r=3, lora_alpha=3, target_modules=LAYERS["denoiser"])
    denoiser.add_adapter(noisy(config), adapter_name="made")
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(denoiser, adapter_name="made")}
    text = pipe.text_encoder
    text.add_adapter(noisy(LoraConfig(r=2, lora_alpha=2, target_modules=LAYERS["text"])), "made")
    learned = get_peft_model_state_dict(text, adapter_name="made")
    layers["text_encoder_lora_layers"] = convert_state_dict_to_diffusers(learned)
    type(pipe).save_lora_weights(folder, weight_name=name, **layers)
    pipe.unload_lora_weights()
    return folder / (name or "pytorch_lora_weights.safetensors")


def noisy(config: LoraConfig) -> LoraConfig:
    """One whose weights begin as noise, all of them."""
    config.init_lora_weights = False
    return config


def layers_of(lora: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    """A LoRA file of diffusers, by layer: "unet.x.to_q", "down" or "up", and the tensor."""
    for name, tensor in load_file(lora).items():
        found = re.fullmatch(
            r"(.*?)\.(?:lora_linear_layer\.)?(lora_A|lora_B|down|up)\.weight", name
        )
        assert found, name
        yield found[1], {"lora_A": "down", "lora_B": "up"}.get(found[2], found[2]), tensor


def as_kohya(lora: Path, path: Path, alphas: Mapping[str, float], **metadata: str) -> Path:
    """A LoRA file of diffusers written as sd-scripts write it.

    `alphas`: the end of a layer's name -> its alpha; others have their rank.
    """
    found: dict[str, torch.Tensor] = {}
    for layer, which, tensor in layers_of(lora):
        part, _, inside = layer.partition(".")
        if part == "text_encoder":
            inside = inside if inside.startswith("text_model.") else f"text_model.{inside}"
            prefix = "lora_te"
        else:
            prefix = "lora_unet"
        key = f"{prefix}_{inside.replace('.', '_')}"
        found[f"{key}.lora_{which}.weight"] = tensor
        if which == "down":
            end = inside.rpartition(".")[2]
            found[f"{key}.alpha"] = torch.tensor(float(alphas.get(end, len(tensor))))
    save_file(found, path, metadata or None)
    return path


def save_peft(pipe: Any, folder: Path, config: Any, *, seed: int = 0) -> Path:
    """By peft's own `save_pretrained`, of the denoiser."""
    torch.manual_seed(seed)
    _, denoiser = finetuning.denoiser(pipe)
    model = get_peft_model(denoiser, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    model.unload()
    return folder


def as_snapshot(folder: Path, cache: Path) -> Path:
    """The files of `folder` as huggingface_hub keeps them in `cache`: links, named by content."""
    repository = cache / "models--someone--trained"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / ("0" * 40)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def save_unet(pipe: Any, folder: Path, *, seed: int = 0) -> Path:
    """The U-Net and the text encoder, noise on their weights, as full fine-tuning saves them."""
    torch.manual_seed(seed)
    for module in (pipe.unet, pipe.text_encoder):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * parameter.abs().mean() * torch.randn(parameter.shape))
    pipe.unet.save_pretrained(folder / "unet")
    pipe.text_encoder.save_pretrained(folder / "text_encoder")
    return folder
