"""The file that a plugin from outside is written in, so that a run can say if it was edited since.

source_of("methods", "my_method:METHOD")     # its path, and a digest of its text
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError
from benchmark.config.registry import available, is_ours, load
from benchmark.store.files import sha256


@dataclass(frozen=True)
class Source:
    """The file of a plugin's class."""

    path: Path
    digest: str  #: 16 digits of its SHA-256


@functools.cache  # as it was when it was imported: this process runs no later text
def source_of(group: str, name: str) -> Source | None:
    """Where the plugin called `name` is written; None of our own, and of what lies in no file."""
    if is_ours(group, name):
        return None
    try:
        plugin = load(group, name)
    except UserError:
        return None
    points = available(group)
    named = points[name].module if name in points else name.partition(":")[0]
    for module in (type(plugin).__module__, named):
        path = Path(str(getattr(sys.modules.get(module), "__file__", None)))
        if not _is_own_module(group, module) and path.suffix == ".py" and path.is_file():
            return Source(path, sha256(path.read_bytes())[:16])
    return None


def _is_own_module(group: str, module: str) -> bool:
    ours = {point.module for name, point in available(group).items() if is_ours(group, name)}
    return module.partition(".")[0] in {own.partition(".")[0] for own in ours}


def sources_of(group: str, names: Iterable[str]) -> dict[str, str]:
    """name -> the digest of its text, of those from outside: for the provenance of a result."""
    found = {name: source_of(group, name) for name in names}
    return {name: source.digest for name, source in found.items() if source}
