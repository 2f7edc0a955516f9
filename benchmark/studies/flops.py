"""How much arithmetic some work is, and how much of it a device can do: matrix products.

    flops = count_flops(lambda: unet(latents, timesteps, embeddings))
    peak = product_flops(size) / statistics.median(...)    # of `product(device, "bf16", size)`

Counted are matrix products, convolutions and attention, forward and backward; a multiplication and
an addition are two. Not counted is what comes with them: normalisation, activations, softmax,
additions, the optimiser's update. They take time nonetheless.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from benchmark.models.precision import PRECISIONS

#: One measurement repeats the product for so long, in seconds.
_PRODUCT_SECONDS = 0.1
_ATTENTION = "_scaled_dot_product_flash_attention"
for _way in ("", "_backward"):  # older torches count attention on a GPU only
    flop_registry.setdefault(
        getattr(torch.ops.aten, f"{_ATTENTION}_for_cpu{_way}"),
        flop_registry[getattr(torch.ops.aten, f"{_ATTENTION}{_way}")],
    )


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of `work`, which is done once.

    Attention's backward pass recomputes its scores, and that is counted. A custom kernel counts
    as nothing.
    """
    fused = torch.backends.mha.get_fastpath_enabled()  # one kernel, of which nothing is counted
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


def product_size(device: torch.device) -> int:
    """Rows and columns of the matrices: on a CPU they fit its cache, elsewhere they fill it."""
    return 512 if device.type == "cpu" else 8192


def product_flops(size: int) -> int:
    """Of a product of two `size` x `size` matrices."""
    return 2 * size**3


def product(device: torch.device, precision: str, size: int) -> Callable[[], float]:
    """Multiplies two matrices again and again, and gives the median seconds of a product."""
    dtype = getattr(torch, PRECISIONS[precision])
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))

    def seconds() -> float:
        times: list[float] = []
        while sum(times) < _PRODUCT_SECONDS:
            start = now(device)
            torch.mm(left, right)
            times.append(now(device) - start)
        return median(times)

    return seconds


def now(device: torch.device) -> float:
    """Seconds on a clock, once `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
