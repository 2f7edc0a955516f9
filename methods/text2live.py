"""Text2LIVE (Bar-Tal et al., 2204.02491): a layer painted onto an image of the subject by a text.

python -m benchmark run --methods text2live
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from benchmark.api import (
    GUIDE,
    PRIOR,
    Request,
    Subject,
    Tools,
    UserError,
    Weights,
)
from methods.one_image import OneImage

if TYPE_CHECKING:
    from torch import Tensor

    from methods.edit_layer import Painting


@dataclass(frozen=True)
class Text2Live(OneImage):
    """For each image a U-Net of its own, which reads the subject's and paints a layer over it.

    A CLIP looks on: at the edited image, at the layer on a green screen, and at what is left of the
    image's structure. No generative model takes part.
    """

    needs: ClassVar[frozenset[str]] = frozenset({GUIDE})
    unscored: ClassVar[Mapping[str, str]] = MappingProxyType({PRIOR: "it has no class model"})

    description: str = "zero-shot: one of the subject's images, edited by a layer (Text2LIVE)"
    resolution: Annotated[int, Ge(16)] = 512  #: of the image, in pixels
    steps: Annotated[int, Ge(1)] = 1000  #: for each image
    learning_rate: Annotated[float, Gt(0)] = 2.5e-3
    decay: Annotated[float, Gt(0), Le(1)] = 0.99  #: of the learning rate, a step
    channels: Annotated[int, Ge(4)] = 128  #: of the U-Net
    scales: Annotated[int, Ge(1)] = 7  #: how often it halves its image
    views: Annotated[int, Ge(1)] = 16  #: crops that CLIP looks at, a step
    composition_weight: Annotated[float, Gt(0)] = 1.0
    screen_weight: Annotated[float, Ge(0)] = 1.0
    structure_weight: Annotated[float, Ge(0)] = 2.0
    sparsity_weight: Annotated[float, Ge(0)] = 0.06

    def __post_init__(self) -> None:
        if int(int(self.resolution * 0.85) * 0.8) < 2 ** (self.scales + 1):
            raise UserError(f"scales is {self.scales}, too many for {self.resolution} pixels")

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: None,
        tools: Tools,
    ) -> Tensor:
        """The image, edited by each prompt; for the prior prompt as it is."""
        import torch

        from methods.edit_layer import Aims, composed, paint

        image, guide = tools.images(self.resolution)[self.image - 1], tools.asset(GUIDE)
        here, how, drawn = image[None].to(guide.device), self.painting(), list["Tensor"]()
        edits = sum(request.prompt.kind != PRIOR for request in requests)
        steps = itertools.count(1)

        def tell() -> None:
            tools.progress(next(steps), edits * self.steps)

        # All texts are read before a layer is painted: one may be longer than the guide reads.
        aims = [
            None
            if request.prompt.kind == PRIOR
            else Aims(guide, request.prompt, subject.class_noun)
            for request in requests
        ]
        for aim in aims:
            if aim is not None:
                aim.read(screen=self.screen_weight > 0)
        for request, aim in zip(requests, aims, strict=True):
            if aim is None:
                drawn.append(image)
                continue
            unet = paint(here, aim, request.noise_seed, how, tell)
            with torch.no_grad():
                drawn.append(composed(here, *unet(here))[0].cpu())
        return torch.stack(drawn)

    def painting(self) -> Painting:
        """The settings, for what trains."""
        from methods.edit_layer import Painting

        terms = ("composition", "screen", "structure", "sparsity")
        return Painting(
            *(self.steps, self.learning_rate, self.decay, self.channels, self.scales, self.views),
            weights={term: getattr(self, f"{term}_weight") for term in terms},
        )


TEXT2LIVE = Text2Live()
