"""From a model's name to its Backbone: read, at a precision, on a device, for images of a size.

backbone = load_backbone("pocket", sampler=Sampler("ddim", steps=20, guidance=4.0))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor

from benchmark.api import UserError
from benchmark.models.checkpoints import mapped_weights, read_parts
from benchmark.models.identity import backbone_id
from benchmark.models.sampling import Sampler
from benchmark.models.stable_diffusion import PRECISIONS, Backbone


def load_backbone(
    model: str,
    *,
    precision: str = "auto",
    device: str = "auto",
    resolution: int | None = None,
    sampler: Sampler | None = None,
    prior_directory: Path | None = None,
) -> Backbone:
    """Load a model with float32 weights: "pocket", or another that `model_files.locate` finds.

    `precision` is resolved by `resolve_precision`; the device `auto` is CUDA where there is one;
    `resolution` is the height and width of the images in pixels, by default the model's own.
    Raises UserError if the model or a part of it is missing or broken, or cannot draw that size.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision(precision, device)
    parts = read_parts(model)
    pristine = mapped_weights(model, parts)
    if resolution is not None:
        _draw_at(parts, resolution)
    if device == "cpu":
        # Fused attention's backward in bfloat16 is several times slower there than plain products.
        parts["unet"].set_attn_processor(AttnProcessor())
        parts["text_encoder"].set_attn_implementation("eager")
    for name in ("unet", "vae", "text_encoder"):
        parts[name] = parts[name].float().to(device)
    return Backbone(
        id=backbone_id(model),
        **parts,
        pristine=pristine,
        device=torch.device(device),
        precision=precision,
        sampler=sampler or Sampler(),
        prior_directory=prior_directory,
    )


def _draw_at(parts: dict[str, Any], resolution: int) -> None:
    """Let the model read and draw images of `resolution` pixels."""
    step = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    if resolution < step or resolution % step:
        raise UserError(
            f"backbone.resolution is {resolution}, but the VAE makes {step} x {step} pixels one: "
            f"choose a multiple of {step}"
        )
    parts["unet"].register_to_config(sample_size=resolution // step)


def resolve_precision(precision: str, device: str) -> str:
    """The precision; `auto` becomes bf16 where the device is quick at it, fp32 elsewhere on CPUs.

    On CUDA without bf16 it becomes fp16. Raises UserError for an unknown name.
    """
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise UserError(f"unknown precision '{precision}'; known: auto, {', '.join(PRECISIONS)}")
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"
