"""Files that are whole or not there: written under a temporary name and renamed.

What cannot be written is told in one place, by `WriteError`.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import hashlib
import io
import json
import os
import re
import stat
import tomllib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import DISTRIBUTION, UserError
from benchmark.store.names import composed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: What systems and programs leave in a folder, in lower case; nobody means it.
_LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
#: What a text begins with that is not UTF-8. The longer ones first: UTF-32's begins with UTF-16's.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LARGEST = 2**30  #: bytes of what a gzipped file may hold
LARGE = 2**26  #: bytes from which on a file's digest is remembered
DEEPEST = 100  #: how many tables or lists lie within each other in a file that is read

_ROOM = "free some space, and run the same command again; what is done stays"
_ELSEWHERE = "change that, or choose another place (DIR or --out)"
_HANDLES = "raise the limit (ulimit -n), and run the same command again"
#: Why the system refuses to write, and the way out.
_REASONS = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("a file may not be so large here", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission is denied", _ELSEWHERE),
    errno.EPERM: ("permission is denied", _ELSEWHERE),
    errno.EMFILE: ("too many files are open", _HANDLES),
    errno.ENFILE: ("too many files are open", _HANDLES),
    errno.ENAMETOOLONG: ("no file has so long a name", "choose a shorter one"),
}
#: Where one file cannot be written for these reasons, no other can.
_FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
#: Of a file that is being written: by us, and by safetensors.
_UNFINISHED = re.compile(r"\.\d+\.tmp$|^\.tmp\w{6}$")


def reason(error: OSError) -> str | None:
    """Why a file cannot be had, in plain words, and the way out; None for what has none here."""
    return ": ".join(_REASONS[error.errno]) if error.errno in _REASONS else None


class WriteError(UserError):
    """A file that cannot be written: which, why, and the way out."""

    def __init__(self, path: Path, error: OSError) -> None:
        why = reason(error) or f"{error.strerror or error}: write elsewhere"
        super().__init__(f"cannot write {path}: {why}")
        self.errno = error.errno

    @property
    def final(self) -> bool:
        """Whether no other file can be written there either."""
        return self.errno in _FINAL


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, an OSError is raised as the WriteError of `path`."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what is to take the place of `path` at the end; its folder is made.

    Nothing is left if that fails. Raises WriteError, and UserError for a device or a FIFO, which
    would be replaced by a file.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"cannot write {path}: it is no regular file: write elsewhere")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, making its folder; a reader sees all of it or none of it.

    Raises WriteError.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, which everybody may read. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))  # all that is left of an OSError
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    path.chmod(0o644)  # safetensors' files are for their owner alone


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed had begun to write in `folder`, however deep.

    Nothing else may be writing there. Raises WriteError.
    """
    for place, _, names in os.walk(folder):
        for name in filter(_UNFINISHED.search, names):
            path = Path(place, name)
            with writing(path):
                path.unlink(missing_ok=True)


def png_bytes(image: np.ndarray) -> bytes:
    """`image`, (h, w, 3) uint8, as a PNG: the same bytes each time, no time stamp inside."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """The SHA-256 of `content`, in hex."""
    return hashlib.sha256(content).hexdigest()


def short(digest: str | None) -> str:
    """The first 12 digits of a hash, which tell two apart for a reader."""
    return "none" if digest is None else f"{digest[:12]}..." if len(digest) > 12 else digest


def gzipped(content: bytes) -> bytes:
    """`content` as a gzip file, without a time, so that it is the same each time."""
    return gzip.compress(content, mtime=0)


def gunzipped(content: bytes) -> bytes:
    """What a gzip file holds. Raises ValueError if it is none, or holds more than LARGEST."""
    try:
        found = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"no whole gzip file: {error}") from error
    if len(found) > LARGEST:
        raise ValueError(f"it holds more than {LARGEST} bytes")
    return found


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file; a large file's is remembered for as long as the file is not touched."""
    status = path.stat()
    if status.st_size < LARGE:
        return _read_digest(path)
    # A change of the content changes ctime, even where a tool sets mtime back.
    touched = (resolved(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = hashlib.sha256(repr(touched).encode()).hexdigest()[:32]
    with suppress(ValueError):
        digest = bytes.fromhex(remembered(key) or "")
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    digest = _read_digest(path)
    remember(key, digest.hex())
    return digest


def remembered(key: str) -> str | None:
    """What was said to `remember` under `key`, a file's name, on this machine; None if nothing."""
    with suppress(OSError, UnicodeDecodeError, RuntimeError):
        return (_memory() / key).read_text("utf-8")
    return None


def remember(key: str, what: str) -> None:
    """Keep `what` under `key` for later runs on this machine, if there is a place for it."""
    with suppress(WriteError, RuntimeError):  # no place for a cache is no reason to fail
        write_atomically(_memory() / key, what)


def _memory() -> Path:
    """Where it is kept. Raises RuntimeError if there is no home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / DISTRIBUTION / "digests"


def _read_digest(path: Path) -> bytes:
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def expanded(path: str | Path) -> Path:
    """`path`, with a home folder in the place of `~` or `~user`. Raises UserError."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: nobody of that name has a home folder here") from error


def resolved(path: Path) -> Path:
    """`path`, absolute and without symbolic links, but for those that lead to themselves."""
    return Path(os.path.realpath(path))


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises OSError, as `check_regular` does."""
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raise OSError for a FIFO or a device, which may never end, and where there is nothing."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def is_visible(name: str) -> bool:
    """Whether a file or folder called `name` is neither hidden nor left behind by a system."""
    return not name.startswith(".") and name.casefold() not in _LEFT_BY_SYSTEMS


def visible_files(folder: Path) -> list[Path]:
    """The files and folders in `folder` that are visible, sorted; nothing if there is no folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if is_visible(path.name)]
    return sorted(found, key=lambda path: composed(path.name))


def read_text(path: Path) -> str:
    """The text of a regular file. Raises OSError as `read_bytes`, ValueError as `text_of`."""
    return text_of(read_bytes(path))


def text_of(content: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises ValueError naming any other encoding."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise ValueError(f"it is {encoding} text: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"byte 0x{content[error.start]:02x} in line {line} is no UTF-8: save it as UTF-8"
        ) from None


def json_of(text: str | bytes) -> Any:
    """What JSON holds. Raises ValueError for what is no JSON, and for what is nested too deeply."""
    try:
        return _shallow(json.loads(text if isinstance(text, str) else text_of(text)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml_of(text: str | bytes) -> dict[str, Any]:
    """What TOML holds, its keys in Unicode's composed form. Raises ValueError as `json_of`."""
    try:
        content = tomllib.loads(text if isinstance(text, str) else text_of(text))
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
            f"{path} is no JSON ({error}): remove it, and repeat the command that made it"
        ) from error
