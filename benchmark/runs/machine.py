"""What this machine has for workers: cores, GPUs, memory.

slots = Resources(workers=4).slots(20, memory=None)    # a worker in each
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmark.api import UserError
from benchmark.models.precision import on_cuda

if TYPE_CHECKING:
    from benchmark.config.suite import Suite
    from benchmark.runs.on_ray import Cluster
    from benchmark.runs.shared import Shard

#: What Linux says of the machine's memory, and of the container's (version 2 of control groups).
MEMORY, MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
#: Of the environment: the GPUs that a process may see, by their numbers or names, with commas.
VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Where a worker runs: what its VISIBLE is to be; empty on a CPU.
Slot = str
#: Of what changes how a run is carried out, and no number.
Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Resources:
    """What a grid may use, and which tools are told what it makes."""

    workers: int | None = None  #: processes; None: one a GPU, or one a core
    gpus: tuple[int, ...] | None = None  #: numbers among the visible ones; None: all
    job_timeout: float | None = None  #: the seconds that a job, or prior images, may take
    shard: Shard | None = None  #: if other processes do parts of the grid in the same directory
    cluster: Cluster | None = None  #: whose nodes have the workers, in place of this machine
    gradient_checkpointing: Switch = "auto"  #: on a GPU, auto is what the backbone's kind says
    log: tuple[str, ...] = ()  #: trackers, by name

    def on(self, suite: Suite) -> Suite:
        """`suite` in the precision that it has there."""
        return self.cluster.on(suite) if self.cluster else suite

    def slots(self, jobs: int, *, memory: int | None) -> tuple[Slot, ...]:
        """Where each worker is to run.

        One a GPU, or without GPUs one a core, and no more than there are `jobs`, nor than fit into
        the free main memory if each takes `memory` bytes (None: not known). As many as `workers`
        says if it does: several a GPU where there are more. Raises UserError for GPUs that are not
        there.
        """
        gpus = chosen_gpus(self.gpus)
        places = gpus or ("",) * _cores()
        free = free_memory()
        fitting = jobs if gpus or memory is None or free is None else free // memory
        count = min(self.workers or min(len(places), fitting), jobs)
        return tuple(places[i % len(places)] for i in range(max(1, count)))


#: Every core or GPU, and all the time that it takes.
ALL = Resources()


def in_words(slots: Sequence[Slot]) -> str:
    """`2 workers`, `8 workers on 8 GPUs`."""
    gpus = len({*slots} - {""})
    where = f" on {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
    return f"{len(slots)} worker{'s' * (len(slots) > 1)}{where}"


def visible_gpus() -> tuple[Slot, ...]:
    """The GPUs that this process may use, as VISIBLE names them; none without CUDA."""
    if not on_cuda():
        return ()
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(named or map(str, range(count)))[:count]


def hide_gpus() -> None:
    """Have this process and those that it starts see no GPU; before CUDA is started."""
    os.environ[VISIBLE] = ""


def chosen_gpus(numbers: Sequence[int] | None) -> tuple[Slot, ...]:
    """The visible GPUs with these numbers, counted from 0; None: all. Raises UserError."""
    visible = visible_gpus()
    if numbers is None:
        return visible
    for number in numbers:
        if not 0 <= number < len(visible):
            there = f"0 to {len(visible) - 1}" if len(visible) > 1 else "0" if visible else "none"
            raise UserError(f"--gpus {number}: of the GPUs that can be seen here there are {there}")
    return tuple(visible[number] for number in dict.fromkeys(numbers))


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes of main memory to be had, within a container's limit; None where Linux does not say."""
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMORY.read_text(), re.MULTILINE)
    except OSError:
        return None
    if available is None:
        return None
    free = 1024 * int(available[1])
    with suppress(OSError, ValueError):  # no such file, or no limit: "max"
        free = min(free, int(MEMORY_LIMIT.read_text()))
    return free
