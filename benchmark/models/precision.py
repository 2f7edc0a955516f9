"""On which device, and in which precision, forward passes are computed: the same for every family.

    resolve_precision("auto", "cuda")       # "bf16" where the device is quick at it

Importing this loads no torch.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import UserError
from benchmark.store.names import unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Name -> torch's name of it. Weights are always float32.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

#: What Linux calls the devices that torch knows as CUDA: NVIDIA's, also Jetson's and those that
#: Windows lends to its Linux, and AMD's.
_DEVICE_FILES = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "dxg", "kfd")
#: What of a CPU is quick at a precision, as Linux calls it.
_FLAGS = {"bf16": {"avx512_bf16", "amx_tile"}, "fp16": {"avx512_fp16", "amx_fp16"}}


def on_cuda() -> bool:
    """Whether torch sees a CUDA device.

    Torch takes seconds to load, so on Linux it is not asked where there is no device.
    """
    if sys.platform == "linux" and "torch" not in sys.modules and not _has_device(Path("/dev")):
        return False
    import torch

    return torch.cuda.is_available()


def _has_device(files: Path) -> bool:
    return any(file for pattern in _DEVICE_FILES for file in files.glob(pattern))


def resolve_device(device: str) -> str:
    """`auto` becomes CUDA where there is one; anything else is left as it is."""
    if device != "auto":
        return device
    return "cuda" if on_cuda() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """The precision; `auto` becomes bf16 where `device` is quick at it.

    Else it becomes fp16 on CUDA, and fp32 on a CPU. Raises UserError for an unknown name.
    """
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise UserError(unknown("precision", precision, ["auto", *PRECISIONS]))
    if resolve_device(device).startswith("cuda"):
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _is_quick_at_bf16() else "fp32"


def emulated(precision: str, device: str) -> bool:
    """Whether `device` is a CPU known to have no instructions for this resolved precision.

    Convolutions then take many times fp32's time.
    """
    flags = _cpu_flags() if device.startswith("cpu") and precision != "fp32" else None
    return flags is not None and _FLAGS[precision].isdisjoint(flags)


def _is_quick_at_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16: what torch says, and Linux without torch."""
    flags = _cpu_flags()
    if flags is not None:
        return not _FLAGS["bf16"].isdisjoint(flags)
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _cpu_flags(processor: Path = Path("/proc/cpuinfo")) -> set[str] | None:
    """What Linux says that an x86 processor can do; None elsewhere."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    flags = re.search(r"^flags\s*:(.*)$", processor.read_text(), re.MULTILINE)
    return None if flags is None else set(flags[1].split())


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
