"""How good the pocket models are, on freshly rendered pictures that no training saw.

`quality(...)` measures; `write_model_card(...)` prints it into `weights/MODEL_CARD.md`.
    python -m benchmark pretrain --evaluate
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.data.images import as_pixels
from benchmark.models.stable_diffusion import StableDiffusion
from benchmark.pocket.captions import IDENTIFIERS, accessory_phrase
from benchmark.pocket.generator import draw
from benchmark.pocket.training import step_generator
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    LIVE,
    Identities,
    classmates,
    render,
    sample_identities,
    sample_scenes,
)
from benchmark.scoring.features import Encoders

#: The shipped judges, as the pocket protocol calls them.
CLIP, DINO = "clip", "dino"
PLACES = tuple(b for b in BACKGROUNDS if BACKGROUND_PHRASES[b])
WORN = ACCESSORIES[1:]


@dataclass(frozen=True)
class Measurement:
    """One line of the model card; `goal` is what it should reach, as the card prints it."""

    part: str
    name: str
    value: float
    goal: str


def quality(
    backbone: StableDiffusion,
    encoders: Encoders,
    *,
    per_cell: int,
    say: Callable[[str], None] = print,
) -> list[Measurement]:
    """Measure every part.

    `per_cell` pictures are sampled for each class x background, an eighth of that for each class x
    colour word, half of it for each class x accessory, and `per_cell`, but at least 16, for each
    class with and without an identifier.
    """
    rows: list[Measurement] = []
    for measure in (
        lambda: judge_on_renders(encoders),
        lambda: identity_on_renders(encoders),
        lambda: reconstruction(backbone),
        lambda: pictures(backbone, encoders, per_cell),
        lambda: identifiers(backbone, encoders, per_cell),
    ):
        for row in measure():
            say(f"{row.part:12} {row.name:44} {row.value:8.3f}   {row.goal}")
            rows.append(row)
    return rows


def named_right(
    encoders: Encoders, images: Tensor, texts: Sequence[str], truth: Sequence[int]
) -> np.ndarray:
    """(n,) bool: whether the metric CLIP finds text `truth[i]` the likeliest for image i."""
    scores = encoders.embeddings(CLIP, as_pixels(images)) @ encoders.text_embeddings(CLIP, texts).T
    return scores.argmax(axis=1) == np.asarray(truth)


def judge_on_renders(encoders: Encoders, count: int = 3000) -> list[Measurement]:
    """The metric CLIP's accuracy on real renders."""
    identities, scenes, images = draw(count, step_generator("judge", 0), "cpu")
    nouns = [CLASSES[k] for k in identities.kind.tolist()]
    rows = [("class", named_right(encoders, images, _of_class(), identities.kind.tolist()), 0.95)]
    placed = [i for i, b in enumerate(scenes.background.tolist()) if BACKGROUNDS[b] in PLACES]
    places = [PLACES.index(BACKGROUNDS[scenes.background[i]]) for i in placed]
    rows.append(("background", _by_noun(encoders, images, nouns, placed, places, _in_place), 0.95))
    changed = [i for i, c in enumerate(scenes.colour.tolist()) if c >= 0]
    colours = [int(scenes.colour[i]) for i in changed]
    rows.append(
        ("colour word", _by_noun(encoders, images, nouns, changed, colours, _coloured), 0.85)
    )
    dressed = [i for i, a in enumerate(scenes.accessory.tolist()) if a > 0]
    worn = [int(scenes.accessory[i]) - 1 for i in dressed]
    rows.append(("accessory", _by_noun(encoders, images, nouns, dressed, worn, _wearing), 0.85))
    return [Measurement("CLIP", f"{n} right on renders", r.mean(), f">= {g}") for n, r, g in rows]


def _of_class() -> list[str]:
    return [f"a {noun}" for noun in CLASSES]


def _in_place(noun: str) -> list[str]:
    return [f"a {noun} {BACKGROUND_PHRASES[p]}" for p in PLACES]


def _coloured(noun: str) -> list[str]:
    return [f"a {c} {noun}" for c in COLOURS]


def _wearing(noun: str) -> list[str]:
    return [f"a {noun} {accessory_phrase(a)}" for a in WORN]


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


@torch.no_grad()
def reconstruction(backbone: StableDiffusion, count: int = 256) -> list[Measurement]:
    """The VAE's PSNR in dB over fresh renders (mean of the pictures' own)."""
    _, _, images = draw(count, step_generator("psnr", 0), backbone.device.type)
    vae = backbone.pipeline.vae
    latents = vae.encode(images * 2 - 1).latent_dist.mean
    decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    error = (decoded - images).square().mean(dim=(1, 2, 3))
    return [Measurement("VAE", "PSNR, dB", (-10 * error.log10()).mean().item(), ">= 28")]


