"""The optimisers of a training: AdamW, and the same with its moments in 8 bits.

    optimiser = adamw("adamw-8bit", parameters, learning_rate=5e-6, weight_decay=1e-2)

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from benchmark.api import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: bitsandbytes' AdamW8bit (Dettmers et al. 2022): 2 bytes of moments a weight in place of 8.
Optimiser = Literal["adamw-8bit"]

_LIBRARY = "bitsandbytes"


def check_optimiser(optimiser: Optimiser | None, device: str) -> None:
    """Raise UserError if it does not run on `device` ("cpu", "cuda"), or is not installed."""
    if optimiser is None:
        return
    if not device.startswith("cuda"):
        raise UserError(
            f"optimiser '{optimiser}' runs on a CUDA GPU, and this is a {device}: leave the "
            "setting out"
        )
    if find_spec(_LIBRARY) is None:
        raise UserError(
            f"optimiser '{optimiser}' takes another library: pip install "
            "'dreambooth-benchmark[8bit]', or leave the setting out"
        )


def adamw(
    optimiser: Optimiser | None,
    parameters: Sequence[Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with the usual betas; None: with float32 moments."""
    if optimiser is None:
        from torch.optim import AdamW

        return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(parameters, lr=learning_rate, weight_decay=weight_decay)
    return made
