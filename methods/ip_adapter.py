"""IP-Adapter (Ye et al., 2308.06721): the untuned model looks at images of the subject.

python -m benchmark run --methods ip-adapter
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from benchmark.api import (
    IMAGE_ADAPTER,
    IMAGE_PROMPT,
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


@dataclass(frozen=True)
class IpAdapter(OneImage):
    """The untuned model draws `a class ...`, and looks at the subject's images while it does.

    An image encoder's embeddings go to cross-attentions of their own, beside those of the text. The
    prior prompt is drawn without.
    """

    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE, IMAGE_PROMPT, IMAGE_ADAPTER})

    description: str = "zero-shot: the untuned model, which looks at the subject (IP-Adapter)"
    #: Which of the subject's images it looks at, from 1; or at all of them at once.
    image: Annotated[int, Ge(1)] | Literal["all"] = 1  # type: ignore[assignment]
    scale: Annotated[float, Ge(0), Le(1)] = 0.5  #: 0 the text alone; 1 mostly the image

    def seen(self, subject: Subject) -> list[int]:
        """The one image, or all."""
        return [*range(len(subject.images))] if self.image == "all" else super().seen(subject)

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images of the class that resemble the subject."""
        from methods.drawing import draw_apart

        adapter = tools.asset(IMAGE_ADAPTER)
        images = tools.images(adapter.resolution)
        if self.image != "all":
            images = images[self.image - 1 : self.image]
        prompt = adapter.prompt(images, self.scale)
        texts = self.texts(subject, requests)
        return draw_apart(backbone, texts, requests, lambda _: {"image_prompt": prompt})


IP_ADAPTER = IpAdapter()
