"""A segmenter from outside, without weights: what is red is the subject. A protocol's table says

kind = "tests.scoring.reds:REDS"
"""

from __future__ import annotations

from benchmark.api import AssetKind, UserError


class Reds:
    """It finds red pixels, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def segment(self, images, noun):
        self.asked.append((noun, tuple(images.shape)))
        return (images[:, 0] > 0.9) & (images[:, 1] < 0.1) & (images[:, 2] < 0.1)


UNKNOWN = {"ghost"}  #: class nouns


def _check_nouns(table, nouns):
    for noun in nouns:
        if noun in UNKNOWN:
            raise UserError(f"assets.segmenter: it knows no '{noun}'")


FINDS = Reds()
REDS = AssetKind(
    "segmenter", lambda table: [], lambda table, device: FINDS, check_nouns=_check_nouns
)
TABLE = {"kind": "tests.scoring.reds:REDS", "model": "reds"}
