"""Composition alone: the subject cut out by its mask, laid over what the untuned model drew.

python -m benchmark run --methods paste
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import (
    MASKS,
    PRIOR,
    SEGMENTER,
    TEXT_TO_IMAGE,
    Backbone,
    Request,
    Subject,
    Tools,
    Weights,
)
from methods.one_image import OneImage

if TYPE_CHECKING:
    from torch import Tensor

#: Rows and columns of a rectangle, each from and to.
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Paste(OneImage):
    """The untuned model draws `a class ...`; the subject is laid over what of the class is found.

    It is resized to fit into the box of that, keeps its proportions, and stands in the middle of
    the box's lower edge. Nothing blends it with the scene. Nothing found, nothing pasted.
    """

    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE, MASKS, SEGMENTER})
    unscored: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"property": "what is pasted keeps its properties"}
    )

    description: str = "zero-shot: the subject cut out, pasted onto what the untuned model drew"

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """The scenes with the subject; those of the prior prompt, and without the class, alone."""
        from methods.drawing import draw

        scenes = draw(backbone, self.texts(subject, requests), requests)
        cut_out = tools.images(backbone.resolution)[self.image - 1]
        [mask] = tools.masks(backbone.resolution, images=[self.image - 1])
        asked = [i for i, request in enumerate(requests) if request.prompt.kind != PRIOR]
        if not asked:
            return scenes
        found = tools.asset(SEGMENTER).segment(scenes[asked], subject.class_noun)
        for i, place in zip(asked, found, strict=True):
            if place.any():
                paste(cut_out, mask, scenes[i], box_of(place))
        missed = int((~found.flatten(1).any(dim=1)).sum())
        tools.count(f"nothing pasted, as no '{subject.class_noun}' is found", missed)
        return scenes


def box_of(mask: Tensor) -> Box:
    """The smallest that holds all of `mask`, (h, w) bool, of which something is True."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def paste(image: Tensor, mask: Tensor, scene: Tensor, box: Box) -> None:
    """Lay the `mask` of `image`, as large as fits, over `scene` (3, h, w), in the `box`'s foot."""
    from torch.nn.functional import interpolate

    own, (rows, columns) = box_of(mask), box
    image, mask = image[:, *own], mask[own]
    height, width = rows.stop - rows.start, columns.stop - columns.start
    scale = min(height / mask.shape[0], width / mask.shape[1])
    size = tuple(max(1, round(side * scale)) for side in mask.shape)
    if size != mask.shape:
        image = interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        mask = interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].bool()
    left = columns.start + (width - size[1]) // 2
    place = scene[:, rows.stop - size[0] : rows.stop, left : left + size[1]]
    place[:, mask] = image[:, mask]


PASTE = Paste()
