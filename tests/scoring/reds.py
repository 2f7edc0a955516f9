"""A segmenter from outside, without weights: what is red is the subject. A protocol's table says

kind = "tests.scoring.reds:REDS"
"""

from __future__ import annotations

from benchmark.api import UserError


class Reds:
    """Kind and segmenter in one."""

    version = "1"
    role = "segmenter"

    def __init__(self):
        self.asked = []

    def files(self, table):
        return []

    def load(self, table, device):
        return self

    def check_nouns(self, table, nouns):
        for noun in nouns:
            if noun == "ghost":
                raise UserError("assets.segmenter: it knows no 'ghost'")

    def segment(self, images, noun):
        self.asked.append((noun, tuple(images.shape)))
        return (images[:, 0] > 0.9) & (images[:, 1] < 0.1) & (images[:, 2] < 0.1)


REDS = Reds()
TABLE = {"kind": "tests.scoring.reds:REDS", "model": "reds"}
