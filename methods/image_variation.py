"""Image variation (DALL-E 2: Ramesh et al., 2204.06125): drawn from one image's embedding.

python -m benchmark run --suite dreambench --backbone stable-unclip --methods image-variation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from benchmark.api import (
    IMAGE_EMBEDDING,
    PRIOR,
    TEXT_TO_IMAGE,
    Request,
    Subject,
    Tools,
    Weights,
)
from methods.one_image import OneImage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageVariation(OneImage):
    """The untuned model draws `a class ...`, and is told of one of the subject's images.

    Of that image it knows what its image encoder makes of it, with noise on it: what the image
    shows, and not where.
    """

    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE, IMAGE_EMBEDDING})

    description: str = "zero-shot: drawn from one of the subject's images, as DALL-E 2's variations"
    noise_level: Annotated[int, Ge(0), Le(999)] = 0  #: at 999 next to nothing is left of the image

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Any,
        tools: Tools,
    ) -> Tensor:
        """Images of the class, told of the subject's; those of the prior prompt are not."""
        import torch

        from benchmark.models.memory.aside import aside

        texts = self.texts(subject, requests)
        rows = {text: row for row, text in enumerate(dict.fromkeys(["", *texts]))}
        with torch.no_grad():
            plain = backbone.encode([*rows])
        image = tools.images(backbone.image_resolution)[self.image - 1]
        both = plain.join(backbone.with_image(plain, image, self.noise_level))
        told = [len(rows) * (request.prompt.kind != PRIOR) for request in requests]
        with aside(backbone):
            drawn: Tensor = backbone.sample(
                both[[rows[text] + offset for text, offset in zip(texts, told, strict=True)]],
                [request.noise_seed for request in requests],
                unconditional=plain[[0]],
            )
        return drawn


VARIATION = ImageVariation()
