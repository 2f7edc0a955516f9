"""Numbers that are none (NaN, infinite), refused before a cast or a clamp hides them.

check_finite("the latents", latents, "choose another scheduler")
check_weights("sd15")
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from benchmark.api import UserError
from benchmark.models.files.diffusers_layout import all_weight_files
from benchmark.models.files.identity import SingleFile, backbone_id, locate
from benchmark.store.files import LARGE, remember, remembered

#: Of a single file, what is read; the others (a training's schedule) may be infinite.
READ = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


def check_finite(what: str, numbers: Tensor, way_out: str) -> None:
    """Raise UserError if numbers in (n, ...) `numbers` are not finite, saying in how many rows."""
    finite = torch.isfinite(numbers).flatten(1).all(dim=1)
    if not finite.all():
        raise UserError(
            f"{what} are not finite (NaN or infinite) in {int((~finite).sum())} of {len(finite)} "
            f"images: {way_out}"
        )


def check_weights(model: str) -> None:
    """Raise UserError naming the file and the tensor where a weight is not finite in float32.

    Large models are looked through once on this machine, by their identity.
    """
    place = locate(model)
    single = isinstance(place, SingleFile)
    files = [place.path] if isinstance(place, SingleFile) else all_weight_files(place)
    large = sum(file.stat().st_size for file in files) >= LARGE
    identity = backbone_id(model) if large else ""
    key = hashlib.sha256(f"finite weights of {identity}".encode()).hexdigest()[:32]
    if large and remembered(key) == identity:
        return
    for file in files:
        if file.suffix == ".safetensors":
            for name in _not_finite(file, READ if single else ("",)):
                raise UserError(
                    f"model '{model}': {file}: the tensor {name} holds NaN or infinite numbers: "
                    "bring the file anew, or another copy of the model"
                )
    if large:
        remember(key, identity)


def _not_finite(file: Path, prefixes: tuple[str, ...]) -> Iterator[str]:
    with safe_open(file, framework="pt") as tensors:
        for name in filter(lambda name: name.startswith(prefixes), tensors.keys()):
            if not torch.isfinite(tensors.get_tensor(name).float()).all():
                yield name
