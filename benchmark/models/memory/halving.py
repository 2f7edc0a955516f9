"""Batches that are halved when memory runs out, and stay so for the rest of the process.

    batch = BatchSize("sampling", usual=16, way_out=SMALLER)
    images = batch.halved(len(seeds), lambda size: draw(seeds, size))
    batches_taken()                                         # {"sampling": 8}

A number's last digits depend on the batch that it was computed in. So a result is of one size
throughout: what was computed before memory ran out is computed again, and records say the size.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from benchmark.api import UserError

Result = TypeVar("Result")

#: How libraries say that memory ran out, where they raise no error of its own kind.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "_ALLOC_FAILED")

#: The way out where one image is too much for a backbone.
SMALLER = "lower [backbone] resolution, or set its precision to bf16"

_sizes: dict[str, int] = {}  # of what was halved in this process
_taken: dict[str, int] = {}


class OutOfMemory(UserError):
    """Memory does not do for the least batch there is."""


@dataclass(frozen=True)
class BatchSize:
    """How many rows of something are computed at once."""

    what: str  #: in records; what is called alike shares a size
    usual: int
    way_out: str  #: what a user may do if `least` are too many
    least: int = 1

    def halved(self, rows: int, compute: Callable[[int], Result]) -> Result:
        """`compute(size)`, which takes so many of its `rows` at once.

        Size is the usual one, or where it was left before; it is halved each time that memory runs
        out. Raises OutOfMemory if `least` are too many.
        """
        size = min(self.usual, _sizes.get(self.what, self.usual))
        while True:
            try:
                result = compute(size)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                why = f"{type(error).__name__}: {error}".partition("\n")[0]
            else:
                if size < self.usual:
                    _taken[self.what] = size
                return result
            # Here the error is gone, and with its traceback what it held.
            if size <= self.least:
                raise OutOfMemory(f"out of memory in {self.what}: {self.way_out} ({why})")
            size = self._smaller(size, rows)
            _sizes[self.what] = size
            _free_memory()

    def _smaller(self, size: int, rows: int) -> int:
        """Half of `size`, halved further while all rows would still go at once."""
        size //= 2
        while size >= rows and size > self.least:
            size //= 2
        return max(size, self.least)


def batches_taken() -> dict[str, int]:
    """The sizes of what was computed in smaller batches than usual since this was last asked."""
    taken = dict(_taken)
    _taken.clear()
    return taken


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device's memory, or the machine's, ran out."""
    if isinstance(error, MemoryError):
        return True
    said = "".join(traceback.format_exception_only(error))
    # torch.OutOfMemoryError is a RuntimeError, too.
    return isinstance(error, RuntimeError) and any(word in said for word in _WORDS)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
