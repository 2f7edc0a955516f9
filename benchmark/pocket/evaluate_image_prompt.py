"""The measured quality of the pocket guide and of the pocket IP-Adapter.

python -m benchmark pretrain guide --evaluate
python -m benchmark pretrain ip-adapter --evaluate
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmark.api import Backbone, ImageAdapter
from benchmark.data.images import as_pixels
from benchmark.models.assets.image_adapters import IP_ADAPTER
from benchmark.pocket.captions import caption
from benchmark.pocket.evaluate import DINO, Measurement, in_place, named_right
from benchmark.pocket.guide import MENTIONS, embed
from benchmark.pocket.individuals import IMAGES_PER_SUBJECT, subjects
from benchmark.pocket.pictures import draw
from benchmark.pocket.training import step_generator
from benchmark.pocket.world import CLASSES, plain_scenes, render, sample_identities
from benchmark.scoring.features import Encoders

PLACES = 4  #: prompts a subject
SCALES = (0.5, 1.0)


def load_guide(directory: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """The CLIP in `directory`, and its tokenizer."""
    disable_progress_bar()
    clip = CLIPModel.from_pretrained(directory, dtype=torch.float32).eval().requires_grad_(False)
    return clip, CLIPTokenizer.from_pretrained(directory)


@torch.no_grad()
def guidance(directory: Path, count: int = 1000) -> list[Measurement]:
    """What the guide tells apart on fresh renders of strangers."""
    clip, tokenizer = load_guide(directory)
    generator = step_generator("guidance", 0)

    def seen(pictures: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
        images, words, _ = embed(clip, tokenizer, pictures, texts)
        return normalize(images, dim=1), normalize(words, dim=1)

    identities, scenes, pictures = draw(count, generator, "cpu")
    nouns = seen(pictures, [f"a {noun}" for noun in CLASSES])
    of_class = (nouns[0] @ nouns[1].T).argmax(dim=1) == identities.kind
    some = slice(0, 100)
    texts = caption(identities[some], scenes[some], random.Random(0), mentions=MENTIONS)
    images, words = seen(pictures[some], texts)
    captioned = _nearest(images, words)
    who = sample_identities(100, generator)
    views = [seen(render(who, plain_scenes(who, generator)), ["a"])[0] for _ in range(2)]
    return [
        Measurement("guide", "class right on renders", of_class.float().mean().item(), ">= 0.85"),
        Measurement("guide", "caption of 100 right on renders", captioned, ""),
        Measurement("guide", "nearest of 100 subjects right", _nearest(*views), ""),
    ]


def _nearest(some: Tensor, others: Tensor) -> float:
    right = (some @ others.T).argmax(dim=1) == torch.arange(len(some))
    return right.float().mean().item()


def likeness(
    backbone: Backbone, weights: Path, encoders: Encoders, *, places: int = PLACES
) -> list[Measurement]:
    """Fidelity to development subjects, and to prompts, with the adapter and without.

    DINO: the mean cosine to five photographs, of the first of which the adapter is shown.
    """
    names, identities = subjects("development")
    generator = step_generator("likeness", 0)
    rows = torch.arange(len(names)).repeat_interleave(IMAGES_PER_SUBJECT)
    repeated = identities[rows]
    photographs = render(repeated, plain_scenes(repeated, generator))
    shown = photographs.unflatten(0, (len(names), IMAGES_PER_SUBJECT))
    nouns = [CLASSES[kind] for kind in identities.kind.tolist()]
    adapter: ImageAdapter = IP_ADAPTER.load({"kind": "ip-adapter", "model": f"{weights}/"}, "cpu")
    asked = [(noun, in_place(noun)[:places]) for noun in nouns]
    found = [_drawn(backbone, encoders, asked, shown, lambda _: {}, "without it")]
    for scale in SCALES:

        def prompted(photograph: Tensor, scale: float = scale) -> dict[str, Any]:
            return {"image_prompt": adapter.prompt(photograph[None], scale)}

        found.append(_drawn(backbone, encoders, asked, shown, prompted, f"at scale {scale:g}"))
    return [row for both in found for row in both]


def _drawn(
    backbone: Backbone,
    encoders: Encoders,
    asked: list[tuple[str, list[str]]],
    shown: Tensor,
    beside: Callable[[Tensor], dict[str, Any]],
    how: str,
) -> list[Measurement]:
    """Likeness and whether the place is right, over a class noun and its prompts a subject."""
    likeness, right = [], []
    for (noun, prompts), photographs in zip(asked, shown, strict=True):
        condition, seeds = backbone.encode(prompts), range(len(prompts))
        images = backbone.sample(condition, seeds, **beside(photographs[0]))
        own, real = (encoders.embeddings(DINO, as_pixels(p)) for p in (images, photographs))
        likeness.append((own @ real.T).mean())
        right += list(named_right(encoders, images, in_place(noun), seeds))
    return [
        Measurement("ip-adapter", f"DINO {how}", float(np.mean(likeness)), ""),
        Measurement("ip-adapter", f"background right {how}", float(np.mean(right)), ""),
    ]
