"""What a job learned, in a safetensors file: with `--keep-weights` no job is fitted twice."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError, Weights
from benchmark.store.directory import Name, RunDirectory, export_path, weights_path
from benchmark.store.files import replacing, save_tensors, sha256, write_atomically
from benchmark.store.records import KeptWeights


@dataclass(frozen=True)
class Size:
    """Of what was learned."""

    numbers: int  #: in tensors that are no integers
    bytes: int  #: of all tensors


def size_of(weights: Weights) -> Size:
    """How much a job learned."""
    tensors = list(weights.values())
    return Size(
        sum(tensor.numel() for tensor in tensors if tensor.is_floating_point()),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def write_weights(weights: Weights, name: Name, directory: RunDirectory) -> KeptWeights:
    """Write what job `name` learned. Returns what its record says of the file."""
    relative = weights_path(name)
    # Copies: tensors that share memory are no file's content.
    tensors = {key: tensor.detach().to("cpu", copy=True) for key, tensor in weights.items()}
    with replacing(directory.path / relative) as temporary:
        save_tensors({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
        return KeptWeights(relative, temporary.stat().st_size, _sha256(temporary))


def write_export(
    export: Callable[[Path], None], name: Name, directory: RunDirectory
) -> dict[str, str]:
    """Write what `export` does to a folder that it is given. Returns each file's SHA-256."""
    hashes = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = f"{export_path(name)}/{path.relative_to(folder).as_posix()}"
            content = path.read_bytes()
            write_atomically(directory.path / relative, content)
            hashes[relative] = sha256(content)
    return hashes


def read_weights(kept: KeptWeights | None, directory: RunDirectory) -> Weights | None:
    """The tensors of `kept`, on the CPU; None if there is no file. Raises UserError."""
    from safetensors.torch import load_file

    path = directory.path / kept.file if kept else None
    if kept is None or path is None or not path.is_file():
        return None
    if _sha256(path) != kept.sha256:
        raise UserError(f"{path} was changed: remove it, and what it held is learned again")
    return load_file(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
