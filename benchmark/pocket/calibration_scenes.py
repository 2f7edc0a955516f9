"""Calibration's scenes and texts: a thing changed alone, and prompts that fit or do not.

changes = change(identities, in_a_place(plain_scenes(identities, g), g), g)
subjects, scenes = changes["only the pose"]     # the same but for every scene's pose
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from benchmark.pocket.captions import COLOUR_NAMES, accessory_phrase
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    Identities,
    Scenes,
    classmates,
    sample_scenes,
)

MATCHED, CLASSMATE, OTHER_CLASS = "colour-matched classmate", "classmate", "other class"
#: Backgrounds that a prompt can ask for: all but the last, which is plain.
PLACES = tuple(name for name in BACKGROUNDS if BACKGROUND_PHRASES[name])
#: What changes alone -> the field of Scenes that does.
FIELDS = {
    "only the background": "background",
    "only the background's details": "seed",
    "only the pose": "pose",
    "only the light": "light",
    "only the gloss": "shiny",
    "only an accessory": "accessory",
    "only the body's colour": "colour",
}
#: What changes alone, another subject in the same scene -> whether that one has its colours.
INSTEAD = {f"only the subject: {MATCHED}": True, f"only the subject: {CLASSMATE}": False}

#: The metrics that are calibrated: those that compare subjects, and the one that reads prompts.
OF_SUBJECTS, OF_PROMPTS = ("dino", "clip_i", "dino_masked"), "clip_t"
#: Metrics that see the subject alone, on black, by its true mask -> those that see all.
MASKED = {"dino_masked": "dino"}
#: How many colour-matched classmates stand beside a subject in its smallest gallery.
LOOK_ALIKES = 4
AMONG_ALL, AMONG_MATES = "among all subjects", f"among {LOOK_ALIKES} colour-matched classmates"
#: The change that a metric is there to notice: the others are told as shares of it.
STANDARD = {
    **dict.fromkeys(OF_SUBJECTS, f"only the subject: {MATCHED}"),
    OF_PROMPTS: "only the background",
}
#: Where a subject turns into another -> whether that one has its colours.
MORPHS = {f"morph to {CLASSMATE}": False, f"morph to {MATCHED}": True}
AMOUNTS = tuple(step / 10 for step in range(11))


def change(
    identities: Identities, scenes: Scenes, generator: torch.Generator
) -> dict[str, tuple[Identities, Scenes]]:
    """Copies in which one field of every scene has another value, or the subject is another.

    Objects, which wear nothing, get no accessory. Scenes are in one of PLACES, and remain so.
    """
    new = sample_scenes(identities, generator, accessory_rate=1, colour_rate=1, shiny_rate=1)
    new = replace(new, background=another(scenes.background, len(PLACES), generator))
    changes = {
        axis: (identities, replace(scenes, **{field: getattr(new, field)}))
        for axis, field in FIELDS.items()
    }
    for axis, same_colours in INSTEAD.items():
        changes[axis] = (classmates(identities, generator, same_colours=same_colours), scenes)
    return changes


def did_change(before: tuple[Identities, Scenes], after: tuple[Identities, Scenes]) -> Tensor:
    """(n,) bool: whether any number of a subject or of its scene differs."""
    differs = torch.zeros(len(before[0]), dtype=torch.bool)
    for old, new in zip(before, after, strict=True):
        for field in fields(old):
            unequal = getattr(old, field.name) != getattr(new, field.name)
            differs |= unequal.view(len(differs), -1).any(dim=1)
    return differs


def another(index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n,) a random other index in [0, count) for each index."""
    return (index + torch.randint(1, count, index.shape, generator=generator)) % count


def in_a_place(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """The scenes, each in one of PLACES at random."""
    background = torch.randint(len(PLACES), (len(scenes),), generator=generator)
    return replace(scenes, background=background)


def placed(kinds: Tensor, backgrounds: Tensor) -> list[str]:
    """`a dog in the snow`, for indices into CLASSES and PLACES; like all prompts of the suite."""
    pairs = zip(kinds.tolist(), backgrounds.tolist(), strict=True)
    return [f"a {CLASSES[k]} {BACKGROUND_PHRASES[PLACES[b]]}" for k, b in pairs]


def coloured(kinds: Tensor, colours: Tensor) -> list[str]:
    """`a red dog`, for indices into CLASSES and COLOURS."""
    pairs = zip(kinds.tolist(), colours.tolist(), strict=True)
    return [f"a {COLOUR_NAMES[c]} {CLASSES[k]}" for k, c in pairs]


def wearing(kinds: Tensor, worn: Tensor) -> list[str]:
    """`a dog wearing a red hat`, for indices into CLASSES and ACCESSORIES."""
    pairs = zip(kinds.tolist(), worn.tolist(), strict=True)
    return [f"a {CLASSES[k]} {accessory_phrase(ACCESSORIES[a])}" for k, a in pairs]
