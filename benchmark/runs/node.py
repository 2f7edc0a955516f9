"""What decides the last digits of scores on a machine, and whether its disk is another's.

this_node().difference(another)     # "its device is cuda, and the run's is cpu", or ""
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError
from benchmark.runs.machine import hide_gpus
from benchmark.store.files import write_atomically
from benchmark.store.provenance import provenance


@dataclass(frozen=True)
class Node:
    """A machine as a process on it sees it."""

    name: str
    device: str  #: "cpu" or "cuda"
    processor: str  #: the GPU's name, or the processor's
    precision: str  #: what `auto` is there
    commit: str | None  #: of the checkout; None outside one
    packages: dict[str, str | None]

    def difference(self, other: Node) -> str:
        """The first thing in which `other` would compute otherwise; empty if there is none."""
        for what in ("device", "processor", "precision", "commit"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                return f"its {what} is {theirs}, and the run's is {mine}"
        for name, version in self.packages.items():
            if other.packages.get(name) != version:
                return f"it has {name} {other.packages.get(name)}, and the run {version}"
        return ""


def this_node(*, gpus: bool) -> Node:
    """The machine that this runs on, with what its process sees of it, GPUs only if wanted."""
    import torch

    from benchmark.models.precision import resolve_device, resolve_precision

    if not gpus:
        hide_gpus()
    about = provenance()
    device = resolve_device("auto")
    processor = torch.cuda.get_device_name() if device == "cuda" else about["processor"]
    precision = resolve_precision("auto", device)
    name = os.uname().nodename
    return Node(name, device, processor, precision, about["commit"], about["packages"])


@dataclass(frozen=True)
class Mark:
    """A file by which another process can tell that it sees the same folder."""

    path: Path
    text: str

    def check(self) -> None:
        """Raises UserError, naming machine and folder, if this process sees another folder."""
        try:
            seen = self.path.read_text("utf-8") == self.text
        except OSError:
            seen = False
        if not seen:
            raise UserError(
                f"{os.uname().nodename} does not see the run directory {self.path.parent}: without "
                "--shared, files come and go through Ray"
            )


@contextmanager
def marked(folder: Path) -> Iterator[Mark]:
    """A mark in `folder`, which goes at the end."""
    mark = Mark(folder / f"{uuid.uuid4().hex}.tmp", uuid.uuid4().hex)
    write_atomically(mark.path, mark.text.encode())
    try:
        yield mark
    finally:
        mark.path.unlink(missing_ok=True)
