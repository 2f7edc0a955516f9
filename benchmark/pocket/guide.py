"""Pretraining the pocket guide: a CLIP that methods may look through, and that scores nothing.

It is in transformers' layout, a ViT in place of the metric CLIP's ResNet, and has a seed and a
recipe of its own: what a method gains by it, it has not gained from what scores it.

Captions alone tell little of an individual, and contrast learns slowly. So a linear map of the
image embedding also has to say what the renderer was told: of the subject its class, colours,
pattern and proportions, of the scene the rest. The map is not kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.logging import disable_progress_bar

from benchmark.pocket.captions import Mentions, caption, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.pictures import SCENE_RATES, distort, rolling
from benchmark.pocket.training import (
    Recipe,
    inner_matrices,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.vocabulary import END, MAX_LENGTH, START, build_tokenizer, save_tokenizer
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PATTERNS,
    Batch,
    Identities,
    Scenes,
    render,
    sample_identities,
    sample_scenes,
)

GUIDE_RECIPE = Recipe(
    steps=1000, batch=64, learning_rate=1e-3, muon_rate=0.01, cooldown=0.5, weight_decay=0.05
)
SIZE = 64  #: height and width of its pictures
WIDTH = 96  #: of embeddings, of images and texts
#: Captions name nobody, and most of what there is to see.
MENTIONS = Mentions(
    name=0.0, colour=0.7, pattern=0.7, shiny=0.95, accessory=0.95, background=0.9, opening=0.4
)
#: Pictures that are drawn together, and how often one is met on average.
POOL, MEETINGS = 2048, 4
#: How many answers there are to each question: class, pattern, background, accessory, another
#: colour or none, gloss or none; then nine numbers of the colours and eight of the proportions.
CHOICES = (len(CLASSES), len(PATTERNS), len(BACKGROUNDS), len(ACCESSORIES), len(COLOURS) + 1, 2)
NUMBERS = 17
NUMBERS_WEIGHT = 10.0  #: so that their squared errors weigh about as much as a question
#: What stands next to pixels, tokens and embeddings.
ENDS = (
    *("clip.vision_model.embeddings", "clip.text_model.embeddings"),
    *("clip.visual_projection", "clip.text_projection", "told"),
)


class Guide(nn.Module):
    """The CLIP, and what says by its image embeddings what the renderer was told."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = CLIPModel(configuration(tokenizer))
        self.told = nn.Linear(WIDTH, sum(CHOICES) + NUMBERS)


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

    @property
    def choices(self) -> tuple[Tensor, ...]:
        """The right answers of CHOICES, each (n,)."""
        who, where = self.identities, self.scenes
        there = (where.background, where.accessory, where.colour + 1, where.shiny.long())
        return (who.kind, who.pattern, *there)

    @property
    def numbers(self) -> Tensor:
        """(n, NUMBERS) in [0, 1]."""
        return torch.cat([self.identities.rgb.flatten(1), self.identities.shape], dim=1)


def show(count: int, generator: torch.Generator, device: str) -> Shown:
    """Pictures of as many strangers in any scenes."""
    identities = sample_identities(count, generator).to(device)
    scenes = sample_scenes(identities, generator, **SCENE_RATES)
    return Shown(render(identities, scenes), identities, scenes)


def pretrain_guide(recipe: Recipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) the guide in `directory`; write it to `output`."""
    torch.manual_seed(5)
    tokenizer = build_tokenizer(vocabulary(named()[0]))
    model = Guide(tokenizer).to(device)

    def pool(index: int) -> Shown:
        return show(POOL, step_generator("guide pool", index), device)

    shown = rolling(pool, POOL, MEETINGS, recipe.batch)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("guide", step)
        some = shown(step, generator)
        texts = caption(some.identities, some.scenes, random.Random(step), mentions=MENTIONS)
        pictures = distort(some.pictures, generator)
        images, words, scale = embed(model.clip, tokenizer, pictures, texts)
        return contrast(images, words, scale) + wrong(model.told(images), some)

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
    with quick_autocast(device):
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


def wrong(answers: Tensor, shown: Shown) -> Tensor:
    """How far (n, CHOICES and NUMBERS) answers are from what the renderer was told."""
    *choices, numbers = answers.split((*CHOICES, NUMBERS), dim=1)
    asked = [cross_entropy(a, truth) for a, truth in zip(choices, shown.choices, strict=True)]
    return torch.stack(asked).sum() + NUMBERS_WEIGHT * mse_loss(numbers, shown.numbers)


def contrast(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss, both ways: row i of `one` (n, width) belongs to row i of `other`."""
    logits = scale * normalize(one.float(), dim=1) @ normalize(other.float(), dim=1).T
    truth = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2


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
