"""From a model's name to a Backbone: read, at a precision, on a device, for images of a size.

backbone = load_backbone("pocket", sampler=Sampler("ddim", steps=20, guidance=4.0))

Another family of models is a module beside `stable_diffusion`, and is chosen here.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import AttnProcessor

from benchmark.api import Sampler
from benchmark.models.checkpoints import mapped_weights, read_parts
from benchmark.models.finite import check_weights
from benchmark.models.identity import backbone_id
from benchmark.models.precision import resolve_device, resolve_precision
from benchmark.models.resolution import drawn_size
from benchmark.models.stable_diffusion import StableDiffusion, build_pipeline


def load_backbone(
    model: str,
    *,
    sampler: Sampler | None = None,
    precision: str = "auto",
    device: str = "auto",
    resolution: int | None = None,
) -> StableDiffusion:
    """Load a model with float32 weights: "pocket", or another that `identity.locate` finds.

    `sampler` is by default a plain `Sampler()`; precision and device are resolved as in
    `benchmark.models.precision`; `resolution` is the height and width of the images in pixels, by
    default the model's own. Raises UserError if the model or a part of it is missing or broken, or
    cannot draw that size.
    """
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    parts = read_parts(model)
    check_weights(model)
    stored = mapped_weights(model, parts)
    if device == "cpu":
        # Fused attention's backward in bfloat16 is several times slower there than plain products.
        parts["unet"].set_attn_processor(AttnProcessor())
        parts["text_encoder"].set_attn_implementation("eager")
    for name in ("unet", "vae", "text_encoder"):
        parts[name] = parts[name].float().to(device).eval().requires_grad_(False)
    configuration, scheduler = parts.pop("scheduler"), parts["noise_scheduler"]
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    pipeline = build_pipeline(**parts)
    return StableDiffusion(
        id=backbone_id(model),
        pipeline=pipeline,
        resolution=drawn_size(resolution, pipeline.unet.config, pipeline.vae.config),
        device=torch.device(device),
        precision=precision,
        sampler=sampler or Sampler(),
        scheduler=configuration,
        stored_weights=stored,
    )
