"""How good the pocket models are, on freshly rendered pictures that no training saw.

`quality(...)` measures; `model_card.py` writes it into `weights/MODEL_CARD.md`.
    python -m benchmark pretrain --evaluate
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from benchmark.api import Backbone
from benchmark.data.images import as_pixels
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.pocket.captions import IDENTIFIERS, accessory_phrase, caption
from benchmark.pocket.pictures import draw
from benchmark.pocket.training import step_generator
from benchmark.pocket.vae import psnr
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    LIVE,
    PATTERNS,
    Identities,
    classmates,
    render,
    sample_identities,
    sample_scenes,
)
from benchmark.scoring.features import Encoders

#: The shipped metric encoders, as the pocket protocol calls them.
CLIP, DINO = "clip", "dino"
PLACES = tuple(b for b in BACKGROUNDS if BACKGROUND_PHRASES[b])
WORN = ACCESSORIES[1:]
#: What is asked for and looked at: (trait, the metric CLIP's own accuracy on renders, the share of
#: that accuracy which the generator's pictures should reach).
TRAITS = (
    ("class", 0.95, 0.98),
    ("background", 0.95, 0.98),
    ("colour word", 0.85, 0.98),
    ("accessory", 0.85, 0.95),
    ("pattern", 0.85, 0.95),
)


@dataclass(frozen=True)
class Measurement:
    """One line of the model card; `goal` is what it should reach, as the card prints it."""

    part: str
    name: str
    value: float
    goal: str

    @property
    def line(self) -> str:
        """For a terminal."""
        return f"{self.part:12} {self.name:44} {self.value:8.3f}   {self.goal}"


def quality(
    backbones: Mapping[str, Backbone],
    encoders: Encoders,
    *,
    per_cell: int,
    say: Callable[[str], None] = print,
) -> list[Measurement]:
    """Measure every part; `backbones`: the "generator", and what else draws, by its part's name.

    `per_cell` pictures are sampled for each class x background, an eighth of that for each class x
    colour word, half of it for each class x accessory, a quarter for each class x pattern, and
    `per_cell`, but at least 16, for each class with and without an identifier.
    """
    generator = backbones["generator"]
    assert isinstance(generator, LatentDiffusion)
    on_renders = clip_on_renders(encoders)
    measures = [
        lambda: on_renders,
        lambda: identity_on_renders(encoders),
        lambda: reconstruction(generator),
        lambda: denoising(generator),
        lambda: identifiers(generator),
    ]
    for part, backbone in backbones.items():
        measures += [
            partial(pictures, part, backbone, encoders, per_cell, on_renders),
            partial(own_look, part, backbone, encoders, per_cell),
        ]
    rows: list[Measurement] = []
    for measure in measures:
        for row in measure():
            say(row.line)
            rows.append(row)
    return rows


def named_right(
    encoders: Encoders, images: Tensor, texts: Sequence[str], truth: Sequence[int]
) -> np.ndarray:
    """(n,) bool: whether the metric CLIP finds text `truth[i]` the likeliest for image i."""
    scores = encoders.embeddings(CLIP, as_pixels(images)) @ encoders.text_embeddings(CLIP, texts).T
    return scores.argmax(axis=1) == np.asarray(truth)


def clip_on_renders(encoders: Encoders, count: int = 3000) -> list[Measurement]:
    """The metric CLIP's accuracy on real renders, by TRAITS and in their order."""
    identities, scenes, images = draw(count, step_generator("judge", 0), "cpu")  # a seed
    nouns = [CLASSES[k] for k in identities.kind.tolist()]
    rows = [named_right(encoders, images, _of_class(), identities.kind.tolist())]
    shown_in = [BACKGROUNDS[b] for b in scenes.background.tolist()]
    places = [PLACES.index(b) if b in PLACES else -1 for b in shown_in]
    worn, patterns = scenes.accessory - 1, identities.pattern - 1
    for texts, truth in (
        (in_place, places),
        (_coloured, scenes.colour.tolist()),
        (wearing, worn.tolist()),
        (_patterned, patterns.tolist()),
    ):
        shown = [i for i, t in enumerate(truth) if t >= 0]
        rows.append(_by_noun(encoders, images, nouns, shown, [truth[i] for i in shown], texts))
    return [
        Measurement("CLIP", f"{trait} right on renders", float(row.mean()), f">= {goal}")
        for (trait, goal, _), row in zip(TRAITS, rows, strict=True)
    ]


