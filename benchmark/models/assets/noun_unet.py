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
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from benchmark.api import UserError
from benchmark.models.assets.asset_files import PinnedTable, load_errors
from benchmark.models.assets.segmenters import TABLE, nouns_of
from benchmark.models.files.checkpoints import check_whole

_BATCH = 32  #: images at once


def logits(unet: UNet2DModel, images: Tensor, nouns: Tensor) -> Tensor:
    """(n, size, size) float32, above 0 where an image shows its noun.

    `images`: (n, 3, size, size) in [0, 1], of the U-Net's own size; `nouns`: (n,) classes.
    """
    side = math.isqrt(unet.config.out_channels)
    blocks = pixel_unshuffle(images * 2 - 1, side)
    return pixel_shuffle(unet(blocks, 0, nouns).sample.float(), side)[:, 0]


@dataclass(frozen=True)
class NounUNetSegmenter:
    """The U-Net, on its device, and the nouns of its classes."""

    unet: UNet2DModel
    nouns: Sequence[str]

    @torch.no_grad()
    def segment(self, images: Tensor, noun: str) -> Tensor:
        """As `benchmark.api.Segmenter.segment`. Raises UserError for a noun that it lacks."""
        if noun not in self.nouns:
            raise UserError(f"{TABLE}: it knows no '{noun}', but {', '.join(self.nouns)}")
        label = self.nouns.index(noun)
        return torch.cat([self._found(some, label) for some in images.split(_BATCH)])

    def _found(self, images: Tensor, label: int) -> Tensor:
        side = self.unet.config.sample_size * math.isqrt(self.unet.config.out_channels)
        size, device = images.shape[2:], self.unet.device
        shown = images.to(device)
        if size != (side, side):
            shown = interpolate(shown, (side, side), mode="bilinear", antialias=True)
        found = logits(self.unet, shown, torch.full((len(shown),), label, device=device))[:, None]
        if size != (side, side):
            found = interpolate(found, size, mode="bilinear")
        return found[:, 0].cpu() > 0


def load_noun_unet(table: PinnedTable, directory: Path, device: str) -> NounUNetSegmenter:
    """The U-Net whose files lie in `directory`. Raises UserError."""
    nouns = nouns_of(directory)
    with load_errors(TABLE, table):
        unet, found = UNet2DModel.from_pretrained(
            directory, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False
        )
        check_whole(directory, found)
        if unet.config.num_class_embeds != len(nouns):
            raise ValueError(
                f"{directory} has {unet.config.num_class_embeds} classes and {len(nouns)} nouns"
            )
    return NounUNetSegmenter(unet.float().eval().requires_grad_(False).to(device), nouns)
