"""Which pixels of a pocket picture are the subject's own, known from how the picture is drawn.

    true_masks(identities, scenes)      # (n, 64, 64) bool

Painted once over black and once over white, the subject covers what does not differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.pocket.shapes import TEMPLATES
from benchmark.pocket.world import (
    CLASSES,
    Identities,
    Scenes,
    check,
    dress,
    groups,
    make_pen,
)


@torch.no_grad()
def true_masks(identities: Identities, scenes: Scenes, *, size: int = 64) -> Tensor:
    """(n, size, size) bool: the pixels of which the subject covers more than half.

    What it wears is not the subject, nor is its shadow.
    """
    check(identities, scenes, size)
    device = identities.rgb.device
    line = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    x, y = line.view(1, 1, size), -line.view(1, size, 1)
    x, y = x.expand(1, size, size), y.expand(1, size, size)
    masks = torch.empty(len(identities), size, size, dtype=torch.bool, device=device)
    for kind, rows in groups(identities.kind, len(CLASSES)):
        subjects, worn = [], []
        for tone in (0.0, 1.0):
            canvas = torch.full((len(rows), 3, size, size), tone, device=device)
            pen = make_pen(canvas, x, y, identities[rows], scenes[rows])
            anchors = TEMPLATES[CLASSES[kind]](pen)
            subjects.append(pen.image)
            pen.image = torch.full_like(canvas, tone)
            if anchors is not None:
                dress(pen, anchors, scenes.accessory[rows])
            worn.append(pen.image)
        bare, seen_past = 1 - _difference(subjects), _difference(worn)
        masks[rows] = bare * seen_past > 0.5
    return masks


def _difference(over_black_and_white: list[Tensor]) -> Tensor:
    """(n, H, W): the share of each pixel that shows what lies behind."""
    black, white = over_black_and_white
    return (white - black).mean(dim=1)
