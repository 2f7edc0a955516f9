"""Text2LIVE's edit layer (Bar-Tal et al., 2204.02491): what paints it, and what it learns by.

unet = EditUNet(channels=128, scales=7, generator=generator)
colour, alpha = unet(image)                                 # (1, 3, h, w), (1, 1, h, w)
composed(image, colour, alpha)                              # the edited image
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate, mse_loss, normalize

from benchmark.api import Guide, Prompt
from methods.edit_views import Views, varied

#: What the layer is laid over to be seen by itself.
GREEN = (0.0, 177 / 255, 64 / 255)
#: What texts are put into; CLIP looks for all of them.
TEMPLATES = ("{}", "a photo of {}", "a picture of {}")
SCREENS = ("{} over a green screen", "{} in front of a green screen")
_WHOLE = 75  #: every how many steps the whole image is an example, too
_LEAST = 1e-5  #: the learning rate falls no lower
_SKIPPED = 4  #: channels that go past what is below a scale


class EditUNet(nn.Module):
    """An image of any size -> an edit layer. Its norms see an image at a time (Ulyanov et al.)."""

    def __init__(self, channels: int, scales: int, generator: Generator | None) -> None:
        super().__init__()
        below: nn.Module = nn.Identity()
        for scale in reversed(range(scales)):
            below = _Scale(channels if scale else 3, channels, below)
        self.scales = below
        self.layer = nn.Conv2d(channels, 4, 1)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, h, w) in [0, 1] -> colours (n, 3, h, w) and opacity (n, 1, h, w) in (0, 1)."""
        layer = self.layer(self.scales(image)).sigmoid()
        return layer[:, :3], layer[:, 3:]


