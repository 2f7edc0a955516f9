"""Where a model's files lie and which exact files they are. No torch here.

backbone_id("pocket")       # "pocket@" and 12 hexadecimal digits
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.records import UserError

POCKET = Path(__file__).parent / "pocket" / "weights"
#: What each encoder's directory must hold. Named files only, so that no pickle is ever picked up.
ENCODER_FILES = {
    "dino": ("config.json", "model.safetensors"),
    "lpips": ("config.json", "model.safetensors"),
    "clip": ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer_config.json"),
}
SUFFIXES = (".safetensors", ".json", ".txt")  #: weights, configuration, vocabulary
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


def model_directory(model: str) -> Path:
    """The directory of "pocket", or of a model in diffusers' Stable Diffusion layout.

    Raises UserError naming the directory and the parts that it lacks.
    """
    directory = POCKET / "generator" if model == "pocket" else Path(model).expanduser()
    missing = [part for part in PARTS if not (directory / part).is_dir()]
    if missing:
        raise UserError(
            f"model '{model}': no diffusers model in {directory}: it lacks {', '.join(missing)}"
        )
    return directory


def backbone_id(model: str) -> str:
    """`<name>@<12 hexadecimal digits>`: SHA-256 over the model's weights and configuration.

    The name of a model given as a path is its last part, so that the id is the same wherever the
    model lies.
    """
    directory = model_directory(model)
    digest = hashlib.sha256()
    for path in sorted(p for part in PARTS for p in (directory / part).rglob("*")):
        if path.suffix in SUFFIXES:
            digest.update(path.relative_to(directory).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    name = model if model == "pocket" else directory.resolve().name
    return f"{name}@{digest.hexdigest()[:12]}"


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
