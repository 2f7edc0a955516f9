"""An estimate of memory beside what the same fit and drawing take in numbers, on the CPU.

    python -m tests.measured_memory SUITE METHOD [MODEL [RESOLUTION]]

Prints MB (10^6 bytes) of the estimate as a CPU would have it, of the same tensors with numbers, and
by how much the process grew. Weights are random, all in float32; MODEL is a directory, by default
the suite's.
bitsandbytes is a stand-in that takes as much and learns nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.config.suite import load_suite
from benchmark.models.memory import live_memory
from benchmark.runs import memory
from benchmark.runs.memory import GpuMemory, Way
from benchmark.runs.plan import Grid, plan


@dataclass(frozen=True)
class Measured:
    """Of one method on one model."""

    estimate: GpuMemory
    real: GpuMemory
    grown: int  #: bytes that the process took at its peak, beyond what it had


def measured(grid: Grid, way: Way) -> Measured:
    """The first job of `grid`, estimated and then carried out on the CPU."""
    job = grid.jobs[0]
    with pytest.MonkeyPatch.context() as patch:
        # On a CPU nothing is set aside, and attention and autocast are the CPU's.
        patch.setattr(memory, "_set_aside_by", lambda *_: None)
        patch.setattr(live_memory, "_as_on_cuda", nullcontext)
        estimate = memory.gpu_memory(grid, job, way)
        patch.setattr(live_memory, "no_numbers", with_numbers)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        real = memory.gpu_memory(grid, job, way)
        grown = _status("VmHWM") - before
    return Measured(estimate, real, grown)


@contextmanager
def with_numbers(memory: live_memory.LiveMemory) -> Iterator[None]:
    """Within, tensors are real, and counted all the same."""
    gc.collect()
    with live_memory.stand_in(), memory:
        yield


def _status(what: str) -> int:
    [line] = [n for n in Path("/proc/self/status").read_text().splitlines() if n.startswith(what)]
    return int(line.split()[1]) * 1024


def grid_of(suite: str, method: str, model: str | None, resolution: int | None) -> Grid:
    """A plan of one subject in float32. `suite`: a name or a file."""
    chosen = load_suite(suite).on(model, "fp32")
    size = {"resolution": resolution}
    backbone = chosen.backbone.model_copy(update=size if resolution else {})
    return plan(chosen.model_copy(update={"backbone": backbone}), [method])


def main(suite: str, method: str, model: str | None = None, resolution: str | None = None) -> None:
    """Print a row a phase, and the most of all of them in the last one."""
    grid = grid_of(suite, method, model, int(resolution) if resolution else None)
    found = measured(grid, Way(False))
    print("MB        estimate   with numbers   the process grew by")
    for name in ("weights", "training", "drawing"):
        estimate, real = getattr(found.estimate, name), getattr(found.real, name)
        print(f"{name:<9} {estimate / 1e6:8.1f}   {real / 1e6:12.1f}")
    most = [max(one.weights, one.training, one.drawing) for one in (found.estimate, found.real)]
    print(f"{'most':<9} {most[0] / 1e6:8.1f}   {most[1] / 1e6:12.1f}   {found.grown / 1e6:19.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
