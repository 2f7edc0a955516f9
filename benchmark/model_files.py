"""Where a model's files lie and which exact files they are. No torch here.

backbone_id("pocket")       # "pocket@" and 12 hexadecimal digits
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmark.records import UserError

POCKET = Path(__file__).parent / "pocket" / "weights" / "generator"
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


def model_directory(model: str) -> Path:
    """The directory of "pocket", or of a model in diffusers' Stable Diffusion layout.

    Raises UserError naming the directory and the parts that it lacks.
    """
    directory = POCKET if model == "pocket" else Path(model).expanduser()
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
        if path.suffix in (".safetensors", ".json", ".txt"):
            digest.update(path.relative_to(directory).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    name = model if model == "pocket" else directory.resolve().name
    return f"{name}@{digest.hexdigest()[:12]}"
