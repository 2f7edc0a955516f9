"""The measured quality of the pocket segmenter.

python -m benchmark pretrain segmenter --evaluate
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmark.api import Segmenter
from benchmark.models.assets.segmenters import NOUN_UNET
from benchmark.pocket.evaluate import Measurement
from benchmark.pocket.pictures import SCENE_RATES
from benchmark.pocket.segmenter import find, intersection_over_union
from benchmark.pocket.training import step_generator
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import BACKGROUNDS, CLASSES, render, sample_identities, sample_scenes


def load_segmenter(directory: Path, device: str) -> Segmenter:
    """The pocket segmenter in `directory`. Raises UserError."""
    return NOUN_UNET.load({"kind": "noun-unet", "model": f"{directory}/"}, device)


def segmentation(segmenter: Segmenter, count: int = 2000) -> list[Measurement]:
    """IoU with the renderer's masks, and whether a noun that is not there is not found.

    On fresh renders of strangers, with accessories and other colours as in training.
    """
    generator = step_generator("segmentation", 0)
    identities = sample_identities(count, generator)
    scenes = sample_scenes(identities, generator, **SCENE_RATES)
    pictures, truth = render(identities, scenes), true_masks(identities, scenes)
    overlap = intersection_over_union(find(segmenter, pictures, identities.kind), truth)
    shift = torch.randint(1, len(CLASSES), (count,), generator=generator)
    absent = find(segmenter, pictures, (identities.kind + shift) % len(CLASSES))
    empty = ~absent.flatten(1).any(dim=1)
    return [
        Measurement("segmenter", "IoU on renders", overlap.mean().item(), ">= 0.95"),
        _least("class", overlap, identities.kind, CLASSES),
        _least("background", overlap, scenes.background, BACKGROUNDS),
        Measurement("segmenter", "nothing found of an absent noun", _share(empty), ">= 0.95"),
    ]


def _least(what: str, overlap: Tensor, of: Tensor, names: tuple[str, ...]) -> Measurement:
    """The mean IoU of the class, or background, where it is least."""
    means = {name: overlap[of == i].mean().item() for i, name in enumerate(names)}
    name = min(means, key=lambda one: means[one])
    return Measurement("segmenter", f"IoU of the worst {what}, {name}", means[name], "")


def _share(right: Tensor) -> float:
    return right.float().mean().item()
