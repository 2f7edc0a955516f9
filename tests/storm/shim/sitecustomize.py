"""Kills a run at its n-th rename: Python imports this when it starts with this folder in its path.

STORM_RENAMES names a file that gets a byte for each rename of the run, by whichever of its
processes; STORM_KILL says at which of them its first process and the one at work are killed.
"""

import os
import signal
from typing import Any


def _counted(counter: str) -> int:
    file = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, b".")
        return os.fstat(file).st_size
    finally:
        os.close(file)


def _watched(rename: Any, counter: str, fatal: int) -> Any:
    def renamed(*paths: Any, **more: Any) -> None:
        if _counted(counter) == fatal:
            os.kill(os.getsid(0), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths, **more)

    return renamed


def watch() -> None:
    """Count this process's renames from now on."""
    counter, fatal = os.environ["STORM_RENAMES"], int(os.environ["STORM_KILL"])
    for name in ("replace", "rename"):
        setattr(os, name, _watched(getattr(os, name), counter, fatal))


if "STORM_RENAMES" in os.environ:
    watch()
