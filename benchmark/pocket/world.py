"""The pocket world: subjects with an identity, drawn in scenes that vary, at 64 x 64 pixels.

An identity is what never changes about a subject: class, three colours, pattern, proportions. A
scene is what changes from picture to picture: background, accessory, recolouring, gloss, pose,
light. `render` draws one picture per pair through signed distances, anti-aliased, on the
identities' device; every random number is drawn on the CPU, so all devices draw the same world.

    python -c "import torch; from benchmark.pocket.world import *; g = torch.Generator(); \\
        a = sample_identities(4, g); print(render(a, sample_scenes(a, g)).shape)"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from benchmark.pocket.shapes import (
    GROUND,
    PIVOT,
    TEMPLATES,
    WORN,
    ZOOM,
    Anchors,
    Pen,
    disc,
    turn,
)

CLASSES: tuple[str, ...] = tuple(TEMPLATES)
LIVE: frozenset[str] = frozenset({"dog", "cat", "duck", "rabbit"})
BACKGROUND_PHRASES: dict[str, str] = {
    "snow": "in the snow",
    "beach": "on the beach",
    "jungle": "in the jungle",
    "city": "in the city",
    "mountain": "with a mountain in the background",
    "wheat": "in a wheat field",
    "rug": "on a purple rug",
    "wood": "on a wooden floor",
    "water": "in the water",
    "brick": "in front of a brick wall",
    "plain": "",
}
BACKGROUNDS: tuple[str, ...] = tuple(BACKGROUND_PHRASES)
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.14),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.98, 0.87, 0.16),
    "green": (0.15, 0.62, 0.22),
    "blue": (0.13, 0.36, 0.88),
    "purple": (0.50, 0.18, 0.68),
    "pink": (0.98, 0.58, 0.77),
    "brown": (0.46, 0.27, 0.13),
    "black": (0.13, 0.13, 0.15),
    "white": (0.96, 0.96, 0.95),
    "grey": (0.55, 0.56, 0.58),
}
PATTERNS: tuple[str, ...] = ("plain", "striped", "spotted", "checked")
ACCESSORIES: tuple[str, ...] = ("none", *WORN)
SHAPES = 8
SEEDS = 8
CHUNK = 32  # images drawn together on a CPU: intermediate planes then stay in its cache


@dataclass(frozen=True)
class Batch:
    """A batch whose fields are tensors that share their first dimension."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: Tensor | slice) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """The batches one after another."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})


@dataclass(frozen=True)
class Identities(Batch):
    """n subjects: what never changes about each."""

    kind: Tensor  # (n,) int64, index into CLASSES
    body: Tensor  # (n,) int64, index into COLOURS: the main colour
    second: Tensor  # (n,) int64, never body
    accent: Tensor  # (n,) int64, neither body nor second
    rgb: Tensor  # (n, 3, 3) in [0, 1]: the actual body, second and accent colours
    pattern: Tensor  # (n,) int64, index into PATTERNS
    weight: Tensor  # (n, 4): share of each pattern, one-hot but for morphs
    shape: Tensor  # (n, 8) in [0, 1]: four proportions, pattern frequency, angle, phase, mark


@dataclass(frozen=True)
class Scenes(Batch):
    """n scenes: what changes from picture to picture."""

    background: Tensor  # (n,) int64, index into BACKGROUNDS
    accessory: Tensor  # (n,) int64, index into ACCESSORIES, 0 for objects
    colour: Tensor  # (n,) int64, index into COLOURS the body is recoloured to, -1 for its own
    shiny: Tensor  # (n,) bool
    pose: Tensor  # (n, 6): x, y in frame widths, scale, rotation in radians, swing, nod in [-1, 1]
    light: Tensor  # (n, 3): gain, direction in [-1, 1], warmth in [-1, 1]
    seed: Tensor  # (n, 8) in [0, 1): the background's details


def palette() -> Tensor:
    """(11, 3) rgb of COLOURS, in their order."""
    return torch.tensor(list(COLOURS.values()))


