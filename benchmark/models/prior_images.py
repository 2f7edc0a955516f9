"""Prior images on disk: drawn once, shared by every method and subject that asks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.api import UserError


def stored(directory: Path, key: dict[str, Any], draw: Callable[[], Tensor]) -> Tensor:
    """The uint8 images kept under `key` in `directory`; if there are none yet, `draw`'s.

    `key` is what determines them: its hash names the file, and its text stands in it. Processes
    that ask at once wait for one drawing; a drawing that is interrupted leaves no file.
    """
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = directory / f"{key['class_noun'].replace(' ', '-')}-{digest}.safetensors"
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            save_file({"images": draw()}, temporary, {"key": text})
            temporary.replace(path)
    try:
        return load_file(path)["images"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"prior images {path} are damaged ({error}): delete the file") from error