class _Scale(nn.Module):
    """Half the size and back, with a narrow path past it (Ulyanov et al., 1711.10925)."""

    def __init__(self, inputs: int, channels: int, below: nn.Module) -> None:
        super().__init__()
        both = _SKIPPED + channels
        self.past = _convolved(inputs, _SKIPPED, 1)
        self.down = nn.Sequential(
            _convolved(inputs, channels, 3, stride=2), _convolved(channels, channels, 3), below
        )
        self.up = nn.Sequential(
            nn.InstanceNorm2d(both, affine=True),
            _convolved(both, channels, 3),
            _convolved(channels, channels, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        below = interpolate(self.down(image), image.shape[2:], mode="bilinear")
        up: Tensor = self.up(torch.cat([self.past(image), below], dim=1))
        return up


def _convolved(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, padding_mode="reflect")
    return nn.Sequential(convolution, nn.InstanceNorm2d(outputs, affine=True), nn.LeakyReLU(0.2))


def composed(image: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """The layer over `image`."""
    return (1 - alpha) * image + alpha * colour


def over_green(colour: Tensor, alpha: Tensor) -> Tensor:
    """The layer by itself, on a green screen."""
    return composed(colour.new_tensor(GREEN).view(1, 3, 1, 1), colour, alpha)


@dataclass(frozen=True)
class Aims:
    """What `guide` looks for: embeddings of texts, each (t, width), a row a template.

    All raise UserError for a text that is longer than it reads.
    """

    guide: Guide
    prompt: Prompt
    class_noun: str

    def read(self, *, screen: bool) -> None:
        """Have all of them embedded, now; those of the `screen` too."""
        _ = self.target, self.source, self.screen if screen else None

    @cached_property
    def target(self) -> Tensor:
        """Of the whole edited image."""
        return self._embedded(TEMPLATES, self.prompt.text(self.class_noun))

    @cached_property
    def source(self) -> Tensor:
        """Of the image as it is."""
        return self._embedded(TEMPLATES, f"a {self.class_noun}")

    @cached_property
    def screen(self) -> Tensor:
        """Of the layer on a green screen."""
        return self._embedded(SCREENS, added(self.prompt) or self.prompt.text(self.class_noun))

    def _embedded(self, templates: Sequence[str], text: str) -> Tensor:
        return self.guide.embed_texts([template.format(text) for template in templates])


def added(prompt: Prompt) -> str:
    """What a prompt says beside the subject: "in the snow"; of "a red {}", which is it, nothing."""
    return prompt.template.partition("{}")[2].strip(" ,.")


def losses(
    image: Tensor,
    layer: tuple[Tensor, Tensor],
    aims: Aims,
    views: Views,
    weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """The weighted terms for one example: `image` (1, 3, h, w) and the layer painted on it.

    `weights`: of "composition", "screen", "structure" and "sparsity"; one of weight 0 is left out.
    """
    (colour, alpha), guide, size = layer, aims.guide, aims.guide.resolution
    composite = composed(image, colour, alpha)

    def composition() -> Tensor:
        with torch.no_grad():
            before = guide.embed(views.of(image, size))
        after = guide.embed(views.of(composite, size))
        return angles(after, aims.target) + turns(after - before, aims.target - aims.source)

    def screen() -> Tensor:
        return angles(guide.embed(views.of(over_green(colour, alpha), size)), aims.screen)

    def structure() -> Tensor:
        with torch.no_grad():
            before = alike(guide.tokens(_resized(image, size)))
        return mse_loss(alike(guide.tokens(_resized(composite, size))), before)

    terms: dict[str, Callable[[], Tensor]] = {
        "composition": composition,
        "screen": screen,
        "structure": structure,
        "sparsity": lambda: sparsity(alpha),
    }
    return {name: weight * terms[name]() for name, weight in weights.items() if weight}


def _resized(image: Tensor, size: int) -> Tensor:
    return interpolate(image, (size, size), mode="bilinear", antialias=True)


def angles(images: Tensor, texts: Tensor) -> Tensor:
    """Half the squared angle between two embeddings, the mean over all pairs."""
    cosines = normalize(images, dim=1) @ normalize(texts, dim=1).T
    return cosines.clamp(-1 + 1e-6, 1 - 1e-6).arccos().square().mean() / 2


def turns(images: Tensor, texts: Tensor) -> Tensor:
    """1 - the cosine between two changes, the mean over all pairs (StyleGAN-NADA, 2108.00946)."""
    return (1 - normalize(images, dim=1) @ normalize(texts, dim=1).T).mean()


def alike(tokens: Tensor) -> Tensor:
    """(n, t, width) -> (n, t, t): the cosines between an image's tokens."""
    unit = normalize(tokens, dim=2)
    return unit @ unit.transpose(1, 2)


def sparsity(alpha: Tensor) -> Tensor:
    """The mean opacity, and a smooth count of what is not transparent: 2 sigmoid(5 alpha) - 1."""
    return alpha.mean() + (2 * torch.sigmoid(5 * alpha) - 1).mean()


@dataclass(frozen=True)
class Painting:
    """How a layer is learned."""

    steps: int
    learning_rate: float
    decay: float  #: of the learning rate, a step
    channels: int  #: of the U-Net
    scales: int
    views: int  #: of an example, a step
    weights: Mapping[str, float]  #: of the terms of `losses`


def paint(
    image: Tensor, aims: Aims, seed: int, how: Painting, tell: Callable[[], None]
) -> EditUNet:
    """A U-Net, trained to edit `image` (1, 3, h, w), on its device; `tell` is called each step.

    What is random in it is decided by `seed`.
    """
    random = Random(seed)
    unet = EditUNet(how.channels, how.scales, Generator().manual_seed(seed)).to(image.device)
    optimiser = torch.optim.Adam(unet.parameters(), lr=how.learning_rate)
    for step in range(how.steps):
        optimiser.zero_grad()
        examples = [varied(image, random)] + [image] * (step % _WHOLE == 0)
        for example in examples:
            views = Views.drawn(how.views, random, image.device)
            terms = losses(example, unet(example), aims, views, how.weights)
            (torch.stack([*terms.values()]).sum() / len(examples)).backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = max(_LEAST, how.learning_rate * how.decay ** (step + 1))
        tell()
    return unet
