"""Disks that take nothing more: the writes of this process fail half-way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def starved(number: int, *, after: int = 0, where: str = "") -> Iterator[list[Path]]:
    """Within, what is written under a path with `where` in it fails with errno `number`.

    The first `after` files are written; of the others half is. Gives the files that were refused.
    """
    written, refused = Path.write_bytes, []
    left = after

    def write(path: Path, content: bytes) -> int:
        nonlocal left
        if where not in str(path):
            return written(path, content)
        if left:
            left -= 1
            return written(path, content)
        refused.append(path)
        written(path, content[: len(content) // 2])
        raise OSError(number, os.strerror(number), str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        yield refused
