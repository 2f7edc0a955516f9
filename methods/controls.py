"""The two controls that learn nothing: the untuned model, and the real images themselves.

python -m benchmark run --methods untuned,real-images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import (
    TEXT_TO_IMAGE,
    Backbone,
    Draws,
    PriorImages,
    Request,
    Role,
    Subject,
    Tools,
    Weights,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Untuned:
    """The pristine model on `a class ...`: what prompts alone reach, the floor for fidelity."""

    version: ClassVar[str] = "1"
    role: ClassVar[Role] = "lower bound"
    variant_of: ClassVar[str | None] = None
    draws: ClassVar[Draws] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE})

    description: str = "control: the model as it is, prompted with 'a class'"

    def prior(self, subject: Subject) -> PriorImages | None:
        """None."""
        return None

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is drawn for each request."""
        return [request.prompt.text(subject.class_noun) for request in requests]

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Nothing to learn."""
        return {}

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images of the class."""
        from methods.drawing import draw

        return draw(backbone, self.texts(subject, requests), requests)


@dataclass(frozen=True)
class RealImages:
    """The subject's own images as the generated set: the row nobody should beat (Table 1)."""

    version: ClassVar[str] = "1"
    role: ClassVar[Role] = "upper bound"
    variant_of: ClassVar[str | None] = None
    draws: ClassVar[Draws] = "references"
    needs: ClassVar[frozenset[str]] = frozenset()

    description: str = "control: the subject's own images, the oracle"

    def prior(self, subject: Subject) -> PriorImages | None:
        """None."""
        return None

    def fit(self, subject: Subject, backbone: None, tools: Tools) -> Weights:
        """Nothing to learn."""
        return {}

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: None,
        tools: Tools,
    ) -> list[Tensor]:
        """The files' own pixels."""
        return [real_image(subject, request.index) for request in requests]


def real_image(subject: Subject, index: int) -> Tensor:
    """Image `index` of the subject: (3, height, width) float32 of its own size, exactly n/255."""
    import torch

    from benchmark.data.images import read_image

    return torch.from_numpy(read_image(subject.images[index])).permute(2, 0, 1).float() / 255


UNTUNED = Untuned()
REAL_IMAGES = RealImages()
