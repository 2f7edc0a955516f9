"""Where a model's files lie and which exact files they are. No torch here.

backbone_id("pocket")       # "pocket@" and 12 hexadecimal digits
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.diffusers_layout import PICKLES, SUFFIXES, check_layout, identifying_files
from benchmark.hub import NAMED, HubModel, hub_model, snapshot
from benchmark.records import UserError
from benchmark.store import write_atomically

POCKET = Path(__file__).parent / "pocket" / "weights"
#: What each encoder's directory must hold. Named files only, so that no pickle is ever picked up.
ENCODER_FILES = {
    "dino": ("config.json", "model.safetensors"),
    "lpips": ("config.json", "model.safetensors"),
    "clip": ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer_config.json"),
}
#: What a single file predicts, where its shape does not tell: `model.safetensors@v_prediction`.
PREDICTIONS = ("epsilon", "v_prediction")
LARGE = 2**26  #: bytes from which on a file's digest is remembered


@dataclass(frozen=True)
class SingleFile:
    """All weights of a model in one safetensors file, in Stable Diffusion's original layout."""

    path: Path
    prediction: str | None  #: of PREDICTIONS, or None if it was not said


def locate(model: str) -> Path | SingleFile:
    """Where `model` lies: a directory in diffusers' layout, or a single file.

    `model` is "pocket", a name in `hub.NAMED`, a directory, a hub id (`owner/name`, both with
    `@revision` if wanted), or a safetensors file (with `@epsilon` or `@v_prediction`). What is on
    the hub is fetched unless its cache has it. Raises UserError naming what is missing.
    """
    if model == "pocket":
        return POCKET / "generator"
    single = _single_file(model)
    if single is not None:
        return single
    hub = _on_hub(model)
    if hub is not None:
        return snapshot(hub)
    path = Path(model).expanduser()
    if not path.is_dir():
        raise UserError(
            f"unknown model '{model}': no such directory; known: pocket, {', '.join(NAMED)}, a "
            "directory in diffusers' layout, owner/name on the Hugging Face hub, FILE.safetensors"
        )
    try:
        check_layout(path)
    except UserError as error:
        raise UserError(f"model '{model}': {error}") from error
    return path


def _on_hub(model: str) -> HubModel | None:
    if model.partition("@")[0] not in NAMED and Path(model).expanduser().exists():
        return None
    return hub_model(model)


def _single_file(model: str) -> SingleFile | None:
    name, _, last = model.rpartition("@")
    name, prediction = (name, last) if last in PREDICTIONS else (model, None)
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code when it is read: only safetensors are; "
            "convert it, or name the model's safetensors file"
        )
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise UserError(f"model '{model}': no such file {path}")
    return SingleFile(path, prediction)


def fetch(model: str) -> None:
    """See to it that the files of `model` are on this machine. Raises UserError."""
    locate(model)


def backbone_id(model: str) -> str:
    """`<name>@<12 hexadecimal digits>`: which exact weights and configuration `model` is.

    Of a model on the hub these are its commit's, and a pinned one need not be here; else of a
    SHA-256 over the files that are read. The name of a model given as a path is its last part, so
    that the id is the same wherever the model lies. Raises UserError as `locate` does.
    """
    hub = None if model == "pocket" else _on_hub(model)
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
    name = model if model == "pocket" else place.resolve().name
    return f"{name}@{digest.hexdigest()[:12]}"


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file; a large file's is remembered for as long as the file is not touched."""
    status = path.stat()
    if status.st_size < LARGE:
        return _digest(path)
    # A change of the content changes ctime, even where a tool sets mtime back.
    touched = (path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = hashlib.sha256(repr(touched).encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    known = cache / "dreambooth-benchmark" / "digests" / key
    with suppress(OSError, ValueError):
        digest = bytes.fromhex(known.read_text())
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    digest = _digest(path)
    with suppress(OSError):  # no place for a cache is no reason to fail
        known.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(known, digest.hex())
    return digest


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def identify(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same tables with `weights`: 12 hex digits of the SHA-256 over a directory's files.

    So that scores of one encoder are never taken for another's; a name is its own identity.
    """
    identified = {}
    for name, table in settings.items():
        identified[name] = dict(table)
        directory = encoder_directory(name, table)
        if directory is not None:
            digest = hashlib.sha256()
            for path in sorted(directory.iterdir()):
                if path.suffix in SUFFIXES:
                    digest.update(path.name.encode() + path.read_bytes())
            identified[name]["weights"] = digest.hexdigest()[:12]
    return identified


def encoder_directory(name: str, table: Mapping[str, Any]) -> Path | None:
    """Where the weights lie, or None for a model that the library knows by name."""
    model = str(table.get("model", ""))
    if model == "pocket":
        directory = POCKET / ("clip" if name == "clip" else "dino")
    elif "/" in model and not model.startswith("hf-hub:"):
        directory = Path(model).expanduser()
    else:
        return None
    missing = [file for file in ENCODER_FILES[name] if not (directory / file).is_file()]
    if missing:
        raise UserError(f"encoders.{name}.model: {directory} has no {', '.join(missing)}")
    return directory
