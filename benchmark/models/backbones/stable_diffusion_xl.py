"""Stable Diffusion XL (Podell et al. 2023): two CLIP text encoders, a pooled text, and sizes.

The U-Net was taught on images of many sizes and crops, and is told of them. Here every image is
said to be whole, and of the size that it is learned or drawn at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor

from benchmark.models.backbones.assembly import assemble, size_of
from benchmark.models.backbones.latent_diffusion import LatentDiffusion, forward_process
from benchmark.models.files.checkpoints import Parts
from benchmark.models.loading import Wanted
from benchmark.models.rows import TensorRows
from benchmark.models.texts.text_reader import TextReader
from benchmark.models.texts.text_states import clip_states


@dataclass(frozen=True, eq=False)
class SizedTexts(TensorRows):
    """The condition: n texts, and the size of the image that each is to be."""

    embeddings: Tensor  #: (n, length, the widths of both text encoders) float32
    pooled: Tensor  #: (n, width) float32: each text as one vector of the second encoder
    #: (n, 6) float32, in pixels: height and width before a crop, its top and left, height and width
    sizes: Tensor

    def for_denoiser(self) -> dict[str, Any]:
        more = {"text_embeds": self.pooled, "time_ids": self.sizes}
        return {"encoder_hidden_states": self.embeddings, "added_cond_kwargs": more}

    def for_pipeline(self) -> dict[str, Tensor]:
        """Without the sizes: the pipeline takes them from the height and width that it draws."""
        return {"prompt_embeds": self.embeddings, "pooled_prompt_embeds": self.pooled}


@dataclass(frozen=True)
class Reading:
    """How texts are read, for images of a size."""

    resolution: int
    #: Whether the empty text is nothing but zeros, as where the model was taught without a text.
    zeros_for_empty: bool

    def __call__(self, readers: Sequence[TextReader], texts: Sequence[str]) -> SizedTexts:
        states, pooled = zip(*(clip_states(reader, texts) for reader in readers), strict=True)
        side = self.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
        kept = torch.tensor([[bool(text) or not self.zeros_for_empty] for text in texts])
        kept = kept.to(pooled[-1].device)
        return SizedTexts(
            torch.where(kept[:, :, None], torch.cat(states, dim=-1).float(), 0.0),
            torch.where(kept, pooled[-1].float(), 0.0),
            sizes.to(kept.device).repeat(len(texts), 1),
        )


def build(parts: Parts, wanted: Wanted) -> LatentDiffusion:
    """The model of these parts, in diffusers' pipeline. Its images get no watermark."""
    pipeline = StableDiffusionXLPipeline(
        **parts.modules,
        **parts.tokenizers,
        scheduler=forward_process(parts, wanted.device),
        add_watermarker=False,
        **parts.index,
    )
    zeros = bool(pipeline.config.force_zeros_for_empty_prompt)
    reading = Reading(size_of(pipeline, parts, wanted), zeros)
    decoding = decoding_precision(pipeline.vae, wanted.precision)
    return assemble(pipeline, reading, parts, wanted, decoding=decoding)


def decoding_precision(vae: AutoencoderKL, precision: str) -> str:
    """float32 in float16's place where the VAE's own numbers are too large for it, as diffusers."""
    return "fp32" if precision == "fp16" and vae.config.force_upcast else precision
