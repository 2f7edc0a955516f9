"""Where a report of its own goes: a folder that is new, empty, or holds an earlier one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmark.api import UserError


def check_output(directory: Path, what: str, files: Collection[str], *, overwrite: bool) -> None:
    """Raise UserError if `directory` holds what nobody said may be replaced.

    An earlier one has all `files`; it is called a `what`.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: choose another --out")
    there = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if {*files} <= there:
        if not overwrite:
            raise UserError(f"{directory} holds a {what}: replace it with --overwrite")
    elif there:
        raise UserError(f"{directory} holds other files: choose another --out")
