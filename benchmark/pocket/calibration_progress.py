"""Progress of a calibration, on the terminal or line by line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Row = TypeVar("Row")


def watched(parts: Callable[..., Iterator[tuple[str, list[Row]]]], total: int) -> list[Row]:
    """What all parts found, while the progress through `total` pictures is shown.

    `parts(progress=...)` yields each part's name and what it found, and calls `progress` with the
    number of pictures newly seen.
    """
    started = time.monotonic()
    console = Console(stderr=True)
    rows: list[Row] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{total} pictures", total=total)
        for part, found in parts(progress=lambda seen: bar.advance(task, seen)):
            rows += found
            if not console.is_terminal:  # where no bar is seen
                seen, seconds = bar.tasks[task].completed, time.monotonic() - started
                print(f"{part}: {seen:.0f} of {total} pictures, {seconds:.0f} s", file=sys.stderr)
    return rows
