"""What the pocket generators are trained on: fresh renders, and pools of captioned pictures.

A pool is drawn and encoded once, and each of its pictures is met a few times, under another caption
each time. Accessories, colour words, gloss and patterns stand in more pictures and captions than
the world's own rates would give: prompts ask for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmark.pocket.captions import IDENTIFIERS, Mentions, caption
from benchmark.pocket.individuals import named
from benchmark.pocket.training import step_generator
from benchmark.pocket.world import (
    Batch,
    Identities,
    Scenes,
    render,
    sample_identities,
    sample_scenes,
)

DRAWN_BATCHES = 64
#: Pictures a pool, pools that are in use together, and how often a picture is met on average.
POOL, POOLS, MEETINGS = 8192, 8, 8
#: Share of pictures that show a known individual.
NAMED_SHARE = 0.4
#: Shares of scenes with an accessory (of live subjects), another colour, gloss.
SCENE_RATES = {"accessory_rate": 0.55, "colour_rate": 0.22, "shiny_rate": 0.22}
MENTIONS = Mentions(colour=0.45, pattern=0.6, shiny=0.95, accessory=0.95)
#: Share of strangers that are called by an identifier, where a name may be mentioned at all.
IDENTIFIER_SHARE = 0.35
#: Share of captions dropped for guidance.
DROPPED_CAPTIONS = 0.1


def draw(count: int, generator: torch.Generator, device: str) -> tuple[Identities, Scenes, Tensor]:
    """`count` pictures of anonymous individuals: (identities, scenes, (n, 3, 64, 64) in [0, 1])."""
    identities = sample_identities(count, generator)
    scenes = sample_scenes(identities, generator)
    return identities, scenes, render(identities.to(device), scenes.to(device))


def distort(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some pictures and add faint noise, so that a model does not live on render crispness:
    it will see a generator's pictures."""
    count = len(pictures)
    blurred = avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    amount = torch.rand(count, generator=generator).mul(1.5).sub(0.5).clamp(min=0)
    amount = amount.view(-1, 1, 1, 1).to(pictures)
    grain = torch.rand(count, generator=generator).view(-1, 1, 1, 1) * 0.04
    noise = (torch.randn(pictures.shape, generator=generator) * grain).to(pictures)
    return (pictures + amount * (blurred - pictures) + noise).clamp(0, 1)


def fresh_pictures(name: str, batch: int, device: str) -> Callable[[int], Tensor]:
    """step -> (batch, 3, 64, 64) in [0, 1], drawn many batches at a time: the renderer is slow at
    few pictures a call."""

    @lru_cache(maxsize=1)
    def block(index: int) -> tuple[Tensor, ...]:
        _, _, drawn = draw(DRAWN_BATCHES * batch, step_generator(name, index), device)
        return drawn.split(batch)

    return lambda step: block(step // DRAWN_BATCHES)[step % DRAWN_BATCHES]


Drawn = TypeVar("Drawn", bound=Batch)


def rolling(
    draw_pool: Callable[[int], Drawn], size: int, meetings: int, batch: int
) -> Callable[[int, torch.Generator], Drawn]:
    """(step, generator) -> `batch` rows of a pool, of which there is another after its meetings."""
    pool = lru_cache(maxsize=1)(draw_pool)

    def some(step: int, generator: torch.Generator) -> Drawn:
        found = pool(step * batch // (size * meetings))
        return found[torch.randint(size, (batch,), generator=generator)]

    return some


@dataclass(frozen=True)
class Pool:
    """Pictures drawn once: who, where, and what a model learns to draw of them."""

    identities: Identities
    scenes: Scenes
    names: tuple[str, ...]
    encoded: Tensor  #: (n, channels, h, w) float16


#: (n, 3, 64, 64) pictures in [0, 1] -> what a model learns to draw of them.
Encode = Callable[[Tensor], Tensor]


@torch.no_grad()
def draw_pool(encode: Encode, count: int, generator: torch.Generator, device: str) -> Pool:
    """Draw `count` pictures, `NAMED_SHARE` of them of known individuals, and encode them."""
    all_names, known = named()
    who = torch.randint(len(all_names), (count,), generator=generator)
    is_known = torch.rand(count, generator=generator) < NAMED_SHARE
    strangers = sample_identities(count, generator)
    both = Identities.cat([known, strangers])
    identities = both[torch.where(is_known, who, len(all_names) + torch.arange(count))]
    scenes = sample_scenes(identities, generator, **SCENE_RATES)
    parts = [slice(start, start + 256) for start in range(0, count, 256)]
    encoded = [
        encode(render(identities[part].to(device), scenes[part].to(device))).half().cpu()
        for part in parts
    ]
    names = tuple(
        all_names[w] if k else "" for w, k in zip(who.tolist(), is_known.tolist(), strict=True)
    )
    return Pool(identities, scenes, names, torch.cat(encoded))


class Pools:
    """Pools that roll on: POOLS are in use, in which a picture is met MEETINGS times on average.

    So many steps after it came, the oldest is replaced by a new one.
    """

    def __init__(self, encode: Encode, batch: int, device: str) -> None:
        self._encode, self._batch, self._device = encode, batch, device
        # One more than is used, so that what is dropped is out of use, whatever came last.
        self._pool = lru_cache(maxsize=POOLS + 1)(self._drawn)

    def _drawn(self, index: int) -> Pool:
        return draw_pool(self._encode, POOL, step_generator("pool", index), self._device)

    def some(self, step: int, generator: torch.Generator) -> tuple[Pool, Tensor]:
        """A pool in use at `step`, and the (batch,) pictures of it that are met."""
        oldest = step // max(1, POOL * MEETINGS // self._batch)
        pool = self._pool(oldest + int(torch.randint(POOLS, (), generator=generator)))
        return pool, torch.randint(POOL, (self._batch,), generator=generator)


def say(pool: Pool, chosen: Tensor, chance: random.Random) -> list[str]:
    """Captions of the chosen pictures: some dropped, some strangers called by an identifier.

    An identifier so means nobody: each time it stands before another individual.
    """
    names = [
        pool.names[i] or (chance.choice(IDENTIFIERS) if chance.random() < IDENTIFIER_SHARE else "")
        for i in chosen.tolist()
    ]
    texts = caption(
        pool.identities[chosen],
        pool.scenes[chosen],
        chance,
        names=tuple(names),
        mentions=MENTIONS,
    )
    return ["" if chance.random() < DROPPED_CAPTIONS else t for t in texts]
