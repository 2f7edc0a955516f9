"""Where a model's files lie and which exact files they are. No torch here.

backbone_id("pocket")       # "pocket@" and 12 hexadecimal digits
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError
from benchmark.models.files.diffusers_layout import (
    PICKLES,
    all_weight_files,
    check_layout,
    identifying_files,
    index_settings,
)
from benchmark.models.files.header import read_header
from benchmark.models.files.hub import (
    CASCADES,
    NAMED,
    HubCascade,
    HubModel,
    hub_model,
    is_here,
    snapshot,
)
from benchmark.store.files import expanded, file_digest, resolved

POCKET = Path(__file__).parents[2] / "pocket" / "weights"
#: What comes with the package -> its folder there.
SHIPPED = {"pocket": "generator", "pocket-cascade": "cascade"}
#: What a single file predicts, where its shape does not tell: `model.safetensors@v_prediction`.
PREDICTIONS = ("epsilon", "v_prediction")
#: What a worker takes beside weights and optimiser: libraries, encoders, activations.
WORKER_BYTES = 12 * 10**8


@dataclass(frozen=True)
class SingleFile:
    """All weights of a model in one safetensors file, in its authors' own layout."""

    path: Path
    prediction: str | None  #: of PREDICTIONS, or None if it was not said


def locate(model: str) -> Path | SingleFile:
    """Where `model` lies: a directory in diffusers' layout, or a single file.

    `model` is a name in SHIPPED or `hub.CASCADES`, one in `hub.NAMED`, a directory, a hub id
    (`owner/name`, these with `@revision` if wanted), or a safetensors file (with `@epsilon` or
    `@v_prediction`). What is on the hub is fetched unless its cache has it. Raises UserError naming
    what is missing.
    """
    if model in SHIPPED:
        return _shipped(model)
    single = _single_file(model)
    if single is not None:
        return single
    hub = _on_hub(model)
    if hub is not None:
        return snapshot(hub)
    path = expanded(model)
    if not path.is_dir():
        raise UserError(
            f"unknown model '{model}': no such directory; known: {', '.join(known_names())}, a "
            "directory in diffusers' layout, owner/name on the Hugging Face hub, FILE.safetensors"
        )
    try:
        check_layout(path)
    except UserError as error:
        raise UserError(f"model '{model}': {error}") from error
    return path


def _shipped(name: str) -> Path:
    place = POCKET / SHIPPED[name]
    if not place.is_dir():
        raise UserError(
            f"model '{name}' is not shipped yet: `python -m benchmark pretrain {place.name} "
            "--out DIR` makes it in hours, on the text encoder that `pretrain generator` makes; "
            f"then name DIR/{place.name}"
        )
    return place


def known_names() -> list[str]:
    """What needs no path or repository."""
    here = [name for name, folder in SHIPPED.items() if (POCKET / folder).is_dir()]
    return [*here, *NAMED, *CASCADES]


def _on_hub(model: str) -> HubModel | HubCascade | None:
    if model.partition("@")[0] not in (*NAMED, *CASCADES) and expanded(model).exists():
        return None
    return hub_model(model)


def _single_file(model: str) -> SingleFile | None:
    name, _, last = model.rpartition("@")
    name, prediction = (name, last) if last in PREDICTIONS else (model, None)
    path = expanded(name)
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code when it is read: only safetensors are; "
            "convert it, or name the model's safetensors file"
        )
    if path.suffix.lower() != ".safetensors":
        return None
    if not path.is_file():
        raise UserError(f"model '{model}': no such file {path}")
    return SingleFile(path, prediction)


def locate_here(model: str) -> Path | SingleFile | None:
    """As `locate`, but None for a pinned model of the hub that is not in its cache yet."""
    hub = None if model in SHIPPED else _on_hub(model)
    return None if hub is not None and hub.commit and not is_here(hub) else locate(model)


def fetch(model: str) -> None:
    """See to it that the files of `model` are on this machine. Raises UserError."""
    locate(model)


def worker_memory(model: str) -> int:
    """Bytes of main memory that a process takes, about, to train the whole model on a CPU.

    16 a parameter: the float32 weight, its gradient and AdamW's two moments; and WORKER_BYTES.
    Fetches the model if it is not here. Raises UserError as `locate` does.
    """
    place = locate(model)
    files = [place.path] if isinstance(place, SingleFile) else all_weight_files(place)
    headers = [read_header(file) for file in files if file.suffix != ".json"]
    parameters = sum(math.prod(shape) for header in headers for shape in header.shapes.values())
    return 16 * parameters + WORKER_BYTES


def backbone_id(model: str) -> str:
    """`<name>@<12 hexadecimal digits>`: which exact weights and configuration `model` is.

    Of a model on the hub these are its commit's, and a pinned one need not be here; else of a
    SHA-256 over the files that are read. The name of a model given as a path is its last part, so
    that the id is the same wherever the model lies. Raises UserError as `locate` does.
    """
    hub = None if model in SHIPPED else _on_hub(model)
    if hub is not None:
        return f"{hub.name}@{(hub.commit or snapshot(hub).name)[:12]}"
    place = locate(model)
    if isinstance(place, SingleFile):
        content = f"{file_digest(place.path).hex()} {place.prediction}"
        return f"{place.path.stem}@{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    digest = hashlib.sha256()
    for path in identifying_files(place):
        digest.update(path.relative_to(place).as_posix().encode())
        digest.update(file_digest(path))
    for key, value in index_settings(place).items():
        digest.update(f"{key}={value!r}".encode())
    name = model if model in SHIPPED else resolved(place).name
    return f"{name}@{digest.hexdigest()[:12]}"
