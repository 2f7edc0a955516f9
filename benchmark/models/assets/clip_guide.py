"""CLIP (Radford et al., 2103.00020) as a guide, by transformers.

Images are not resized here: whoever optimises them chooses what of them is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmark.api import UserError
from benchmark.models.assets.asset_files import PinnedTable, load_errors
from benchmark.models.assets.guides import LAYOUT, TABLE
from benchmark.models.files.checkpoints import check_whole
from benchmark.models.files.whole import WAY_OUT, faults

#: In older files, where today's module makes them itself.
_OF_NO_USE = re.compile(r"(text|vision)_model\.embeddings\.position_ids")


@dataclass(frozen=True)
class ClipGuide:
    """The model, on its device, and what prepares images and texts for it."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    mean: Tensor  #: (3, 1, 1), as `std`: of the pixels that it was trained on
    std: Tensor

    @property
    def resolution(self) -> int:
        """As `benchmark.api.Guide.resolution`."""
        return int(self.model.config.vision_config.image_size)

    @property
    def device(self) -> torch.device:
        """As `benchmark.api.Guide.device`."""
        return self.mean.device

    def embed(self, images: Tensor) -> Tensor:
        """As `benchmark.api.Guide.embed`."""
        seen = self.model.vision_model(pixel_values=self._normalised(images)).pooler_output
        found: Tensor = self.model.visual_projection(seen)
        return found

    def tokens(self, images: Tensor) -> Tensor:
        """As `benchmark.api.Guide.tokens`: the class token, then the patches' row by row.

        Taken by a hook of our own: those of transformers stay on the model.
        """
        found: list[Tensor] = []

        def take(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.append(inputs[0])

        handle = self.model.vision_model.encoder.layers[-1].register_forward_pre_hook(take)
        try:
            self.model.vision_model(pixel_values=self._normalised(images))
        finally:
            handle.remove()
        [tokens] = found
        return tokens

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """As `benchmark.api.Guide.embed_texts`."""
        read = self.tokenizer(list(texts), padding=True)["input_ids"]
        most = int(self.model.config.text_config.max_position_embeddings)
        if len(read[0]) > most:
            longest = max(texts, key=lambda text: len(self.tokenizer(text)["input_ids"]))
            raise UserError(
                f"'{longest}' is longer than the {most} tokens that {TABLE} reads: shorten the "
                "prompt, or leave out the methods that need a guide"
            )
        ids = torch.tensor(read, device=self.device)  # causal: padding adds nothing
        found: Tensor = self.model.text_projection(self.model.text_model(ids).pooler_output)
        return found

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def load_clip_guide(table: PinnedTable, directory: Path, device: str) -> ClipGuide:
    """The model whose files lie in `directory`. Raises UserError."""
    disable_progress_bar()
    with load_errors(TABLE, table):
        model, found = CLIPModel.from_pretrained(
            directory, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        check_whole(directory, found, _OF_NO_USE)
        return _guide(model, directory, device)


def hollow_clip_guide(table: PinnedTable, directory: Path, device: str = "cpu") -> ClipGuide:
    """The same by its configurations alone, for estimates of memory. Raises UserError."""
    with load_errors(TABLE, table), torch.device(device):
        return _guide(CLIPModel(CLIPConfig.from_pretrained(directory)), directory, device)


def check_clip_guide(table: PinnedTable, directory: Path) -> None:
    """Raise UserError if the weights are not what the configuration says."""
    guide = hollow_clip_guide(table, directory, "meta")
    for fault in faults(directory, [directory / LAYOUT.weights], guide.model, _OF_NO_USE):
        raise UserError(f"{TABLE}: {fault}: {WAY_OUT}")


def _guide(model: CLIPModel, directory: Path, device: str) -> ClipGuide:
    pixels = CLIPImageProcessor.from_pretrained(directory)
    mean, std = (
        torch.tensor(numbers, device=device).view(3, 1, 1)
        for numbers in (pixels.image_mean, pixels.image_std)
    )
    tokenizer = CLIPTokenizer.from_pretrained(directory)
    return ClipGuide(model.eval().requires_grad_(False).to(device), tokenizer, mean, std)
