"""What an encoder sees of images under a protocol's view: the subject alone.

    viewers = viewers_of(protocol, device="cpu")       # encoder -> its Viewer, if it has one
    seen = viewers["dino"].see(images, "dog")
    seen.images, seen.found

The segmenter is loaded when an image is first looked at. No torch is imported until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmark.api import Segmenter, UserError
from benchmark.config.protocol import Protocol, View
from benchmark.models.assets import assets
from benchmark.scoring.encoder_tables import segmenter_table

_ROLE = "segmenter"
_COLOURS = {"black": 0, "white": 255}


@dataclass(frozen=True)
class Seen:
    """n images as a view shows them."""

    images: list[np.ndarray]  #: uint8 (height, width, 3); whole where nothing was found
    found: np.ndarray  #: (n,) bool: the subject was


@dataclass(frozen=True)
class Finder:
    """The protocol's segmenter, loaded at first use."""

    protocol: str  #: its label, for messages
    table: Mapping[str, Any]
    device: str

    @cached_property
    def _segmenter(self) -> Segmenter:
        with _naming(self.protocol):
            found: Segmenter = assets.kind_of(_ROLE, self.table).load(self.table, self.device)
            return found

    def mask(self, image: np.ndarray, noun: str) -> np.ndarray:
        """(height, width) bool: where `image`, uint8 (height, width, 3), shows a `noun`."""
        import torch

        shown = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        with _naming(self.protocol):
            # One at a time: the mask of an image never depends on the images beside it.
            return self._segmenter.segment(shown, noun)[0].numpy()


@dataclass(frozen=True)
class Viewer:
    """Shows images to an encoder as its view says."""

    name: str  #: of the view
    view: View
    finder: Finder

    def see(
        self,
        images: Sequence[np.ndarray],
        noun: str,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> Seen:
        """`images`, uint8 (height, width, 3), as the view shows them.

        `masks`: the user's own, (height, width) bool; where there is none, the segmenter's counts.
        """
        shown, found = [], []
        for image, own in zip(images, masks or [None] * len(images), strict=True):
            mask = self.finder.mask(image, noun) if own is None else own
            alone = isolated(image, mask, self.view)
            shown.append(image if alone is None else alone)
            found.append(alone is not None)
        return Seen(shown, np.array(found, bool))

    def see_references(
        self,
        images: Sequence[np.ndarray],
        noun: str,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> Seen:
        """The same of references, which the view may leave whole."""
        if self.view.references:
            return self.see(images, noun, masks)
        return Seen(list(images), np.ones(len(images), bool))


def isolated(image: np.ndarray, mask: np.ndarray, view: View) -> np.ndarray | None:
    """The subject of `image` alone; None if `mask`, (height, width) bool, shows next to nothing.

    uint8 (height, width, 3), or square where the view crops.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} of an image of {image.shape[:2]}")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    height, width = bottom - top, right - left
    least = int(view.smallest * image.shape[1])
    if height * width < least**2 or min(height, width) < least // 4:
        return None
    colour = _COLOURS[view.background]
    alone = np.where(mask[..., None], image, np.uint8(colour))
    if not view.crop:
        return alone
    side = max(height, width)
    square = np.full((side, side, 3), colour, np.uint8)
    down, along = (side - height) // 2, (side - width) // 2
    square[down : down + height, along : along + width] = alone[top:bottom, left:right]
    return square


@contextmanager
def _naming(protocol: str) -> Iterator[None]:
    """Says in a UserError that it is about the protocol's segmenter, and not the suite's."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"protocol '{protocol}': {error}") from error


def viewers_of(
    protocol: Protocol, *, directory: str | None = None, device: str = "cpu"
) -> dict[str, Viewer]:
    """Encoder -> what shows it images, of those encoders that have a view.

    `directory`: where the segmenter's files lie instead of the caches.
    """
    if not protocol.views:
        return {}
    finder = Finder(protocol.label, segmenter_table(protocol, directory), device)
    viewers = {name: Viewer(name, view, finder) for name, view in protocol.views.items()}
    return {
        encoder: viewers[table["view"]]
        for encoder, table in protocol.encoders.items()
        if "view" in table
    }


def identified_views(protocol: Protocol, directory: str | None = None) -> dict[str, dict[str, Any]]:
    """Encoder -> its view with the segmenter's identity: what decides what it sees.

    Raises UserError, and MissingFiles saying how to fetch what is not here.
    """
    viewers = viewers_of(protocol, directory=directory)
    if not viewers:
        return {}
    with _naming(protocol.label):
        identity = assets.identify(_ROLE, segmenter_table(protocol, directory))
    return {
        encoder: viewer.view.model_dump(mode="json") | {"segmenter": identity}
        for encoder, viewer in viewers.items()
    }


def check_nouns(protocol: Protocol, nouns: Sequence[str], directory: str | None = None) -> None:
    """Raise UserError for a class noun that the protocol's segmenter does not know."""
    if viewers_of(protocol, directory=directory):
        with _naming(protocol.label):
            assets.check_nouns(_ROLE, segmenter_table(protocol, directory), nouns)
