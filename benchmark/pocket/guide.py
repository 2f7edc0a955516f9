"""Pretraining the pocket guide: a CLIP that methods may look through, and that no judge shares.

It is in transformers' layout, a ViT in the judge's ResNet's place, and has a seed and a recipe of
its own: what a method gains by it, it has not gained from what scores it.

Captions alone tell little of an individual. So half of the objective is the judges' DINO's: two
pictures of one individual are matched, among colour-matched classmates, by a linear map of the
image embedding. The map is not kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.logging import disable_progress_bar

from benchmark.pocket.captions import Mentions, caption, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.pictures import SCENE_RATES, distort
from benchmark.pocket.training import Recipe, inner_matrices, step_generator, train_part
from benchmark.pocket.vocabulary import END, MAX_LENGTH, START, build_tokenizer, save_tokenizer
from benchmark.pocket.world import (
    Batch,
    Identities,
    Scenes,
    classmates,
    render,
    sample_identities,
    sample_scenes,
)

GUIDE_RECIPE = Recipe(
    steps=900, batch=64, learning_rate=1e-3, muon_rate=0.01, cooldown=0.5, weight_decay=0.05
)
SIZE = 64  #: height and width of its pictures
WIDTH = 96  #: of embeddings, of images and texts
#: Captions name nobody, and most of what there is to see.
MENTIONS = Mentions(
    name=0.0, colour=0.7, pattern=0.7, shiny=0.95, accessory=0.95, background=0.9, opening=0.4
)
TEMPERATURE = 0.1  #: of the match of two pictures of one individual
#: Pictures that are drawn together, two an individual, and how often one is met on average.
POOL, MEETINGS = 2048, 4
#: What stands next to pixels, tokens and embeddings.
ENDS = (
    *("clip.vision_model.embeddings", "clip.text_model.embeddings"),
    *("clip.visual_projection", "clip.text_projection", "individual"),
)


class Guide(nn.Module):
    """The CLIP, and what reads individuals off its image embeddings while it is trained."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = CLIPModel(configuration(tokenizer))
        self.individual = nn.Linear(WIDTH, WIDTH)


def configuration(tokenizer: CLIPTokenizer) -> CLIPConfig:
    """transformers' configuration: 4 layers on patches of 8 x 8 pixels, 2 on text."""
    ids = tokenizer.get_vocab()
    tokens = {"bos_token_id": ids[START], "eos_token_id": ids[END], "pad_token_id": ids[END]}
    return CLIPConfig(
        text_config={
            "vocab_size": len(ids),
            "hidden_size": 96,
            "intermediate_size": 384,
            "projection_dim": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": MAX_LENGTH,
            **tokens,
        },
        vision_config={
            "image_size": SIZE,
            "patch_size": 8,
            "hidden_size": 128,
            "intermediate_size": 512,
            "projection_dim": WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        projection_dim=WIDTH,
    )


@dataclass(frozen=True)
class Shown(Batch):
    """n pictures, and what the renderer was told of each."""

    pictures: Tensor  #: (n, 3, 64, 64) in [0, 1]
    identities: Identities
    scenes: Scenes


def shown_twice(individuals: int, generator: torch.Generator, device: str) -> tuple[Shown, Shown]:
    """Two pictures of each of as many individuals, in scenes of their own.

    The second half of the individuals are colour-matched classmates of the first half.
    """
    half = sample_identities(individuals // 2, generator)
    identities = Identities.cat([half, classmates(half, generator, same_colours=True)])
    views = []
    for _ in range(2):
        scenes = sample_scenes(identities, generator, **SCENE_RATES)
        pictures = render(identities.to(device), scenes.to(device))
        views.append(Shown(pictures, identities, scenes))
    return views[0], views[1]


def pretrain_guide(recipe: Recipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) the guide in `directory`; write it to `output`."""
    torch.manual_seed(5)
    tokenizer = build_tokenizer(vocabulary(named()[0]))
    model = Guide(tokenizer).to(device)
    twice = _rolling(recipe.batch // 2, device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("guide", step)
        first, second = twice(step, generator)
        chance = random.Random(step)
        texts = [
            text
            for some in (first, second)
            for text in caption(some.identities, some.scenes, chance, mentions=MENTIONS)
        ]
        pictures = distort(torch.cat([first.pictures, second.pictures]), generator)
        images, words, scale = embed(model.clip, tokenizer, pictures, texts)
        own_colours = (first.scenes.colour < 0) & (second.scenes.colour < 0)
        with torch.autocast(device, torch.bfloat16):
            a, b = model.individual(images).chunk(2)
        matched = contrast(a[own_colours], b[own_colours], 1 / TEMPERATURE)
        return contrast(images, words, scale) + matched

    inner = inner_matrices(model, *ENDS)
    trained = train_part("guide", model, loss_at, recipe, directory, by_muon=inner)
    save_guide(trained.clip, tokenizer, output)


def embed(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Tensor, texts: list[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (n, WIDTH) of pictures in [0, 1] and of texts, and the contrast's scale."""
    device = pictures.device
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    end = tokenizer.convert_tokens_to_ids(END)
    longest = int((ids == end).int().argmax(dim=1).max()) + 1  # causal: padding adds nothing
    with torch.autocast(device.type, torch.bfloat16):
        seen = clip.vision_model(normalised(pictures)).pooler_output
        read = clip.text_model(ids[:, :longest].to(device)).pooler_output
        images, words = clip.visual_projection(seen), clip.text_projection(read)
    return images.float(), words.float(), clip.logit_scale.exp().clamp(max=100)


def normalised(pictures: Tensor) -> Tensor:
    """As `CLIPImageProcessor` makes them."""
    mean, std = (
        torch.tensor(numbers, device=pictures.device).view(3, 1, 1)
        for numbers in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return (pictures - mean) / std


def contrast(one: Tensor, other: Tensor, scale: Tensor | float) -> Tensor:
    """CLIP's loss, both ways: row i of `one` (n, width) belongs to row i of `other`."""
    logits = scale * normalize(one.float(), dim=1) @ normalize(other.float(), dim=1).T
    truth = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2


def _rolling(
    individuals: int, device: str
) -> Callable[[int, torch.Generator], tuple[Shown, Shown]]:
    """(step, generator) -> individuals of a pool, of which there is another after its MEETINGS."""
    half = POOL // 4

    @lru_cache(maxsize=1)
    def pool(index: int) -> tuple[Shown, Shown]:
        return shown_twice(2 * half, step_generator("guide pool", index), device)

    def some(step: int, generator: torch.Generator) -> tuple[Shown, Shown]:
        first, second = pool(2 * step * individuals // (POOL * MEETINGS))
        chosen = torch.randperm(half, generator=generator)[: individuals // 2]
        rows = torch.cat([chosen, chosen + half])  # with their classmates
        return first[rows], second[rows]

    return some


def save_guide(clip: CLIPModel, tokenizer: CLIPTokenizer, directory: Path) -> None:
    """Write transformers' folder, weights as fp16 safetensors."""
    disable_progress_bar()
    directory.mkdir(parents=True, exist_ok=True)
    clip.to("cpu", torch.float16).save_pretrained(directory, safe_serialization=True)
    (directory / "model.safetensors").chmod(0o644)
    # transformers computes in the precision that a configuration names.
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    CLIPImageProcessor(**sizes).save_pretrained(directory)
    save_tokenizer(tokenizer, directory)