def _of_class() -> list[str]:
    return [f"a {noun}" for noun in CLASSES]


def in_place(noun: str) -> list[str]:
    return [f"a {noun} {BACKGROUND_PHRASES[p]}" for p in PLACES]


def _coloured(noun: str) -> list[str]:
    return [f"a {c} {noun}" for c in COLOURS]


def wearing(noun: str) -> list[str]:
    return [f"a {noun} {accessory_phrase(a)}" for a in WORN]


def _patterned(noun: str) -> list[str]:
    return [f"a {p} {noun}" for p in PATTERNS[1:]]


def _by_noun(
    encoders: Encoders,
    images: Tensor,
    nouns: Sequence[str],
    chosen: Sequence[int],
    truth: Sequence[int],
    texts: Callable[[str], list[str]],
) -> np.ndarray:
    """`named_right` over images[chosen], each among the texts of its own noun."""
    right = []
    for noun in sorted(set(nouns)):
        mine = [(i, t) for i, t in zip(chosen, truth, strict=True) if nouns[i] == noun]
        if mine:
            index = [i for i, _ in mine]
            right.append(named_right(encoders, images[index], texts(noun), [t for _, t in mine]))
    return np.concatenate(right)


def identity_on_renders(encoders: Encoders, individuals: int = 300) -> list[Measurement]:
    """How the metric DINO tells individuals apart on real renders (mean cosines, accuracy)."""
    generator = step_generator("identity", 0)
    subjects = sample_identities(individuals, generator)
    same_class = classmates(subjects, generator, same_colours=False)
    same_colours = classmates(subjects, generator, same_colours=True)

    def view(identities: Identities) -> np.ndarray:
        scenes = sample_scenes(identities, generator, colour_rate=0.0)
        return encoders.embeddings(DINO, as_pixels(render(identities, scenes)))

    first, second = view(subjects), view(subjects)
    same = (first * second).sum(axis=1).mean()
    other = (first * view(same_class)).sum(axis=1).mean()
    matched = (first * view(same_colours)).sum(axis=1).mean()
    nearest = ((first @ second.T).argmax(axis=1) == np.arange(individuals)).mean()
    return [
        Measurement("DINO", "same subject, cosine", same, ""),
        Measurement("DINO", "same subject over classmate, cosine", same - other, ">= 0.3"),
        Measurement("DINO", "same subject over colour-matched classmate", same - matched, ">= 0.2"),
        Measurement("DINO", f"nearest of {individuals} subjects right", nearest, ">= 0.85"),
    ]


def reconstruction(backbone: LatentDiffusion) -> list[Measurement]:
    """The VAE's PSNR over fresh renders."""
    return [Measurement("VAE", "PSNR, dB", psnr(backbone.pipeline.vae), ">= 28")]


@torch.no_grad()
def denoising(backbone: LatentDiffusion, each: int = 20) -> list[Measurement]:
    """The PSNR of fresh renders, noised at 25 timesteps, denoised in one go, and decoded.

    Unlike a loss on latents, it compares generators whose VAEs differ.
    """
    unet, vae = backbone.pipeline.unet, backbone.pipeline.vae
    scheduler = DDIMScheduler.from_config(backbone.pipeline.scheduler.config)
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    generator, chance = step_generator("denoising", 0), random.Random(0)
    errors = []
    for timestep in range(20, 1000, 40):
        identities, scenes, drawn = draw(each, generator, "cpu")
        condition = backbone.encode(caption(identities, scenes, chance))
        latents = vae.encode(drawn * 2 - 1).latent_dist.mean * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        noised = scheduler.add_noise(latents, noise, torch.full((each,), timestep))
        output = unet(noised, timestep, **condition.for_denoiser()).sample
        clean = scheduler.step(output, timestep, noised).pred_original_sample
        decoded = vae.decode(clean / vae.config.scaling_factor).sample / 2 + 0.5
        errors.append((decoded.clamp(0, 1) - drawn).square().mean())
    value = -10 * math.log10(torch.stack(errors).mean().item())
    return [Measurement("generator", "PSNR of denoised renders, dB", value, "")]


