"""SDEdit (Meng et al., 2108.01073): a real image of the subject, under noise, drawn anew.

python -m benchmark run --methods img2img
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt, Le

from benchmark.api import (
    IMAGE_TO_IMAGE,
    TEXT_TO_IMAGE,
    Backbone,
    Request,
    Start,
    Subject,
    Tools,
    Weights,
)
from methods.one_image import OneImage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageToImage(OneImage):
    """The untuned model draws `a class ...`, and begins with one of the subject's images.

    That image is encoded and gets as much noise as the sampler has at `strength` of its way; the
    remaining steps are drawn as ever. So the layout and the colours of that one image stay.
    """

    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE, IMAGE_TO_IMAGE})

    description: str = "zero-shot: one of the subject's images, under noise, drawn anew (SDEdit)"
    strength: Annotated[float, Gt(0), Le(1)] = 0.8  #: 0 the image as it is, 1 next to none of it

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images of the class, begun with the subject's; those of the prior prompt are not."""
        from methods.drawing import draw_apart

        stage = backbone.stages[0]
        image = stage.prepare(tools.images(stage.resolution)[self.image - 1 : self.image])

        def begun(images: int) -> dict[str, Start]:
            return {"start": Start(image[[0] * images], self.strength)}

        return draw_apart(backbone, self.texts(subject, requests), requests, begun)


IMG2IMG = ImageToImage()
