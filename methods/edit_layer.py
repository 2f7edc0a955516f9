"""Text2LIVE's edit layer (Bar-Tal et al., 2204.02491): what paints it, and what it is judged by.

unet = EditUNet(channels=128, scales=7, generator=generator)
colour, alpha = unet(image)                                 # (1, 3, h, w), (1, 1, h, w)
composed(image, colour, alpha)                              # the edited image
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, mse_loss, normalize

from benchmark.api import Guide, Prompt

#: What the layer is laid over to be seen by itself.
GREEN = (0.0, 177 / 255, 64 / 255)
#: What texts are put into; CLIP looks for all of them.
TEMPLATES = ("{}", "a photo of {}", "a picture of {}")
SCREENS = ("{} over a green screen", "{} in front of a green screen")
_SKIPPED = 4  #: channels that go past what is below a scale
_GREY = (0.299, 0.587, 0.114)


class EditUNet(nn.Module):
    """An image of any size -> an edit layer. Its norms see an image at a time (Ulyanov et al.)."""

    def __init__(self, channels: int, scales: int, generator: Generator) -> None:
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


# What is looked at ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """How n crops of an image are looked at: where each lies in it, and in which colours."""

    places: Tensor  #: (n, 2, 3): affine maps of a view's coordinates to the image's
    colours: Tensor  #: (n, 3): factors of brightness, contrast and saturation

    @classmethod
    def drawn(cls, count: int, random: Random, device: torch.device) -> Views:
        """The first shows the whole image, the others 60 to 100 % of its sides; all are varied."""
        places, colours = [], []
        for i in range(count):
            size = random.uniform(0.6, 1) if i else 1.0
            angle, flip = 0.0, random.choice([1, -1])
            x, y = (random.uniform(size - 1, 1 - size) for _ in range(2))
            if random.random() < 0.8:
                angle = math.radians(random.uniform(-15, 15))
                x, y = x + random.uniform(-0.2, 0.2), y + random.uniform(-0.2, 0.2)
            cosine, sine = size * math.cos(angle), size * math.sin(angle)
            places.append([[flip * cosine, -sine, x], [flip * sine, cosine, y]])
            colours.append(colour_factors(random, chance=0.7, grey=0.15))
        return cls(torch.tensor(places, device=device), torch.tensor(colours, device=device))

    def of(self, image: Tensor, size: int) -> Tensor:
        """(1, 3, h, w) -> (n, 3, size, size), white where a view leaves the image."""
        count = len(self.places)
        grid = affine_grid(self.places, [count, 3, size, size], align_corners=False)
        seen = grid_sample((image - 1).expand(count, -1, -1, -1), grid, align_corners=False) + 1
        return recoloured(seen, self.colours)


def colour_factors(random: Random, *, chance: float, grey: float = 0.0) -> list[float]:
    """Of brightness, contrast and saturation: each within 10 % of 1, or by `chance` just 1."""
    factors = [1.0, 1.0, 1.0]
    if random.random() < chance:
        factors = [random.uniform(0.9, 1.1) for _ in range(3)]
    return [*factors[:2], 0.0] if random.random() < grey else factors


def recoloured(images: Tensor, factors: Tensor) -> Tensor:
    """(n, 3, h, w) by (n, 3) factors of brightness, contrast and saturation; in [0, 1]."""
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(dim=1)
    images = (images * brightness).clamp(0, 1)
    mean = grey(images).mean(dim=(2, 3), keepdim=True)
    images = (mean + (images - mean) * contrast).clamp(0, 1)
    return (grey(images) + (images - grey(images)) * saturation).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """(n, 1, h, w): their luma (ITU-R BT.601)."""
    return (images * images.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def varied(image: Tensor, random: Random) -> Tensor:
    """An example of the one image: (1, 3, h, w), cropped, resized, flipped, in other colours."""
    factors = colour_factors(random, chance=0.1)
    flip = random.random() < 0.5
    scale, cover = random.uniform(0.8, 1.2), random.uniform(0.85, 1)
    sides = image.shape[2:]
    crop = [int(side * cover) for side in sides]
    top, left = (random.randint(0, side - part) for side, part in zip(sides, crop, strict=True))
    found = image[:, :, top : top + crop[0], left : left + crop[1]]
    size = [max(1, int(part * scale)) for part in crop]
    found = interpolate(found, size, mode="bilinear", antialias=True)
    found = recoloured(found, found.new_tensor([factors]))
    return found.flip(3) if flip else found


# Losses -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aims:
    """Embeddings of texts, each (t, width), a row a template."""

    target: Tensor  #: of the whole edited image
    source: Tensor  #: of the image as it is
    screen: Tensor  #: of the layer on a green screen

    @classmethod
    def of(cls, prompt: Prompt, class_noun: str, guide: Guide) -> Aims:
        """What `prompt` asks of an image of the class. Raises UserError for too long a text."""
        whole, plain = prompt.text(class_noun), f"a {class_noun}"
        return cls(
            target=guide.embed_texts([template.format(whole) for template in TEMPLATES]),
            source=guide.embed_texts([template.format(plain) for template in TEMPLATES]),
            screen=guide.embed_texts([screen.format(added(prompt) or whole) for screen in SCREENS]),
        )


def added(prompt: Prompt) -> str:
    """What a prompt says beside the subject: "in the snow"; of "a red {}", which is it, nothing."""
    return prompt.template.partition("{}")[2].strip(" ,.")


def losses(
    image: Tensor, layer: tuple[Tensor, Tensor], aims: Aims, guide: Guide, views: Views
) -> dict[str, Tensor]:
    """The four terms for one example: `image` (1, 3, h, w) and the layer that was painted on it."""
    colour, alpha = layer
    composite, size = composed(image, colour, alpha), guide.resolution
    with torch.no_grad():
        before = guide.embed(views.of(image, size))
        structure = guide.tokens(_resized(image, size))
    after = guide.embed(views.of(composite, size))
    on_green = guide.embed(views.of(over_green(colour, alpha), size))
    towards = aims.target - aims.source
    return {
        "composition": angles(after, aims.target) + turns(after - before, towards),
        "screen": angles(on_green, aims.screen),
        "structure": mse_loss(alike(guide.tokens(_resized(composite, size))), alike(structure)),
        "sparsity": sparsity(alpha),
    }


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