@torch.no_grad()
def sampled(backbone: StableDiffusion, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """An image of each text from each seed, with the suite's sampler."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return backbone.sample(backbone.encode(list(rows))[[rows[text] for text in texts]], seeds)


def pictures(backbone: StableDiffusion, encoders: Encoders, per_cell: int) -> list[Measurement]:
    """Whether the generator's pictures show what was asked for, by the metric CLIP."""
    cells = [(k, p) for k in range(len(CLASSES)) for p in range(len(PLACES))] * per_cell
    nouns = [CLASSES[k] for k, _ in cells]
    texts = [_in_place(n)[p] for n, (_, p) in zip(nouns, cells, strict=True)]
    images = sampled(backbone, texts, range(len(texts)))
    everything = range(len(cells))
    kinds, places = [k for k, _ in cells], [p for _, p in cells]
    rows = [("class", named_right(encoders, images, _of_class(), kinds), 0.85)]
    rows.append(
        ("background", _by_noun(encoders, images, nouns, everything, places, _in_place), 0.9)
    )
    per_word = -(-per_cell // 8)
    rows.append(("colour word", _asked(backbone, encoders, per_word, CLASSES, _coloured), 0.8))
    live = [n for n in CLASSES if n in LIVE]
    rows.append(("accessory", _asked(backbone, encoders, 4 * per_word, live, _wearing), 0.75))
    return [Measurement("generator", f"{n} right", r.mean(), f">= {g}") for n, r, g in rows]


def _asked(
    backbone: StableDiffusion,
    encoders: Encoders,
    count: int,
    nouns: Sequence[str],
    texts: Callable[[str], list[str]],
) -> np.ndarray:
    """Sample `count` pictures of each text of each noun; whether the judge names the text."""
    asked = [(n, i) for n in nouns for i in range(len(texts(n)))] * count
    images = sampled(backbone, [texts(n)[i] for n, i in asked], range(len(asked)))
    every = range(len(asked))
    return _by_noun(encoders, images, [n for n, _ in asked], every, [i for _, i in asked], texts)


@torch.no_grad()
def identifiers(backbone: StableDiffusion, encoders: Encoders, per_cell: int) -> list[Measurement]:
    """Whether each identifier changes the noun's encoding, yet has no look of its own.

    The cosine is between the encodings at the noun of `a [V] class` and `a class`. The look is the
    mean DINO cosine among images of `a [V] class`, over the same among images of `a class`: a word
    that means one individual would raise it.
    """
    rows = []
    seeds = range(max(16, per_cell))
    for identifier in IDENTIFIERS:
        cosines, looks = [], []
        for noun in CLASSES:
            texts = [f"a {noun}", f"a {identifier} {noun}"]
            plain, marked = backbone.encode(texts).embeddings
            cosines.append(torch.cosine_similarity(plain[2], marked[3], dim=0).item())
            if identifier == IDENTIFIERS[0]:
                images = [sampled(backbone, [text] * len(seeds), seeds) for text in texts]
                alike = [_alikeness(encoders.embeddings(DINO, as_pixels(i))) for i in images]
                looks.append(alike[1] - alike[0])
        rows.append(
            Measurement(
                "identifier", f"{identifier}: cosine at the noun", float(np.mean(cosines)), "< 0.9"
            )
        )
        if looks:
            rows.append(
                Measurement(
                    "identifier",
                    f"{identifier}: a look of its own",
                    float(np.mean(looks)),
                    "about 0",
                )
            )
    return rows


def _alikeness(features: np.ndarray) -> float:
    """Mean cosine over pairs of different images."""
    similarity = features @ features.T
    return float(similarity[~np.eye(len(features), dtype=bool)].mean())


def sample_sheet(
    backbone: StableDiffusion, path: Path, *, columns: int = 8, scale: int = 2
) -> None:
    """A PNG of samples: a row per class noun, a prompt per column."""
    rows = []
    for noun in CLASSES:
        asked = [f"a {noun}", *_in_place(noun)[:4], f"a red {noun}", f"a shiny {noun}"]
        asked.append(_wearing(noun)[0] if noun in LIVE else f"a striped {noun}")
        rows.append(sampled(backbone, asked[:columns], range(columns)))
    _save_sheet(torch.cat(rows), path, columns=columns, scale=scale)


def _save_sheet(images: Tensor, path: Path, *, columns: int, scale: int) -> None:
    count, _, height, width = images.shape
    grid = images.view(count // columns, columns, 3, height, width)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(-1, columns * width, 3)
    picture = Image.fromarray(grid.mul(255).round().byte().numpy())
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(
        path
    )


def write_model_card(rows: Sequence[Measurement], path: Path, *, per_cell: int) -> None:
    """Write the measured quality as Markdown; sizes are read off the files beside the card."""
    files = sorted(path.parent.rglob("*.safetensors"))
    lines = [
        "# The pocket models",
        "",
        "A small Stable Diffusion, a CLIP and a DINO-shaped ViT, trained from nothing on pictures",
        "that `benchmark/pocket/world.py` draws. They are a stand-in for the paper's models, made",
        "so that the whole benchmark runs offline on two CPU cores; they know nothing of",
        "photographs. Rebuild them: `python -m benchmark pretrain all`. [TRAINING.md](TRAINING.md)",
        "tells how they were trained.",
        "",
        f"Measured by `python -m benchmark pretrain --evaluate --per-cell {per_cell}` on renders",
        "and samples that no training saw:",
        "",
        "| part | measure | value | goal |",
        "|---|---|---|---|",
        *(f"| {r.part} | {r.name} | {r.value:.3f} | {r.goal} |" for r in rows),
        "",
        "| file | size, MB |",
        "|---|---|",
        *(f"| `{f.relative_to(path.parent)}` | {f.stat().st_size / 1e6:.1f} |" for f in files),
        "",
        "Samples: a row a class noun; columns `a [noun]`, four backgrounds, `a red [noun]`,",
        "`a shiny [noun]`, and an accessory (live) or stripes.",
        "",
        "![Samples of the generator](samples.png)",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
