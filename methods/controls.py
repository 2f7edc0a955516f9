"""The two controls that learn nothing: the untuned model, and the real images themselves.

python -m benchmark run --methods untuned,real-images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Generate, Progress, Request, Subject

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.models.stable_diffusion import Backbone


@dataclass(frozen=True)
class Untuned:
    """The pristine model on `a class ...`: what prompts alone reach, the floor for fidelity."""

    version: ClassVar[str] = "1"
    prompted: ClassVar[bool] = True

    description: str = "control: the model as it is, prompted with 'a class'"

    def fit(
        self, subject: Subject, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Generate:
        """Nothing to learn."""

        def generate(requests: Sequence[Request]) -> Tensor:
            texts = [request.prompt.text(subject.class_noun) for request in requests]
            return backbone.sample(texts, [request.noise_seed for request in requests])

        return generate


@dataclass(frozen=True)
class RealImages:
    """The subject's own images as the generated set: the row nobody should beat (Table 1)."""

    version: ClassVar[str] = "1"
    prompted: ClassVar[bool] = False

    description: str = "control: the subject's own images, the oracle"

    def fit(
        self, subject: Subject, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Generate:
        """Nothing to learn."""

        def generate(requests: Sequence[Request]) -> list[Tensor]:
            return [real_image(subject, request.index) for request in requests]

        return generate


def real_image(subject: Subject, index: int) -> Tensor:
    """Image `index` of the subject: (3, height, width) float32 of its own size, exactly n/255."""
    import torch

    from benchmark.data.dataset import read_image

    return torch.from_numpy(read_image(subject.images[index])).permute(2, 0, 1).float() / 255


UNTUNED = Untuned()
REAL_IMAGES = RealImages()
