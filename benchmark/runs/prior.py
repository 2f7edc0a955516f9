"""Prior images: drawn once for what decides them, kept in the run directory, shared by all fits.

write_prior(draw(backbone, prior, tell), record, directory)     # -> prior/<key>.safetensors
read_prior(record, directory)                                   # (n, 3, r, r) uint8
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmark.api import Backbone, UserError, noise_seed
from benchmark.data.images import as_pixels
from benchmark.models.memory.halving import SMALLER, BatchSize
from benchmark.store.directory import RunDirectory, prior_path
from benchmark.store.files import write_atomically
from benchmark.store.records import Prior, PriorRecord

if TYPE_CHECKING:
    from torch import Tensor

#: So many are drawn and prepared at once; the others wait as bytes.
BATCH = 16


def draw(backbone: Backbone, prior: Prior, tell: Callable[[int, int], None]) -> Tensor:
    """(count, 3, resolution, resolution) uint8 images of "a [class noun]", by `backbone` as it is.

    `tell` is told of the images drawn and of all after each batch. Raises ValueError for what is no
    image, NaN included, and UserError if memory does not do for one.
    """
    batch = BatchSize("prior images", BATCH, SMALLER)
    return batch.halved(prior.count, lambda size: _drawn(backbone, prior, tell, size))


def _drawn(backbone: Backbone, prior: Prior, tell: Callable[[int, int], None], size: int) -> Tensor:
    """As `draw`, so many at once."""
    import torch

    from benchmark.models.memory.aside import aside

    text, side = f"a {prior.class_noun}", backbone.resolution
    seeds = [noise_seed("prior", text, index, prior.seed) for index in range(prior.count)]
    drawn = torch.empty(prior.count, 3, side, side, dtype=torch.uint8)
    for start in range(0, prior.count, size):
        some = seeds[start : start + size]
        with torch.no_grad():
            condition, blank = backbone.encode([text] * len(some)), backbone.encode([""])
            with aside(backbone):
                images = backbone.sample(
                    condition, some, unconditional=blank, sampler=prior.sampler
                )
        pixels = torch.from_numpy(np.stack(as_pixels(images)))
        drawn[start : start + len(some)] = pixels.permute(0, 3, 1, 2)
        tell(start + len(some), prior.count)
    return drawn


def write_prior(images: Tensor, record: PriorRecord, directory: RunDirectory) -> PriorRecord:
    """Write the images and then their record, with their SHA-256."""
    from safetensors.torch import save

    content = save({"images": images})
    write_atomically(directory.path / f"{prior_path(record.prior.key)}.safetensors", content)
    record = replace(record, sha256=hashlib.sha256(content).hexdigest())
    directory.write_prior(record)
    return record


def read_prior(record: PriorRecord, directory: RunDirectory) -> Tensor:
    """The images of `record`: (count, 3, resolution, resolution) uint8. Raises UserError."""
    from safetensors.torch import load

    path = directory.path / f"{prior_path(record.prior.key)}.safetensors"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise UserError(
            f"{path} is missing or damaged: remove {path.with_suffix('.json')}, and run again to "
            "draw the prior images anew"
        )
    return load(content)["images"]
