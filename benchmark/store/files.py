"""Files that are whole or not there: written under a temporary name and renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError

if TYPE_CHECKING:
    import numpy as np


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, making its folder; a reader sees all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def png_bytes(image: np.ndarray) -> bytes:
    """`image`, (h, w, 3) uint8, as a PNG: the same bytes each time, no time stamp inside."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """The SHA-256 of `content`, in hex."""
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path) -> Any:
    """What the JSON file at `path` holds. Raises UserError."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is no JSON ({error}): remove it, or choose another --out"
        ) from error
