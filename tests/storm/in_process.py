"""The command line in this process: it ends with 0, 1 or 2, in time, and says why in words.

answer = call(["list", "subjects"], folder)
answer.fault            # "" or "ValueError: ... at benchmark/data/images.py:41"
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmark.cli import app
from benchmark.runs.workers import execute
from tests.storm.fence import fence

LIMIT = 60  #: seconds for one command, on a machine that is busy with others
_ROOT = str(Path(app.__file__).parent.parent.parent) + os.sep


class Hung(BaseException):
    """A command took more than LIMIT seconds."""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    error: str
    raised: str = ""  #: what went through to the interpreter, and where it came from
    outside: tuple[str, ...] = ()  #: what it would have changed beside the folder

    @property
    def fault(self) -> str:
        """What is wrong with that; an empty string if nothing is."""
        if self.raised:
            return self.raised
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if "Traceback (most recent call last)" in self.out + self.error:
            return "it printed a traceback"
        lines = [line for line in self.error.splitlines() if line.startswith("error: ")]
        if self.code == 2 and len(lines) != 1 and "Usage: " not in self.error:
            return f"exit code 2 and no word why: {self.error[:200]!r}"
        return ""


def call(arguments: list[str], folder: Path) -> Answer:
    """`python -m benchmark` with these arguments, in `folder`, which is fenced in.

    Jobs are done in this process, and figures, which take most of a report's time, are not drawn.
    """
    out, error = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True)
        for errors in ("strict", "backslashreplace")
    )
    raised, code = "", 0
    with (
        _surroundings(arguments, folder),
        fence(folder) as outside,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            app.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException as fault:  # noqa: BLE001
            raised = _described(fault)
    return Answer(code, _text(out), _text(error), raised, tuple(outside))


@contextlib.contextmanager
def _surroundings(arguments: list[str], folder: Path) -> Iterator[None]:
    def here(*work: Any, place: object, **how: Any) -> None:
        execute(*work, place=None, **how)

    def too_long(*_: object) -> None:
        raise Hung(f"it took more than {LIMIT} s")

    before = Path.cwd(), signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGALRM, too_long)
    home = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "home" / ".cache")}
    os.chdir(folder)
    signal.setitimer(signal.ITIMER_REAL, LIMIT, LIMIT)  # again, if the first is swallowed
    faulthandler.dump_traceback_later(
        3 * LIMIT, exit=True
    )  # code of other languages hears no signal
    try:
        with (
            patch.object(sys, "argv", ["benchmark", *arguments]),
            patch.dict(os.environ, home),
            patch("benchmark.grid.running.execute", here),
            patch("benchmark.runs.workers.is_ours", lambda group, name: True),
            patch("matplotlib.figure.Figure.savefig", lambda *_, **__: None),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, before[1])
        signal.signal(signal.SIGALRM, before[2])
        os.chdir(before[0])


def _described(fault: BaseException) -> str:
    """The kind of error, what it says, and the last place in the package that it came from."""
    frames = [f for f in traceback.extract_tb(fault.__traceback__) if f.filename.startswith(_ROOT)]
    inner = [f for f in frames if "/tests/" not in f.filename] or frames
    place = f"{inner[-1].filename.removeprefix(_ROOT)}:{inner[-1].lineno}" if inner else "nowhere"
    return f"{type(fault).__name__} at {place}: {fault}"


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode("utf-8")
