"""What a safetensors file says before its weights: names, shapes and metadata. No torch here.

Eight bytes say how long the header is, which is JSON and says where each tensor's bytes lie.

read_header(Path("model.safetensors")).shapes["conv_in.weight"]       # (320, 4, 3, 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError
from benchmark.store.files import json_of

_FIRST = 8  #: bytes, which say the header's length
_LONGEST = 100_000_000  #: bytes of a header; safetensors reads none that is longer
FLOATS = ("F", "BF")  #: the formats of floating-point numbers begin so: F32, BF16, F8_E4M3


@dataclass(frozen=True)
class Header:
    """Of one file."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]  #: tensor -> its shape
    whole_numbers: frozenset[str]  #: the tensors of whole numbers, or of truth values
    metadata: Mapping[str, str]  #: what the file says of itself


def read_header(path: Path) -> Header:
    """The header of the safetensors file at `path`.

    Raises UserError for another file, and for one that is not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            found = {name: tensors.get_slice(name) for name in names}
            shapes = {name: tuple(tensor.get_shape()) for name, tensor in found.items()}
            whole = {n for n, tensor in found.items() if not tensor.get_dtype().startswith(FLOATS)}
            return Header(path, shapes, frozenset(whole), tensors.metadata() or {})
    except (SafetensorError, OSError) as error:
        if (lacking := _lacking(path)) is not None:
            raise UserError(
                f"{path} is no safetensors file that is whole: it {lacking}, so it was cut short "
                "or is still being written: wait for it, or bring it again"
            ) from error
        raise UserError(f"{path} is no safetensors file: {error}") from error


def _lacking(path: Path) -> str | None:
    """What the file at `path` lacks at its end by what it says of itself; None: nothing."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_FIRST), "little")
            header = file.read(length) if length <= _LONGEST else b""
    except OSError:
        return None
    if size < _FIRST:
        return "ends before its header"
    if header[:1] not in (b"", b"{") or length > _LONGEST:
        return None
    if len(header) < length:
        return "ends within its header"
    try:
        ends = [entry["data_offsets"][1] for entry in json_of(header).values() if _lies(entry)]
        whole = _FIRST + length + max(ends, default=0)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return f"has {size} bytes of the {whole} that its header says" if size < whole else None


def _lies(entry: object) -> bool:
    """Whether an entry of a header is a tensor: the other one, of metadata, lies nowhere."""
    return isinstance(entry, dict) and "data_offsets" in entry
