"""A fence around a folder: what is tried in this process writes, moves and removes nothing outside.

    with fence(folder) as outside:
        ...                         # PermissionError for what would change another file
    outside                         # ["/dev/zero"]

Python's audit events tell of each file before it is touched. Code of other languages is not held.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Event -> which of its arguments are paths that it changes, or makes.
_CHANGES = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
}


@dataclass
class _Fence:
    """What is fenced in at the moment; an audit hook stays for good, so this says whether."""

    folder: str | None = None
    outside: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse an event that changes something outside."""
        if self.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            if not flags & _WRITING or path in (os.devnull, "/dev/tty"):
                return
            self._check(path, os.path.realpath)
        for number in _CHANGES.get(event, ()):
            self._check(arguments[number], _in_its_folder)

    def _check(self, path: Any, resolved: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):  # an open file
            return
        place = resolved(os.fsdecode(path))
        own = (f"{self.folder}{os.sep}", f"/proc/{os.getpid()}/")
        if place != self.folder and not place.startswith(own):
            self.outside.append(place)
            raise PermissionError(errno.EACCES, "it is outside the fence", place)


def _in_its_folder(path: str) -> str:
    """The path of a file or link itself, not of what it leads to."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118


_FENCE = _Fence()
sys.addaudithook(_FENCE.hear)


@contextmanager
def fence(folder: Path) -> Iterator[list[str]]:
    """Refuse what would change a file outside `folder`; what was refused."""
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _FENCE.outside = []
    _FENCE.folder = os.path.realpath(folder)
    try:
        yield _FENCE.outside
    finally:
        _FENCE.folder = None
        sys.dont_write_bytecode = bytecode
