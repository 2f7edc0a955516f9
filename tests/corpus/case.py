"""A case of the corpus: an input that people have met, and what is right for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """`check(make(folder))` raises nothing if the input is treated rightly."""

    name: str
    source: str  #: the public thread that it comes from
    make: Callable[[Path], Any]  #: writes the input below an empty folder, or describes it
    check: Callable[[Any], None]
