"""IP-Adapters of random weights for tiny models, in the layout of h94/IP-Adapter.

table = save_tiny_adapter(tmp_path / "adapter", directory)      # of the model in `directory`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

#: Of the image encoder: its images, its states, its embeddings.
SIDE, HIDDEN, EMBEDDED = 16, 24, 20
WEIGHTS = "models/ip-adapter.safetensors"


def save_tiny_adapter(folder: Path, model: Path, *, plus: bool = False) -> dict[str, Any]:
    """Save one for the U-Net of `model` under `folder`; its table in a suite."""
    torch.manual_seed(7)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=HIDDEN,
            intermediate_size=32,
            projection_dim=EMBEDDED,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
        )
    )
    encoder.half().save_pretrained(folder / "models" / "image_encoder")
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    read = unet.config.cross_attention_dim
    projection = resampler(read) if plus else plain(read)
    tensors = {f"image_proj.{name}": tensor for name, tensor in projection.items()}
    others = [name for name in unet.attn_processors if "attn1" not in name]
    for number, name in enumerate(others):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for what in ("k", "v"):  # large enough to be seen in an image
            key = f"ip_adapter.{2 * number + 1}.to_{what}_ip.weight"
            tensors[key] = torch.randn(width, read)
    save_file({k: v.half().contiguous() for k, v in tensors.items()}, folder / WEIGHTS)
    return {
        "kind": "ip-adapter",
        "model": f"{folder}/",
        "weights": WEIGHTS,
        "image_encoder": "models/image_encoder",
    }


def plain(read: int) -> dict[str, Tensor]:
    """Four words of width `read` of one embedding."""
    return {
        "proj.weight": torch.randn(4 * read, EMBEDDED),
        "proj.bias": torch.randn(4 * read),
        "norm.weight": torch.ones(read),
        "norm.bias": torch.zeros(read),
    }


def resampler(read: int) -> dict[str, Tensor]:
    """As of `ip-adapter-plus`: three words that look at an image's patches, in four layers."""
    wide, inside = 16, 64
    found = {
        "latents": torch.randn(1, 3, wide),
        "proj_in.weight": torch.randn(wide, HIDDEN),
        "proj_in.bias": torch.randn(wide),
        "proj_out.weight": torch.randn(read, wide),
        "proj_out.bias": torch.randn(read),
        "norm_out.weight": torch.ones(read),
        "norm_out.bias": torch.zeros(read),
    }
    for layer in range(4):
        at = f"layers.{layer}"
        for norm in ("0.norm1", "0.norm2", "1.0"):
            found |= {
                f"{at}.{norm}.weight": torch.ones(wide),
                f"{at}.{norm}.bias": torch.zeros(wide),
            }
        found |= {
            f"{at}.0.to_q.weight": torch.randn(inside, wide) / 4,
            f"{at}.0.to_kv.weight": torch.randn(2 * inside, wide) / 4,
            f"{at}.0.to_out.weight": torch.randn(wide, inside) / 8,
            f"{at}.1.1.weight": torch.randn(4 * wide, wide) / 4,
            f"{at}.1.3.weight": torch.randn(wide, 4 * wide) / 8,
        }
    return found
