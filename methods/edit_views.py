"""How Text2LIVE varies what is looked at: views for CLIP, and examples of the one image.

Random numbers come from one `random.Random`, on the CPU: they are the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

_GREY = (0.299, 0.587, 0.114)


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
