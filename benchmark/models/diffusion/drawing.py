"""Images drawn some at a time: as many as memory does for, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.models.backbones import latent_stage
from benchmark.models.memory.halving import SMALLER, BatchSize


def in_batches(
    texts: int, seeds: Sequence[int], resolution: int, draw: Callable[[slice], Tensor]
) -> Tensor:
    """(n, 3, resolution, resolution) on the CPU: what `draw` makes of some rows, of all of them.

    Raises ValueError unless there is a seed for each text, and UserError if memory does not do for
    one image.
    """
    if texts != len(seeds):
        raise ValueError(f"{texts} texts, but {len(seeds)} seeds")

    def drawn(size: int) -> Tensor:
        images = [torch.empty(0, 3, resolution, resolution)]
        for start in range(0, len(seeds), size):
            images.append(draw(slice(start, start + size)).cpu())
        return torch.cat(images)

    return BatchSize("sampling", latent_stage.BATCH, SMALLER).halved(len(seeds), drawn)
