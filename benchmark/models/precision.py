"""On which device, and in which precision, forward passes are computed: the same for every family.

    resolve_precision("auto", "cuda")       # "bf16" where the device is quick at it

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.store.names import unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Name -> torch's name of it. Weights are always float32.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_device(device: str) -> str:
    """`auto` becomes CUDA where there is one; anything else is left as it is."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """The precision; `auto` becomes bf16 where `device` is quick at it.

    Else it becomes fp16 on CUDA, and fp32 on a CPU. Raises UserError for an unknown name.
    """
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise UserError(unknown("precision", precision, ["auto", *PRECISIONS]))
    import torch

    if resolve_device(device).startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which forward passes run at `precision`."""
    import torch

    return torch.autocast(
        device.type, dtype=getattr(torch, PRECISIONS[precision]), enabled=precision != "fp32"
    )


@contextmanager
def float32_output(unet: nn.Module) -> Iterator[None]:
    """Within, `unet` gives float32: autocast gives half, too coarse for the scheduler's sums."""
    handle = unet.register_forward_hook(lambda _module, _inputs, output: (output[0].float(),))
    try:
        yield
    finally:
        handle.remove()
