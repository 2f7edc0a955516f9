"""What a job may change in its process beside the backbone, which `Loan` sees to.

with boxed():
    method.fit(...)     # raises LeftBehind if it goes to another folder, starts what goes on, ...
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_GRACE = 1.0  #: seconds that threads which are about to end have for it
_SHOWN = 80  #: characters of a command line


class LeftBehind(RuntimeError):
    """A job left something in the backbone or in its process that it should have taken out."""


def in_words(error: BaseException) -> str:
    """The kind of error and what it says, as any file and terminal takes it."""
    try:
        said = str(error)
    except Exception as another:  # a plugin's error, and its own code
        said = f"(its text cannot be had: {type(another).__name__})"
    return plain(f"{type(error).__name__}: {said}")


def plain(text: str) -> str:
    """`text` with an escape for what is no UTF-8, such as bytes of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def boxed() -> Iterator[None]:
    """Put the process back as it was before; raises LeftBehind if more was left than may be.

    Working folder, umask and environment are put back. Threads (but daemons) and child processes
    are named and go on: their worker process is to be replaced. Variables that are new in the
    environment fail no job, since libraries set some when they are imported.
    """
    before = _Surroundings.now()
    try:
        yield
    except Exception as error:
        if left := before.put_back():
            raise LeftBehind(f"{in_words(error)}; it left {left}") from error
        raise
    except BaseException:  # Ctrl-C, an exit: let through, once the process is put back
        before.put_back()
        raise
    if left := before.put_back():
        raise LeftBehind(f"it left {left}")


@dataclass(frozen=True)
class _Surroundings:
    """Of a process at one time."""

    process: int
    folder: str
    umask: int
    environment: dict[str, str]
    threads: frozenset[threading.Thread]
    children: frozenset[int]  #: process ids

    @classmethod
    def now(cls) -> _Surroundings:
        umask = os.umask(0o022)  # it is read by being set
        os.umask(umask)
        threads = frozenset(threading.enumerate())
        return cls(
            os.getpid(), str(Path.cwd()), umask, dict(os.environ), threads, frozenset(_children())
        )

    def put_back(self) -> str:
        """Put back what can be; what was left behind, in words, or an empty string."""
        if os.getpid() != self.process:
            os._exit(1)  # a copy of the process that the job forked: the job is not its to finish
        return "; ".join([*self._settings(), *self._running()])

    def _settings(self) -> Iterator[str]:
        with suppress(FileNotFoundError):  # it may have removed the folder that it is in
            if (folder := str(Path.cwd())) != self.folder:
                yield f"the working folder at {folder}"
        os.chdir(self.folder)
        if (umask := os.umask(self.umask)) != self.umask:
            yield f"the umask at {umask:03o}"
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                yield f"the environment variable {name} changed"
        if dict(os.environ) != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)

    def _running(self) -> Iterator[str]:
        deadline = time.monotonic() + _GRACE
        for thread in set(threading.enumerate()) - self.threads:
            if not thread.daemon:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    yield f"the thread '{thread.name}' running"
        for process, command in _children().items():
            if process not in self.children:
                yield f"the process {process} ({command}) running"


def _children() -> dict[int, str]:
    """Process id -> command of the child processes; off Linux, of those of `multiprocessing`."""
    found = {child.pid or 0: child.name for child in multiprocessing.active_children()}
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has just ended
            for process in listed.read_text().split():
                with suppress(OSError):  # and so may a process
                    line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
                    if line:  # else it has ended, and nobody has asked how
                        found[int(process)] = line.decode(errors="replace").strip()[:_SHOWN]
    return found
