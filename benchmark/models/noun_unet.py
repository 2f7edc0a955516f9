"""A segmenter that knows a list of nouns: one of diffusers' U-Nets, in a folder of its own.

    my-segmenter/config.json                            a UNet2DModel with a class for each noun
    my-segmenter/diffusion_pytorch_model.safetensors
    my-segmenter/nouns.txt                              a noun a line, in the classes' order

It reads blocks of s x s pixels as 3 s^2 channels, and answers with s^2 logits for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle


def logits(unet: UNet2DModel, images: Tensor, nouns: Tensor) -> Tensor:
    """(n, size, size) float32, above 0 where an image shows its noun.

    `images`: (n, 3, size, size) in [0, 1], of the U-Net's own size; `nouns`: (n,) classes.
    """
    side = math.isqrt(unet.config.out_channels)
    blocks = pixel_unshuffle(images * 2 - 1, side)
    return pixel_shuffle(unet(blocks, 0, nouns).sample.float(), side)[:, 0]


@dataclass(frozen=True)
class NounUNet:
    """The U-Net, on its device, and the nouns of its classes."""

    unet: UNet2DModel
    nouns: Sequence[str]

    @torch.no_grad()
    def segment(self, images: Tensor, noun: str) -> Tensor:
        """As `benchmark.api.Segmenter.segment`. Raises ValueError for a noun that it lacks."""
        size = self.unet.config.sample_size * math.isqrt(self.unet.config.out_channels)
        own, device = (size, size), self.unet.device
        shown = images.to(device)
        if shown.shape[2:] != own:
            shown = interpolate(shown, own, mode="bilinear", antialias=True).clamp(0, 1)
        labels = torch.full((len(shown),), self.nouns.index(noun), device=device)
        found = logits(self.unet, shown, labels)[:, None]
        if images.shape[2:] != own:
            found = interpolate(found, images.shape[2:], mode="bilinear")
        return (found[:, 0] > 0).cpu()
