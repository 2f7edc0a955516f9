"""What methods take on a GPU, in words: what `run --dry-run` and `--gpu-memory` print."""

from __future__ import annotations

from dataclasses import replace

from benchmark.api import UserError
from benchmark.runs.machine import Switch
from benchmark.runs.memory import GIB, GpuMemory, Unknown, gpu_memories, remedies
from benchmark.runs.plan import Grid

#: GPUs that an estimate is held against, in GiB.
SIZES = (12, 16, 24, 48, 80)


def print_gpu_memory(grid: Grid, checkpointing: Switch, *, asked: bool = True) -> None:
    """Say what each method takes on a GPU, and what would make the largest fit on smaller ones.

    Raises UserError as `gpu_memories`, or if it was not `asked` for says so in a line.
    """
    print("GPU memory  an estimate, each method tried on tensors without numbers (docs/memory.md)")
    try:
        _print_each(grid, checkpointing)
    except UserError as error:
        if asked:
            raise
        print(f"            none: {error}")


def _print_each(grid: Grid, checkpointing: Switch) -> None:
    most: GpuMemory | None = None
    nothing = True
    for one in gpu_memories(grid, checkpointing):
        nothing = False
        if isinstance(one, Unknown):
            print(f"            {one.method}: unknown: {one.why}")
            continue
        parts = f"weights {_gib(one.weights)}, training {_gib(one.training)}"
        parts += f", drawing {_gib(one.drawing)}; {_gib(one.left_out)} that no tensor shows"
        print(f"            {one.method}: {_gib(one.bytes)} GiB ({parts})", flush=True)
        most = one if most is None or one.bytes > most.bytes else most
    if nothing:
        print("            no method needs a backbone or an asset")
    if most is None:
        return
    found = _tried(grid, most, checkpointing)
    for size in SIZES:
        fitting = [f"{words} ({_gib(used)})" for words, used in found if used <= size * GIB]
        print(f"  {size:>3} GiB   {most.method}: {fitting[0] if fitting else 'no'}")


def _tried(grid: Grid, most: GpuMemory, checkpointing: Switch) -> list[tuple[str, int]]:
    """What was switched on, and the bytes that this takes; no more than some GPU asks for.

    No remedy makes the weights smaller.
    """
    least = replace(most, training=0, drawing=0).bytes
    smallest = min((size * GIB for size in SIZES if size * GIB >= least), default=0)
    found, switched = [("as it is", most.bytes)], list[str]()
    if most.bytes > smallest > 0:
        for words, after in remedies(grid, most, checkpointing):
            switched.append(words)
            found.append((", ".join(switched), after.bytes))
            if after.bytes <= smallest:
                break
    return found


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
