"""Pretraining the pocket generator's text encoder: CLIP's contrast, with the truth for pictures.

The renderer knows what it draws, so the image tower is a small network over that description: the
subject's colours, pattern and proportions, the background, the accessory. Captions are matched to
descriptions at the end of text, as in CLIP, and at the class noun, where a name or an identifier
must tell. The generator then trains with the text encoder frozen, as Stable Diffusion did.

An identifier is a mark of its own in the description, put on another stranger each time: so it
encodes away from the bare class noun, as a rare token does, but not towards anybody's looks. The
generator meets it before strangers only, too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmark.pocket.captions import IDENTIFIERS, caption, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.training import (
    Recipe,
    load_average,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.vocabulary import END, MAX_LENGTH, START, build_tokenizer
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    Identities,
    Scenes,
    sample_identities,
    sample_scenes,
)

TEXT_WIDTH = 128
TEXT_RECIPE = Recipe(steps=2000, batch=256, learning_rate=1e-3)
#: Shares of captions that speak of a named individual, and of an identifier's.
BY_NAME, BY_IDENTIFIER = 0.4, 0.15
#: Cosines over this are the contrast's logits.
TEMPERATURE = 0.07


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder with random weights: 4 layers of width 128."""
    vocabulary_ids = tokenizer.get_vocab()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary_ids),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=vocabulary_ids[START],
            eos_token_id=vocabulary_ids[END],
            pad_token_id=vocabulary_ids[END],
        )
    )


@dataclass(frozen=True)
class Texts:
    """A trained text encoder with its tokenizer, frozen."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        """(n, length, width) encodings, computed by `quick_autocast`."""
        device = self.text_encoder.device
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        with quick_autocast(device):
            return self.text_encoder(ids.input_ids.to(device))[0]


class Matched(nn.Module):
    """The text encoder beside the towers for descriptions: (n, 128) unit vectors from each."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.subjects = _tower(SUBJECT_SIZE)
        self.pictures = _tower(SUBJECT_SIZE + len(BACKGROUNDS) + len(ACCESSORIES))

    def texts(self, ids: Tensor, nouns: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings at the noun and at the end of text, of token ids (n, length)."""
        states = self.text_encoder(ids)[0]
        rows = torch.arange(len(ids))
        end = ids.argmax(dim=1)
        return normalize(states[rows, nouns], dim=1), normalize(states[rows, end], dim=1)


def _tower(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(size, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, TEXT_WIDTH)
    )


#: Class, three colours, pattern weights, shape, recolouring, gloss, identifier.
SUBJECT_SIZE = len(CLASSES) + 9 + 4 + 8 + len(COLOURS) + 1 + 1 + len(IDENTIFIERS) + 1


def describe(identities: Identities, scenes: Scenes, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What the renderer is told, as numbers, and which identifier stands in the place of a name.

    (n, subject) and (n, subject and place).
    """
    marks = [IDENTIFIERS.index(n) + 1 if n in IDENTIFIERS else 0 for n in names]
    subject = torch.cat(
        [
            one_hot(identities.kind, len(CLASSES)),
            2 * identities.rgb.flatten(1) - 1,
            identities.weight,
            2 * identities.shape - 1,
            one_hot(scenes.colour + 1, len(COLOURS) + 1),
            scenes.shiny[:, None],
            one_hot(torch.tensor(marks), len(IDENTIFIERS) + 1),
        ],
        dim=1,
    )
    place = torch.cat(
        [
            one_hot(scenes.background, len(BACKGROUNDS)),
            one_hot(scenes.accessory, len(ACCESSORIES)),
        ],
        dim=1,
    )
    return subject, torch.cat([subject, place], dim=1)


def who_is_spoken_of(count: int, generator: torch.Generator) -> tuple[Identities, tuple[str, ...]]:
    """`count` individuals, and what each is called: a name, an identifier, or "" for neither."""
    all_names, known = named()
    strangers = sample_identities(count, generator)
    share = torch.rand(count, generator=generator)
    known_one = torch.randint(len(known), (count,), generator=generator)
    mark = torch.randint(len(IDENTIFIERS), (count,), generator=generator)
    is_known, is_marked = share < BY_NAME, share > 1 - BY_IDENTIFIER
    who = torch.where(is_known, known_one, len(known) + torch.arange(count))
    names = (*all_names, *[""] * count)
    called = [
        IDENTIFIERS[m] if marked else names[w]
        for w, m, marked in zip(who.tolist(), mark.tolist(), is_marked.tolist(), strict=True)
    ]
    return Identities.cat([known, strangers])[who], tuple(called)


def train_text_encoder(
    tokenizer: CLIPTokenizer, recipe: Recipe, directory: Path, device: str
) -> CLIPTextModel:
    """Match captions with descriptions, both ways, at the noun and at the end of text."""
    torch.manual_seed(2)
    model = Matched(build_text_encoder(tokenizer)).to(device)
    noun_ids = torch.tensor(tokenizer.convert_tokens_to_ids([c + "</w>" for c in CLASSES]))

    def loss_at(step: int) -> Tensor:
        generator = step_generator("text", step)
        identities, names = who_is_spoken_of(recipe.batch, generator)
        scenes = sample_scenes(identities, generator)
        texts = caption(identities, scenes, random.Random(step), names=names)
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        nouns = (ids == noun_ids[identities.kind][:, None]).int().argmax(dim=1)
        ids = ids[:, : int(ids.argmax(dim=1).max()) + 1]  # causal attention: padding adds nothing
        subjects, pictures = describe(identities, scenes, names)
        with quick_autocast(device):
            at_noun, at_end = model.texts(ids.to(device), nouns.to(device))
        return _contrast(at_noun, model.subjects(subjects.to(device))) + _contrast(
            at_end, model.pictures(pictures.to(device))
        )

    return train_part("text", model, loss_at, recipe, directory).text_encoder


def _contrast(texts: Tensor, truths: Tensor) -> Tensor:
    logits = texts.float() @ normalize(truths.float(), dim=1).T / TEMPERATURE
    answers = torch.arange(len(texts), device=texts.device)
    return (cross_entropy(logits, answers) + cross_entropy(logits.T, answers)) / 2


def read_texts(directory: Path, device: str) -> Texts:
    """The text encoder whose checkpoint lies in `directory`. Raises UserError if there is none."""
    tokenizer = build_tokenizer(vocabulary(named()[0]))
    matched = load_average(directory / "text.safetensors", Matched(build_text_encoder(tokenizer)))
    return Texts(matched.text_encoder.eval().requires_grad_(False).to(device), tokenizer)
