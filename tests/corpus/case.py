"""What a case of the corpus is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmark.api import UserError

OWN = "our own"  #: the source of a case that nobody has reported


@dataclass(frozen=True)
class Case:
    """One odd input and its right outcome."""

    name: str
    source: str  #: the public thread, or OWN
    make: Callable[[Path], Any]  #: an empty folder -> the input
    check: Callable[[Any], None]  #: asserts what comes of the input


def refused(read: Callable[[Any], object], *words: str) -> Callable[[Any], None]:
    """The check that `read` refuses the input in one line which holds `words`."""

    def check(made: Any) -> None:
        with pytest.raises(UserError) as caught:
            read(made)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message

    return check
