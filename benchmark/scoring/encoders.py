"""What encodes: preprocessing and a class for each kind, from 8-bit pixels to unit vectors.

All compute in float32, BATCH images at a time; each is a `kinds.Encoder` with some abilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmark.api import UserError
from benchmark.scoring.kinds import BATCH


@dataclass(frozen=True)
class Preprocessing:
    """Resize of the short side, centre crop, normalisation, as the field does it.

    The resize is Pillow's bicubic on 8-bit pixels, by torchvision: what the encoders' published
    numbers were made with. An image that has the size already is not touched.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """n uint8 (height, width, 3) of any sizes -> (n, 3, crop, crop) float32, normalised."""
        batch = torch.stack([self._sized(image) for image in pixels])
        scaled = functional.to_dtype(batch, torch.float32, scale=True)
        return functional.normalize(scaled, list(self.mean), list(self.std))

    def _sized(self, image: np.ndarray) -> Tensor:
        if self.resize != self.crop or image.shape[:2] != (self.crop, self.crop):
            picture = functional.resize(
                Image.fromarray(image),
                [self.resize],
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            )
            image = np.asarray(functional.center_crop(picture, [self.crop]))
        return torch.tensor(image).permute(2, 0, 1)


class TimmEncoder:
    """A timm vision transformer: class tokens."""

    def __init__(self, model: Any, preprocessing: Preprocessing, device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.preprocessing, self.device = preprocessing, device

    @torch.inference_mode()
    def embeddings(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d) float32 of unit length."""
        rows = [self.model(batch) for batch in _batches(pixels, self.preprocessing, self.device)]
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1).cpu().numpy()


class IntermediateEncoder:
    """LPIPS (Zhang et al. 2018, Eq. 1) over layers of a timm vision transformer.

    Its weights are uniform: w_l = 1 for every channel.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing,
        device: torch.device,
        layers: Sequence[int],
    ) -> None:
        self.model = model.eval().to(device)
        self.preprocessing, self.device, self.layers = preprocessing, device, list(layers)

    @torch.inference_mode()
    def distances(
        self, pixels: Sequence[np.ndarray], groups: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """(n, n) float32; only pairs within one of `groups` are compared; the others stay 0.

        Each layer's features are given unit length along the channels; squared differences are
        summed over channels, averaged over positions and summed over layers.
        """
        batches = [
            [
                torch.nn.functional.normalize(layer, dim=1, eps=1e-10)
                for layer in self._layers(batch)
            ]
            for batch in _batches(pixels, self.preprocessing, self.device)
        ]
        layers = [torch.cat(per_batch) for per_batch in zip(*batches, strict=True)]
        total = np.zeros((len(pixels), len(pixels)), np.float32)
        for group in groups:
            members = torch.tensor(list(group), device=self.device)
            within = torch.zeros(len(group), len(group), device=self.device)
            for layer in layers:  # (n, channels, height, width), unit along channels
                chosen = layer[members]
                for i, image in enumerate(chosen):
                    within[i] += (chosen - image).square().sum(dim=1).mean(dim=(1, 2))
            total[np.ix_(group, group)] = within.cpu().numpy()
        return total

    def _layers(self, batch: Tensor) -> list[Tensor]:
        """The compared layers of a preprocessed batch, each (n, channels, height, width)."""
        return self.model.forward_intermediates(batch, indices=self.layers, intermediates_only=True)


class ClipEncoder:
    """An open_clip model with its tokenizer."""

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> None:
        self.model = model.eval().to(device)
        self.tokenizer, self.preprocessing, self.device = tokenizer, preprocessing, device

    @torch.inference_mode()
    def embeddings(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """(n, e) float32 of unit length."""
        rows = [
            self.model.encode_image(batch, normalize=True)
            for batch in _batches(pixels, self.preprocessing, self.device)
        ]
        return torch.cat(rows).cpu().numpy()

    @torch.inference_mode()
    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """(n, e) float32 of unit length. Raises UserError for a text that would be cut."""
        check_length(self.tokenizer, texts)
        batches = (list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH))
        rows = [
            self.model.encode_text(self.tokenizer(batch).to(self.device), normalize=True)
            for batch in batches
        ]
        return torch.cat(rows).cpu().numpy()


def check_length(tokenizer: Any, texts: Sequence[str]) -> None:
    """Raise UserError for one of `texts` that `tokenizer`, an open_clip one, would cut."""
    # Of bytes there are at least as many as of tokens, whatever the vocabulary.
    longest = tokenizer.context_length + 2 * max((len(text.encode()) for text in texts), default=0)
    for text in texts:
        read, whole = (_tokens(tokenizer, text, n) for n in (tokenizer.context_length, longest))
        if whole > read:
            raise UserError(
                f"caption '{text}' is longer than the {tokenizer.context_length} tokens that its "
                "encoder reads: shorten the prompt"
            )


def _tokens(tokenizer: Any, text: str, length: int) -> int:
    """How many tokens of `text` are no padding, if it is read up to `length`."""
    padding = tokenizer([""], context_length=length).flatten().mode().values
    return int((tokenizer([text], context_length=length) != padding).sum())


def _batches(
    pixels: Sequence[np.ndarray], preprocessing: Preprocessing, device: torch.device
) -> Iterator[Tensor]:
    for start in range(0, len(pixels), BATCH):
        yield preprocessing(pixels[start : start + BATCH]).to(device)


class LpipsEncoder:
    """LPIPS (Zhang et al. 2018) on AlexNet, with its authors' learned weights, by torchmetrics."""

    def __init__(
        self, alexnet: Path, learned: Path, preprocessing: Preprocessing, device: torch.device
    ) -> None:
        from torchmetrics.functional.image import lpips

        # `weights_only` reads tensors and refuses everything else that a pickle may hold.
        network = torch.load(alexnet, map_location="cpu", weights_only=True)
        linear = torch.load(learned, map_location="cpu", weights_only=True)
        # Built without weights: torchmetrics itself would download AlexNet, and read it unguarded.
        model = lpips._LPIPS(pretrained=False, net="alex", pnet_rand=True)
        model.load_state_dict(_by_layer(network, linear, model))
        self.model = model.eval().to(device)
        self.preprocessing, self.device = preprocessing, device

    @torch.inference_mode()
    def distances(
        self, pixels: Sequence[np.ndarray], groups: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """(n, n) float32; only pairs within one of `groups` are compared; the others stay 0."""
        total = np.zeros((len(pixels), len(pixels)), np.float32)
        for group in groups:
            batch = self.preprocessing([pixels[i] for i in group]).to(self.device)  # in [-1, 1]
            for i, index in enumerate(group[:-1]):
                others = list(group[i + 1 :])
                row = self.model(batch[i : i + 1].expand(len(others), -1, -1, -1), batch[i + 1 :])
                total[index, others] = total[others, index] = row.flatten().cpu().numpy()
        return total


def _by_layer(
    network: dict[str, Tensor], linear: dict[str, Tensor], model: Any
) -> dict[str, Tensor]:
    """torchvision's AlexNet and LPIPS's weights under the names that torchmetrics gives them."""
    found = {}
    for name in model.state_dict():
        if name.startswith("net."):  # net.slice2.3.weight
            found[name] = network[f"features.{name.split('.', 2)[2]}"]
        else:  # lin0.model.1.weight, and the same layer again as lins.0.model.1.weight
            found[name] = linear[name.replace("lins.", "lin")]
    return found