def draw(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def sample_identities(
    n: int, generator: torch.Generator, *, kind: Tensor | None = None
) -> Identities:
    """n random subjects on the CPU, of the classes `kind` (n,) if given."""
    any_kind = torch.randint(len(CLASSES), (n,), generator=generator)
    if kind is None:
        kind = any_kind
    elif kind.shape != (n,):
        raise ValueError(f"kind has shape {tuple(kind.shape)}, not ({n},)")
    kind = kind.cpu().long()
    check_range("kind", kind, 0, len(CLASSES))
    names = draw((n, len(COLOURS)), 0, 1, generator).argsort(1)[:, :3]
    rgb = (palette()[names] + draw((n, 3, 3), -0.05, 0.05, generator)).clamp(0, 1)
    pattern = torch.randint(len(PATTERNS), (n,), generator=generator)
    weight = torch.nn.functional.one_hot(pattern, len(PATTERNS)).float()
    shape = draw((n, SHAPES), 0, 1, generator)
    body, second, accent = names.unbind(1)
    return Identities(kind, body, second, accent, rgb, pattern, weight, shape)


def classmates(
    identities: Identities, generator: torch.Generator, *, same_colours: bool
) -> Identities:
    """Other subjects of the same classes; with `same_colours` only pattern and shape differ."""
    device, n = identities.kind.device, len(identities)
    other = sample_identities(n, generator, kind=identities.kind.cpu()).to(device)
    turns = torch.randint(1, len(PATTERNS), (n,), generator=generator).to(device)
    if not same_colours:
        return other
    pattern = (identities.pattern + turns) % len(PATTERNS)
    weight = torch.nn.functional.one_hot(pattern, len(PATTERNS)).float()
    a = identities
    return Identities(a.kind, a.body, a.second, a.accent, a.rgb, pattern, weight, other.shape)


def sample_scenes(
    identities: Identities,
    generator: torch.Generator,
    *,
    accessory_rate: float = 0.35,
    colour_rate: float = 0.15,
    shiny_rate: float = 0.15,
) -> Scenes:
    """One random scene per subject; rates in [0, 1], accessories for live classes only."""
    n, device = len(identities), identities.kind.device
    background = torch.randint(len(BACKGROUNDS), (n,), generator=generator)
    worn = torch.randint(1, len(ACCESSORIES), (n,), generator=generator)
    shift = torch.randint(1, len(COLOURS), (n,), generator=generator)
    chance = draw((n, 3), 0, 1, generator)
    live = torch.tensor([name in LIVE for name in CLASSES])[identities.kind.cpu()]
    accessory = worn * (live & (chance[:, 0] < accessory_rate))
    colour = (identities.body.cpu() + shift) % len(COLOURS)
    colour = torch.where(chance[:, 1] < colour_rate, colour, -1)
    reach = torch.tensor([0.06, 0.06, 0.12, 0.14, 1.0, 1.0])
    pose = draw((n, 6), -1, 1, generator) * reach + torch.tensor([0.0, 0, 1, 0, 0, 0])
    light = draw((n, 3), -1, 1, generator) * torch.tensor([0.1, 1, 1]) + torch.tensor([1.0, 0, 0])
    seed = draw((n, SEEDS), 0, 1, generator)
    shiny = chance[:, 2] < shiny_rate
    return Scenes(background, accessory, colour, shiny, pose, light, seed).to(device)


def plain_scenes(identities: Identities, generator: torch.Generator) -> Scenes:
    """Scenes of ordinary photographs: no accessory, own colours, no gloss, any background."""
    return sample_scenes(identities, generator, accessory_rate=0, colour_rate=0, shiny_rate=0)


def morph(a: Identities, b: Identities, amount: Tensor) -> Identities:
    """Subjects between a (amount 0) and b (amount 1) of the same classes; amount is (n,).

    Colours, pattern and proportions change gradually; the names are those of the nearer end.
    """
    if not torch.equal(a.kind, b.kind):
        raise ValueError(f"morph joins subjects of one class, not {a.kind} and {b.kind}")
    amount = amount.to(a.rgb)
    if amount.shape != (len(a),) or not bool(((amount >= 0) & (amount <= 1)).all()):
        raise ValueError(f"amount is ({len(a)},) in [0, 1], not {amount}")
    nearer = {
        name: torch.where(amount < 0.5, getattr(a, name), getattr(b, name))
        for name in ("body", "second", "accent", "pattern")
    }
    between = {
        name: torch.lerp(getattr(a, name), getattr(b, name), amount.view(-1, *[1] * rank))
        for name, rank in (("rgb", 2), ("weight", 1), ("shape", 1))
    }
    return Identities(kind=a.kind, **nearer, **between)


# Backgrounds. Each takes the frame's coordinates x, y (1, H, W) in [-1, 1] with y up, the seeds
# u (8, n, 1, 1) and a pixel's side, and returns (n, 3, H, W).


def ramp(low: tuple[float, ...], high: tuple[float, ...], t: Tensor) -> Tensor:
    """(n, 3, H, W): `low` where t (n, H, W) is 0, `high` where it is 1."""
    a = torch.tensor(low, device=t.device).view(3, 1, 1)
    b = torch.tensor(high, device=t.device).view(3, 1, 1)
    return torch.lerp(a, b, t.clamp(0, 1).unsqueeze(1))


def over(
    image: Tensor, sdf: Tensor, pixel: float, colour: tuple[float, ...] | Tensor, alpha: float = 1.0
) -> Tensor:
    """Paint a region of the background, in place."""
    if isinstance(colour, tuple):
        colour = torch.tensor(colour, device=image.device).view(3, 1, 1)
    return image.lerp_(colour, (0.5 - sdf / pixel).clamp(0, 1).unsqueeze(1) * alpha)


def lines(u: Tensor, period: float, width: float) -> Tensor:
    """Signed distance to parallel lines of a half width, `period` apart."""
    return (torch.remainder(u, period) - period / 2).abs() - width


def dots(x: Tensor, y: Tensor, period: float, r: float) -> Tensor:
    """Signed distance to discs on a staggered grid."""
    row = torch.floor(y / period)
    x = x + torch.remainder(row, 2) * (period / 2)
    u, v = torch.remainder(x, period) - period / 2, torch.remainder(y, period) - period / 2
    return torch.sqrt(u * u + v * v) - r


def snow(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """White hills, pines and falling flakes."""
    image = ramp((0.86, 0.91, 0.97), (0.50, 0.64, 0.84), (y + 0 * u[0] + 0.1) / 1.1)
    hill = y - 0.12 * u[1] + 0.08 - 0.10 * torch.sin(2.2 * x + 6.28 * u[2])
    at = (torch.remainder(x + u[3], 0.42) - 0.21).abs()
    tree = torch.maximum(at * 2.6 + hill - 0.42, 0 * hill - 1) * 0.36
    image = over(image, tree, pixel, (0.16, 0.36, 0.34))
    image = over(image, torch.maximum(tree, 0.22 - hill), pixel, (0.93, 0.96, 1.0))
    image = over(image, hill, pixel, (0.95, 0.97, 1.0))
    image = over(image, hill + 0.45 + 0.1 * torch.sin(3 * x), pixel, (0.83, 0.89, 0.97))
    for tilt, period, r in ((0.5, 0.31, 0.035), (1.2, 0.43, 0.028)):
        a, b = turn(x + u[4], y + u[5], tilt)
        image = over(image, dots(a, b, period, r), pixel, (1.0, 1.0, 1.0))
    return image


def beach(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Sky, sun, a turquoise sea and yellow sand."""
    horizon = 0.25 + 0.25 * u[0]
    image = ramp((0.80, 0.94, 1.0), (0.30, 0.68, 0.98), (y - horizon) * 1.6)
    image = over(image, disc(x, y, 1.5 * u[1] - 0.75, 0.80 + 0 * x, 0.15), pixel, (1.0, 0.92, 0.3))
    image = over(image, y - horizon, pixel, (0.02, 0.48, 0.72))
    shore = y + 0.22 + 0.05 * torch.sin(4 * x + 6.28 * u[2])
    image = over(image, torch.maximum(y - horizon + 0.25, 0 * shore), pixel, (0.10, 0.68, 0.80))
    image = over(image, shore - 0.05, pixel, (0.96, 0.99, 1.0))
    image = over(image, shore, pixel, (0.97, 0.86, 0.58))
    a, b = turn(x + u[3], y + u[4], 0.6)
    return over(image, torch.maximum(dots(a, b, 0.3, 0.03), shore), pixel, (0.85, 0.70, 0.42))


def jungle(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Trunks among layers of large leaves."""
    image = ramp((0.02, 0.16, 0.06), (0.10, 0.36, 0.12), (y + 1 + 0 * u[0]) / 2)
    for k in (1, 2):
        trunk = (x - (1.1 * u[k] + (k - 2.05) * 1.0) - 0.06 * torch.sin(3 * y + 6.28 * u[k])).abs()
        image = over(image, trunk - 0.10, pixel, (0.36, 0.22, 0.10))
    greens = ((0.06, 0.34, 0.10), (0.14, 0.50, 0.14), (0.30, 0.66, 0.20), (0.10, 0.42, 0.12))
    for k, green in enumerate(greens):
        a, b = turn(x + 2 * u[3 + k], y + 2 * u[7 - k], 0.7 + 1.9 * k)
        row = torch.remainder(torch.floor(b / 0.26), 2) * 0.3
        a = torch.remainder(a + row, 0.6 + 0.12 * k) - 0.30
        b = torch.remainder(b, 0.26) - 0.13
        leaf = b.abs() - 0.115 * (1 - (a / 0.27) ** 2)
        image = over(image, leaf * 0.8, pixel, green)
        image = over(image, torch.maximum(b.abs() - 0.008, leaf), pixel, (0.02, 0.20, 0.06), 0.6)
    return image


def city(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """A skyline with lit windows at dusk, and a road."""
    image = ramp((1.0, 0.70, 0.50), (0.38, 0.40, 0.72), (y + 0.1 + 0 * u[0]) / 1.1)
    layers = ((0.34, 0.45, (0.46, 0.44, 0.62)), (0.42, 0.10, (0.17, 0.19, 0.32)))
    for k, (width, base, tone) in enumerate(layers):
        at = (x + 3 + u[1 + k]) / width
        column = torch.floor(at)
        tall = base + 0.45 * torch.remainder(column * 0.618 + u[3 + k], 1.0)
        across = (torch.remainder(at, 1.0) - 0.5) * width
        block = torch.maximum(y - tall, across.abs() - width * 0.47)
        image = over(image, block, pixel, tone)
    pane = torch.maximum(lines(across, 0.14, 0.04), lines(y, 0.17, 0.05))
    room = torch.floor(across / 0.14) * 0.37 + torch.floor(y / 0.17) * 0.71 + column * 0.29
    lit = torch.remainder(room, 1.0)
    pane = torch.maximum(torch.maximum(pane, block + 0.03), 0.35 - lit)
    image = over(image, pane, pixel, (1.0, 0.88, 0.40))
    image = over(image, y + 0.42, pixel, (0.62, 0.62, 0.64))
    image = over(image, y + 0.50, pixel, (0.30, 0.31, 0.34))
    dash = torch.maximum((y + 0.86).abs() - 0.03, lines(x + u[5], 0.5, 0.14))
    return over(image, dash, pixel, (0.95, 0.93, 0.85))


def mountain(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Snow-capped peaks over a meadow."""
    image = ramp((0.85, 0.93, 1.0), (0.36, 0.62, 0.94), y + 0 * u[0])
    peaks = (
        (0.75 - 0.5 * u[1], 0.55 + 0.20 * u[2], 0.50),
        (-0.75 + 0.5 * u[3], 0.72 + 0.22 * u[4], 0.40),
    )
    for k, (c, top, grey) in enumerate(peaks):
        rock = (y - top + 1.05 * (x - c).abs()) * 0.69
        image = over(image, rock, pixel, (grey, grey * 1.02, grey * 1.15))
        shade = torch.maximum(rock, c - x)
        image = over(image, shade, pixel, (grey * 0.75, grey * 0.78, grey * 0.92))
        edge = top - 0.30 + 0.05 * torch.sin(22 * x + 6 * u[5] + k)
        image = over(image, torch.maximum(rock, edge - y), pixel, (0.98, 0.99, 1.0))
    hill = y + 0.16 - 0.06 * torch.sin(2.5 * x + 6.28 * u[6])
    image = over(image, hill, pixel, (0.36, 0.66, 0.26))
    return over(image, hill + 0.42 + 0.08 * torch.sin(3 * x + 3), pixel, (0.28, 0.56, 0.20))


def wheat(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Golden stalks up to a high horizon under a blue sky."""
    image = ramp((0.75, 0.90, 1.0), (0.40, 0.70, 0.98), (y - 0.4 + 0 * u[0]) * 1.6)
    horizon = 0.38 + 0.25 * u[0]
    field = y - horizon - 0.03 * torch.sin(30 * x)
    gold = ramp((0.70, 0.48, 0.08), (0.96, 0.78, 0.28), (y + 1) / 1.5 + 0 * u[0])
    image = over(image, field, pixel, gold)
    bend = x + u[1] + 0.05 * torch.sin(3 * y + 6.28 * u[2])
    stalk = torch.maximum(lines(bend, 0.15, 0.018), field)
    image = over(image, stalk, pixel, (0.55, 0.36, 0.05))
    at = (torch.remainder(bend, 0.15) - 0.075).abs()
    grain = torch.maximum(lines(y - 1.3 * at + u[3], 0.14, 0.028) * 0.6, field + 0.04)
    grain = torch.maximum(grain, at - 0.055)
    return over(image, grain, pixel, (1.0, 0.90, 0.45))


def rug(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """A round purple rug on a pale floor before a cream wall."""
    wall = -0.02 + 0.2 * u[0]
    image = ramp((0.93, 0.87, 0.74), (0.99, 0.96, 0.88), y + 0 * u[0])
    image = over(image, y - wall, pixel, (0.82, 0.72, 0.58))
    image = over(image, (y - wall).abs() - 0.035, pixel, (0.98, 0.97, 0.93))
    cx, cy = 0.2 * u[1] - 0.1, -0.55 - 0.06 * u[2]
    far = torch.sqrt(((x - cx) / 1.05) ** 2 + ((y - cy) / 0.44) ** 2)
    image = over(image, (far - 1) * 0.5, pixel, (0.36, 0.10, 0.52))
    rings = torch.maximum(lines(far + 0.2 * u[3], 0.28, 0.045), far - 0.95)
    return over(image, rings * 0.5, pixel, (0.86, 0.66, 0.96))


def wood(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Planks that run to a sage wall."""
    wall = 0.2 * u[0]
    image = ramp((0.72, 0.80, 0.74), (0.86, 0.91, 0.86), y + 0 * u[0])
    depth = (wall + 0.55 - y).clamp(min=0.3)
    at = (x - 0.4 * u[1] + 0.2) / depth
    plank = torch.floor(at / 0.30)
    tint = torch.remainder(plank * 0.618 + u[2], 1.0)
    floor = ramp((0.55, 0.31, 0.13), (0.74, 0.46, 0.22), tint)
    image = over(image, y - wall, pixel, floor)
    seam = torch.maximum(lines(at + 0.15, 0.30, 0.018) * depth, y - wall)
    image = over(image, seam, pixel, (0.28, 0.14, 0.05))
    grain = torch.maximum(lines(at + 0.02 * torch.sin(9 * y), 0.1, 0.008) * depth, y - wall)
    image = over(image, grain, pixel, (0.40, 0.21, 0.08), 0.5)
    return over(image, (y - wall - 0.03).abs() - 0.04, pixel, (0.97, 0.97, 0.94))


def water(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Deep blue waves up to the upper edge."""
    image = ramp((0.02, 0.22, 0.55), (0.16, 0.55, 0.86), (y + 1 + 0 * u[0]) / 2)
    for k in range(2):
        sway = y + 0.06 * torch.sin((5 + 2 * k) * x + 6.28 * u[1 + k]) + u[3 + k]
        width = 0.055 - 0.035 * k
        crest = ((0.10, 0.42, 0.78), (0.62, 0.88, 0.98))[k]
        image = over(image, lines(sway + 0.17 * k, 0.36, width), pixel, crest)
    a = x + 0.1 * torch.sin(9 * y + 6.28 * u[5])
    glint = torch.maximum(lines(y + u[6], 0.29, 0.018), lines(a + u[7], 0.7, 0.12))
    return over(image, glint, pixel, (0.95, 0.99, 1.0))


def brick(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """A red brick wall above a pavement."""
    v = y + 2 + 0.2 * u[0]
    row = torch.floor(v / 0.20)
    across = x + u[1] + torch.remainder(row, 2) * 0.24
    tint = torch.remainder(torch.floor(across / 0.48) * 0.618 + row * 0.37 + u[2], 1.0)
    image = ramp((0.58, 0.20, 0.14), (0.76, 0.34, 0.24), tint)
    joint = torch.minimum(lines(v + 0.10, 0.20, 0.020), lines(across + 0.24, 0.48, 0.020))
    image = over(image, joint, pixel, (0.84, 0.78, 0.72))
    edge = -0.40 - 0.1 * u[3]
    image = over(image, y - edge, pixel, (0.66, 0.66, 0.68))
    image = over(image, (y - edge).abs() - 0.03, pixel, (0.45, 0.45, 0.48))
    slope = x / (edge + 0.9 - y).clamp(min=0.3)
    seam = torch.maximum(lines(slope + u[4], 0.8, 0.015), y - edge)
    return over(image, seam, pixel, (0.48, 0.48, 0.50))


def plain(x: Tensor, y: Tensor, u: Tensor, pixel: float) -> Tensor:
    """A studio backdrop: a gradient of a random soft hue."""
    phase = torch.tensor([0.0, 1 / 3, 2 / 3], device=x.device).view(3, 1, 1)
    depth = 0.12 * (0.3 + 0.7 * u[1].unsqueeze(1))
    hue = 0.80 + depth * torch.cos(6.2832 * (u[0].unsqueeze(1) + phase))
    fall = 1.08 - 0.22 * ((x - 0.6 * u[2] + 0.3) ** 2 + (y - 0.3) ** 2).clamp(max=1.4)
    floor = 1 - 0.10 * torch.sigmoid(-(y + 0.35) * 8)
    return (hue * (fall * floor).unsqueeze(1)).clamp_(0, 1)


SCENERY: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "snow": snow,
    "beach": beach,
    "jungle": jungle,
    "city": city,
    "mountain": mountain,
    "wheat": wheat,
    "rug": rug,
    "wood": wood,
    "water": water,
    "brick": brick,
    "plain": plain,
}


def check_range(name: str, values: Tensor, low: int, high: int) -> None:
    """Raise a ValueError naming the first value outside [low, high)."""
    bad = values[(values < low) | (values >= high)]
    if len(bad):
        raise ValueError(f"{name} {int(bad[0])} is not in [{low}, {high})")


def check(identities: Identities, scenes: Scenes, size: int) -> None:
    """Raise a ValueError for what cannot be drawn."""
    if size < 16:
        raise ValueError(f"size {size} is below 16 pixels")
    if len(identities) != len(scenes):
        raise ValueError(f"{len(identities)} identities but {len(scenes)} scenes")
    check_range("kind", identities.kind, 0, len(CLASSES))
    check_range("background", scenes.background, 0, len(BACKGROUNDS))
    check_range("accessory", scenes.accessory, 0, len(ACCESSORIES))
    check_range("colour", scenes.colour, -1, len(COLOURS))


def paints(identities: Identities, scenes: Scenes) -> Tensor:
    """(n, 3, 3) rgb of body, second and accent as seen in the scenes."""
    new = palette().to(identities.rgb)[scenes.colour.clamp(min=0)]
    dark = new.mean(1, keepdim=True) < 0.3
    other = torch.where(dark, new + 0.35 * (1 - new), new * 0.6)
    recoloured = torch.stack([new, other, identities.rgb[:, 2]], 1)
    return torch.where((scenes.colour >= 0).view(-1, 1, 1), recoloured, identities.rgb)


def pattern_cover(x: Tensor, y: Tensor, pixel: Tensor, identities: Identities) -> Tensor:
    """(n, H, W) share of the second colour in the body's pattern."""
    frequency, angle, phase = (identities.shape[:, k].view(-1, 1, 1) for k in (4, 5, 6))
    period = 0.44 - 0.26 * frequency
    u, v = turn(x, y, (angle - 0.5) * 3.0)
    u, v = u / period + phase, v / period + phase
    edge = 1.2 * pixel / period

    def wave(t: Tensor) -> Tensor:
        return ((torch.remainder(t, 1.0) - 0.5).abs() - 0.25) / edge

    across, along = wave(u), wave(v)
    stripes = (0.5 - across).clamp(0, 1)
    checks = 0.5 - 2 * across.clamp(-0.5, 0.5) * along.clamp(-0.5, 0.5)
    row = torch.floor(v)
    a = torch.remainder(u + 0.5 * torch.remainder(row, 2), 1.0) - 0.5
    b = v - row - 0.5
    spots = (0.5 - (torch.sqrt(a * a + b * b) - 0.33) / edge).clamp(0, 1)
    weight = identities.weight.view(-1, len(PATTERNS), 1, 1)
    return weight[:, 1] * stripes + weight[:, 2] * spots + weight[:, 3] * checks


def make_pen(image: Tensor, x: Tensor, y: Tensor, identities: Identities, scenes: Scenes) -> Pen:
    """A pen for subjects of one class, in the coordinates of their poses."""
    zoom = ZOOM.get(CLASSES[int(identities.kind[0])], 1.0)
    dx, dy, scale, angle, swing, nod = scenes.pose.T.unsqueeze(-1).unsqueeze(-1)
    u, v = turn(x - 2 * dx, y - 2 * dy, angle)
    u, v = u / (scale * zoom), (v / scale - PIVOT) / zoom + PIVOT
    pixel = 2 / (image.shape[-1] * scale * zoom)
    body, second, accent = paints(identities, scenes).unsqueeze(-1).unsqueeze(-1).unbind(1)
    coat = torch.lerp(body, second, pattern_cover(u, v, pixel, identities).unsqueeze(1))
    side = scenes.light[:, 1].view(-1, 1, 1)
    light = (1.02 + 0.10 * v + 0.10 * side * u).unsqueeze(1)
    shape = identities.shape.T.unsqueeze(-1).unsqueeze(-1)
    return Pen(
        u,
        v,
        pixel,
        image,
        coat,
        body,
        second,
        accent,
        light,
        shape,
        swing,
        nod,
        torch.full_like(u, 9.0),
    )


def cast_shadow(pen: Pen) -> None:
    """Darken the ground under the subject, softly."""
    far = (pen.x / 0.72) ** 2 + ((pen.y - GROUND) / 0.13) ** 2
    pen.image.mul_(1 - 0.5 * torch.exp(-1.6 * far * far).unsqueeze(1))


def dress(pen: Pen, anchors: Anchors, accessory: Tensor) -> None:
    """Draw what each live subject wears."""
    for k, name in enumerate(ACCESSORIES):
        rows = torch.nonzero(accessory == k).flatten()
        if k == 0 or not len(rows):
            continue
        piece = pen.rows(rows)
        WORN[name](piece, anchors.rows(rows))
        pen.image[rows] = piece.image


def polish(pen: Pen, shiny: Tensor) -> None:
    """Gloss the shiny subjects: lit and dark sides, hard highlights along the form, glints."""
    rows = torch.nonzero(shiny).flatten()
    if not len(rows):
        return
    depth = pen.solid[rows].clamp(-0.20, 0.1)
    grid = torch.nn.functional.pad(depth.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    pixel = pen.pixel[rows]
    steep = 1 + depth.clamp(max=0) / 0.20
    right = (grid[:, 1:-1, 2:] - grid[:, 1:-1, :-2]) / (2 * pixel) * steep
    up = (grid[:, :-2, 1:-1] - grid[:, 2:, 1:-1]) / (2 * pixel) * steep
    inside = (0.5 - (depth + 0.01) / pixel).clamp(0, 1)
    image = pen.image[rows]
    image = image * (1 + inside * 0.45 * (0.5 * up - 0.5 * right)).unsqueeze(1)
    far = (right + 0.40) ** 2 + (up - 0.48) ** 2
    spec = torch.exp(-far / 0.05) * inside
    image = torch.lerp(image, torch.ones_like(image), (0.95 * spec).clamp(max=1).unsqueeze(1))
    x, y = pen.x[rows], pen.y[rows]
    for cx, cy, r in ((-0.40, 0.02, 0.20), (0.30, -0.34, 0.16)):
        u, v = (x - cx).abs(), (y - cy).abs()
        star = (torch.sqrt(u + 1e-6) + torch.sqrt(v + 1e-6)) ** 2 - r
        halo = (0.5 - (star - 0.11) / 0.15).clamp(0, 1).unsqueeze(1)
        image = image * (1 - 0.35 * halo)
        star = (0.5 - star / pixel / 1.5).clamp(0, 1).unsqueeze(1)
        image = torch.lerp(image, torch.ones_like(image), star)
    pen.image[rows] = image


def expose(image: Tensor, light: Tensor) -> Tensor:
    """Apply the scene's gain and warmth."""
    gain, warmth = light[:, 0, None], light[:, 2, None]
    shift = torch.tensor([0.05, 0.0, -0.05], device=image.device)
    return (image * (gain * (1 + warmth * shift))[:, :, None, None]).clamp_(0, 1)


def groups(index: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """(value, rows) for every value in [0, count) that occurs, in runs of bounded length."""
    run = CHUNK if index.device.type == "cpu" else 1024
    return [
        (k, rows)
        for k in range(count)
        for rows in torch.nonzero(index == k).flatten().split(run)
        if len(rows)
    ]


@torch.no_grad()
def render(identities: Identities, scenes: Scenes, *, size: int = 64) -> Tensor:
    """(n, 3, size, size) float32 pictures in [0, 1] of each subject in its scene."""
    check(identities, scenes, size)
    device = identities.rgb.device
    line = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    x, y = line.view(1, 1, size), -line.view(1, size, 1)
    x, y = x.expand(1, size, size), y.expand(1, size, size)
    images = torch.empty(len(identities), 3, size, size, device=device)
    for k, rows in groups(scenes.background, len(BACKGROUNDS)):
        seed = scenes.seed[rows].T.unsqueeze(-1).unsqueeze(-1)
        images[rows] = SCENERY[BACKGROUNDS[k]](x, y, seed, 2 / size)
    for k, rows in groups(identities.kind, len(CLASSES)):
        scene = scenes[rows]
        pen = make_pen(images[rows], x, y, identities[rows], scene)
        cast_shadow(pen)
        anchors = TEMPLATES[CLASSES[k]](pen)
        polish(pen, scene.shiny)
        if anchors is not None:
            dress(pen, anchors, scene.accessory)
        images[rows] = expose(pen.image, scene.light)
    return images
