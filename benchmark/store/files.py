"""Files that are whole or not there: written under a temporary name and renamed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.store.names import composed

if TYPE_CHECKING:
    import numpy as np

LARGE = 2**26  #: bytes from which on a file's digest is remembered
DEEPEST = 100  #: how many tables or lists lie within each other in a file that is read


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, making its folder; a reader sees all of it or none of it.

    Raises UserError for a device or a FIFO, which would be replaced by a file.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"cannot write {path}: it is no regular file: write elsewhere")
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


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file; a large file's is remembered for as long as the file is not touched."""
    status = path.stat()
    if status.st_size < LARGE:
        return _read_digest(path)
    # A change of the content changes ctime, even where a tool sets mtime back.
    touched = (path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = hashlib.sha256(repr(touched).encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    known = cache / "dreambooth-benchmark" / "digests" / key
    with suppress(OSError, ValueError):
        digest = bytes.fromhex(known.read_text())
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    digest = _read_digest(path)
    with suppress(OSError):  # no place for a cache is no reason to fail
        known.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(known, digest.hex())
    return digest


def _read_digest(path: Path) -> bytes:
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises OSError, as `check_regular` does."""
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raise OSError for a FIFO or a device, which may never end, and where there is nothing."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def json_of(text: str | bytes) -> Any:
    """What JSON holds. Raises ValueError for what is no JSON, and for what is nested too deeply."""
    try:
        return _shallow(json.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml_of(text: str | bytes) -> dict[str, Any]:
    """What TOML holds, its keys in Unicode's composed form. Raises ValueError as `json_of`."""
    try:
        content = tomllib.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    composed_content: dict[str, Any] = _composed_keys(_shallow(content))
    return composed_content


def _shallow(content: Any) -> Any:
    """`content`, which is nested at most DEEPEST times: anything may walk through it."""
    level = [content]
    for _ in range(DEEPEST):
        tables = [one for one in level if isinstance(one, dict | list)]
        level = [v for one in tables for v in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return content
    raise ValueError("it is nested too deeply")


def _composed_keys(content: Any) -> Any:
    if isinstance(content, list):
        return [_composed_keys(one) for one in content]
    if not isinstance(content, dict):
        return content
    found = {composed(key): _composed_keys(value) for key, value in content.items()}
    if len(found) < len(content):
        twice = next(key for key in content if key != composed(key))
        raise ValueError(f"'{twice}' is there twice, in two Unicode forms")
    return found


def read_json(path: Path) -> Any:
    """What the JSON file at `path` holds. Raises UserError."""
    try:
        return json_of(read_bytes(path))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is no JSON ({error}): remove it, or choose another --out"
        ) from error