@torch.no_grad()
def sampled(backbone: Backbone, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """An image of each text from each seed, with the suite's sampler."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return backbone.sample(backbone.encode(list(rows))[[rows[text] for text in texts]], seeds)


def pictures(
    part: str,
    backbone: Backbone,
    encoders: Encoders,
    per_cell: int,
    on_renders: Sequence[Measurement],
) -> list[Measurement]:
    """Whether the pictures of `part` show what was asked for, by the metric CLIP.

    The goals are shares of the accuracy `on_renders` that it has itself.
    """
    cells = [(k, p) for k in range(len(CLASSES)) for p in range(len(PLACES))] * per_cell
    nouns = [CLASSES[k] for k, _ in cells]
    texts = [in_place(n)[p] for n, (_, p) in zip(nouns, cells, strict=True)]
    images = sampled(backbone, texts, range(len(texts)))
    everything = range(len(cells))
    kinds, places = [k for k, _ in cells], [p for _, p in cells]
    per_word = -(-per_cell // 8)
    live = [n for n in CLASSES if n in LIVE]
    rows = [
        named_right(encoders, images, _of_class(), kinds),
        _by_noun(encoders, images, nouns, everything, places, in_place),
        _asked(backbone, encoders, per_word, CLASSES, _coloured),
        _asked(backbone, encoders, 4 * per_word, live, wearing),
        _asked(backbone, encoders, 2 * per_word, CLASSES, _patterned),
    ]
    return [
        Measurement(
            part,
            f"{trait} right",
            float(row.mean()),
            f">= {share * own.value:.3f}, {share:.0%} of the metric CLIP's",
        )
        for (trait, _, share), own, row in zip(TRAITS, on_renders, rows, strict=True)
    ]


def _asked(
    backbone: Backbone,
    encoders: Encoders,
    count: int,
    nouns: Sequence[str],
    texts: Callable[[str], list[str]],
) -> np.ndarray:
    """Sample `count` pictures of each text of each noun; whether the metric CLIP names the text."""
    asked = [(n, i) for n in nouns for i in range(len(texts(n)))] * count
    images = sampled(backbone, [texts(n)[i] for n, i in asked], range(len(asked)))
    every = range(len(asked))
    return _by_noun(encoders, images, [n for n, _ in asked], every, [i for _, i in asked], texts)


@torch.no_grad()
def identifiers(backbone: LatentDiffusion) -> list[Measurement]:
    """Whether each identifier changes the noun's encoding.

    The cosine is between the encodings at the noun of `a [V] class` and `a class`.
    """
    rows = []
    for identifier in IDENTIFIERS:
        cosines = []
        for noun in CLASSES:
            texts = [f"a {noun}", f"a {identifier} {noun}"]
            plain, marked = backbone.encode(texts).for_pipeline()["prompt_embeds"]
            cosines.append(torch.cosine_similarity(plain[2], marked[3], dim=0).item())
        name, value = f"{identifier}: cosine at the noun", float(np.mean(cosines))
        rows.append(Measurement("identifier", name, value, "< 0.9"))
    return rows


def own_look(part: str, backbone: Backbone, encoders: Encoders, per_cell: int) -> list[Measurement]:
    """Whether pictures of `part` give the first identifier a look of its own.

    The mean DINO cosine among images of `a [V] class`, over the same among images of `a class`: a
    word that means one individual would raise it.
    """
    looks, seeds = [], range(max(16, per_cell))
    for noun in CLASSES:
        images = [
            sampled(backbone, [text] * len(seeds), seeds)
            for text in (f"a {noun}", f"a {IDENTIFIERS[0]} {noun}")
        ]
        plain, marked = (_alikeness(encoders.embeddings(DINO, as_pixels(i))) for i in images)
        looks.append(marked - plain)
    name = f"{IDENTIFIERS[0]}: a look of its own"
    return [Measurement(part, name, float(np.mean(looks)), "<= 0.08")]


def _alikeness(features: np.ndarray) -> float:
    """Mean cosine over pairs of different images."""
    similarity = features @ features.T
    return float(similarity[~np.eye(len(features), dtype=bool)].mean())
