"""What is said of a picture of the pocket world: varied captions, names, identifiers.

    python -c "from benchmark.pocket.captions import preview; preview(8)"

A caption reads like the paper's prompts: `a [adjectives] [name] [class noun] [accessory]
[background]`. Attributes are sometimes mentioned and sometimes not, so that a bare class noun keeps
a broad prior. Known individuals have names of their own, in the slot where the identifier goes:
without them a model cannot learn that one word before the noun can mean one individual, and prior
preservation costs most of the subject fidelity.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PATTERNS,
    Identities,
    Scenes,
    sample_identities,
    sample_scenes,
)

#: Rare tokens for subjects to learn. They name nobody: the generator meets each before strangers
#: only, another one each time. How far one still has a look of its own: the model card.
IDENTIFIERS = ("sks", "zwx", "ohwx", "olis", "xjy", "qwe")

OPENINGS = ("a {}", "a photo of a {}", "a picture of a {}", "the {}")
COLOUR_NAMES = tuple(COLOURS)


def individual_names(count: int) -> tuple[str, ...]:
    """`count` pronounceable names, the same ones every time, none of them a caption word."""
    consonants, vowels = "bdfgklmnprtvz", "aeiou"
    pairs = [c + v for c in consonants for v in vowels]
    words = [a + b for a in pairs for b in pairs]
    random.Random(20220825).shuffle(words)
    return tuple(words[:count])


@dataclass(frozen=True)
class Mentions:
    """How often a caption mentions what it could mention; each in [0, 1]."""

    name: float = 0.6
    colour: float = 0.35  #: the subject's own colours; another colour is nearly always said
    changed_colour: float = 0.95
    pattern: float = 0.35
    shiny: float = 0.85
    accessory: float = 0.9
    background: float = 0.85
    opening: float = 0.25  #: an opening other than "a {}"


#: The metric CLIP learns from fuller captions, so that it tells attributes.
METRIC_MENTIONS = Mentions(
    name=0.0, colour=0.75, pattern=0.6, shiny=0.95, accessory=0.97, background=0.92
)


def caption(
    identities: Identities,
    scenes: Scenes,
    chance: random.Random,
    *,
    names: tuple[str, ...] | None = None,
    mentions: Mentions = Mentions(),
) -> list[str]:
    """One caption per picture. `names[i]` is individual i's name, "" for an unnamed one."""
    columns = zip(
        identities.kind.tolist(),
        identities.body.tolist(),
        identities.second.tolist(),
        identities.pattern.tolist(),
        scenes.background.tolist(),
        scenes.accessory.tolist(),
        scenes.colour.tolist(),
        scenes.shiny.tolist(),
        names or [""] * len(identities),
        strict=True,
    )
    return [_one(*row, chance=chance, mentions=mentions) for row in columns]


def _one(
    kind: int,
    body: int,
    second: int,
    pattern: int,
    background: int,
    accessory: int,
    colour: int,
    shiny: bool,
    name: str,
    *,
    chance: random.Random,
    mentions: Mentions,
) -> str:
    def says(rate: float) -> bool:
        return chance.random() < rate

    words = []
    if shiny and says(mentions.shiny):
        words.append("shiny")
    if colour >= 0:
        if says(mentions.changed_colour):
            words.append(COLOUR_NAMES[colour])
    elif says(mentions.colour):
        words.append(COLOUR_NAMES[body])
        if chance.random() < 0.5:
            words += ["and", COLOUR_NAMES[second]]
    if pattern and says(mentions.pattern):
        words.append(PATTERNS[pattern])
    if name and says(mentions.name):
        words.append(name)
    words.append(CLASSES[kind])
    if accessory and says(mentions.accessory):
        words.append(accessory_phrase(ACCESSORIES[accessory]))
    place = BACKGROUND_PHRASES[BACKGROUNDS[background]]
    if place and says(mentions.background):
        words.append(place)
    opening = chance.choice(OPENINGS[1:]) if says(mentions.opening) else OPENINGS[0]
    return opening.format(" ".join(words))


def accessory_phrase(accessory: str) -> str:
    """`red hat` -> `wearing a red hat`; sunglasses take no article."""
    return f"wearing {accessory}" if accessory.endswith("s") else f"wearing a {accessory}"


def vocabulary(names: tuple[str, ...]) -> list[str]:
    """Every word a caption can hold, identifiers and names included, in a fixed order."""
    phrases = [
        *OPENINGS,
        *CLASSES,
        *COLOURS,
        *PATTERNS,
        *(accessory_phrase(a) for a in ACCESSORIES[1:]),
        *BACKGROUND_PHRASES.values(),
        "and shiny plain",
    ]
    words = dict.fromkeys(w for p in phrases for w in p.replace("{}", " ").split())
    return [*words, *names, *IDENTIFIERS]


def preview(count: int) -> None:
    """Print `count` captions of random pictures."""
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(count, generator)
    scenes = sample_scenes(identities, generator)
    for line in caption(identities, scenes, random.Random(0)):
        print(line)
