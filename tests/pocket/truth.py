"""A renderer whose pictures are the truth in numbers, and encoders that see a known part of it.

The fixture `toy` puts it in the place of the pocket world's.
"""

from types import SimpleNamespace

import numpy as np
import torch

from benchmark.pocket.calibration_scenes import PLACES
from benchmark.pocket.judges_asked import JUDGES, TRUE_MASK, WHOLE
from benchmark.pocket.world import ACCESSORIES, BACKGROUND_PHRASES, BACKGROUNDS, CLASSES, COLOURS
from benchmark.scoring.views import Seen

# What the toy renderer draws: a row of numbers, the truth itself, cut in named pieces.
IDENTITY = len(CLASSES) + 9 + 4 + 8
WIDTHS = {
    "identity": IDENTITY,
    "kind": len(CLASSES),
    "background": len(BACKGROUNDS),
    "colour": len(COLOURS) + 1,
    "accessory": len(ACCESSORIES),
    "pose": 6,
}


def one_hot(index, count):
    return torch.nn.functional.one_hot(index, count).float()


def draw_truth(identities, scenes):
    kind = one_hot(identities.kind, len(CLASSES))
    rows = (identities.rgb.flatten(1), identities.weight, identities.shape)
    colour = one_hot(scenes.colour + 1, len(COLOURS) + 1)
    colour[:, 0] = 0
    accessory = one_hot(scenes.accessory, len(ACCESSORIES))
    accessory[:, 0] = 0
    background = one_hot(scenes.background, len(BACKGROUNDS))
    return torch.cat([kind, *rows, kind, background, colour, accessory, scenes.pose], dim=1)


def piece(pictures, *names):
    cut = dict(zip(WIDTHS, pictures.split(list(WIDTHS.values()), dim=1), strict=True))
    return torch.cat([cut[name] for name in names], dim=1).numpy()


def without_background(pictures):
    start = IDENTITY + len(CLASSES)
    pictures = pictures.clone()
    pictures[:, start : start + len(BACKGROUNDS)] = 0
    return pictures


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


SAID = ("kind", "background", "colour", "accessory")


class Identity:
    """An encoder that is the true identity."""

    def embeddings(self, pictures):
        return unit(piece(pictures, "identity"))


class Sayable:
    """What can be said of a picture, with a little identity."""

    def embeddings(self, pictures):
        identity = unit(piece(pictures, "identity"))
        return unit(np.concatenate([unit(piece(pictures, *SAID)), 0.1 * identity], axis=1))

    def text_embeddings(self, texts):
        said = np.array([self._words(text) for text in texts], np.float32)
        return unit(np.concatenate([said, np.zeros((len(said), IDENTITY))], axis=1))

    def _words(self, text):
        noun, _, dress = text.removeprefix("a ").partition(" wearing ")
        dress = dress.removeprefix("a ")
        place = next((p for p in PLACES if noun.endswith(BACKGROUND_PHRASES[p])), None)
        words = noun.split()
        return [
            *(name in words for name in CLASSES),
            *(name == place for name in BACKGROUNDS),
            False,
            *(name in words[:1] for name in COLOURS),
            *(name == dress for name in ACCESSORIES),
        ]


class Background:
    """Sees the background, and next to nothing else: faint numbers without order."""

    def embeddings(self, pictures):
        scale = 1e5 * (2 + piece(pictures, "pose")[:, :1].astype(np.float64))
        noise = np.sin(scale * piece(pictures, "identity"))
        return unit(np.concatenate([piece(pictures, "background"), 1e-4 * noise], axis=1))


class Middling:
    """The true identity under noise that is another in each picture."""

    def embeddings(self, pictures):
        identity = unit(piece(pictures, "identity").astype(np.float64))
        noise = np.sin(1e5 * (2 + piece(pictures, "pose")[:, :1].astype(np.float64)) * identity)
        return unit(identity + 0.25 * noise)


class Stacked:
    """An encoder of pictures that come one by one, as a view shows them."""

    def __init__(self, encoder):
        self.encoder = encoder

    def embeddings(self, pictures):
        return self.encoder.embeddings(torch.stack(list(pictures)))


class Unsure:
    """A view that shows pictures as they are, but does not find the subject in those of `lost`."""

    def __init__(self, name, lost=lambda picture, noun: False, not_found="unscored"):
        self.name, self.finder, self.lost = name, self, lost
        self.view = SimpleNamespace(not_found=not_found)

    def mask(self, picture, noun):
        return not self.lost(picture, noun)

    def see(self, pictures, noun, masks):
        return Seen(list(pictures), np.array(masks, bool))


VIEWS = {name: judge.view for name, judge in JUDGES.items() if judge.view not in (WHOLE, TRUE_MASK)}
SURE = {name: Unsure(view) for name, view in VIEWS.items()}
