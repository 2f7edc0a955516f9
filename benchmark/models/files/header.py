"""What a safetensors file says before its weights: names, shapes and metadata. No torch here.

read_header(Path("model.safetensors")).shapes["conv_in.weight"]       # (320, 4, 3, 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError

FLOATS = ("F", "BF")  #: the formats of floating-point numbers begin so: F32, BF16, F8_E4M3


@dataclass(frozen=True)
class Header:
    """Of one file."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]  #: tensor -> its shape
    whole_numbers: frozenset[str]  #: the tensors of whole numbers, or of truth values
    metadata: Mapping[str, str]  #: what the file says of itself


def read_header(path: Path) -> Header:
    """The header of the safetensors file at `path`. Raises UserError for another file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            found = {name: tensors.get_slice(name) for name in names}
            shapes = {name: tuple(tensor.get_shape()) for name, tensor in found.items()}
            whole = {n for n, tensor in found.items() if not tensor.get_dtype().startswith(FLOATS)}
            return Header(path, shapes, frozenset(whole), tensors.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file: {error}") from error
