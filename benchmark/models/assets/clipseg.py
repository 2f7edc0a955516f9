"""CLIPSeg (Lueddecke and Ecker, 2112.10003) as a segmenter, by transformers.

A noun is looked for as it is; a pixel is found where its probability is above a half. The model
sees 352 x 352 pixels, so outlines are soft.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor
from transformers.utils.logging import disable_progress_bar

from benchmark.models.assets.asset_files import PinnedTable, load_errors
from benchmark.models.assets.segmenters import TABLE
from benchmark.models.files.checkpoints import check_whole

_BATCH = 8  #: images at once
#: In older files, where today's module makes them itself.
_OF_NO_USE = re.compile(r"clip\.(text|vision)_model\.embeddings\.position_ids")


@dataclass(frozen=True)
class ClipSegSegmenter:
    """The model, on its device, and what prepares images and texts for it."""

    model: Any
    processor: Callable[..., Any]

    @torch.no_grad()
    def segment(self, images: Tensor, noun: str) -> Tensor:
        """As `benchmark.api.Segmenter.segment`."""
        return torch.cat([self._found(some, noun) for some in images.split(_BATCH)])

    def _found(self, images: Tensor, noun: str) -> Tensor:
        pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        prepared = self.processor(
            text=[noun] * len(images), images=list(pixels), padding=True, return_tensors="pt"
        )
        logits = self.model(**prepared.to(self.model.device)).logits.float()
        logits = logits.view(len(images), 1, *logits.shape[-2:])
        return interpolate(logits, images.shape[2:], mode="bilinear")[:, 0].cpu() > 0


def load_clipseg(table: PinnedTable, directory: Path, device: str) -> ClipSegSegmenter:
    """The model whose files lie in `directory`. Raises UserError."""
    disable_progress_bar()
    with load_errors(TABLE, table):
        processor = CLIPSegProcessor.from_pretrained(directory)
        model, found = CLIPSegForImageSegmentation.from_pretrained(
            directory, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        check_whole(directory, found, _OF_NO_USE)
    return ClipSegSegmenter(model.eval().requires_grad_(False).to(device), processor)
