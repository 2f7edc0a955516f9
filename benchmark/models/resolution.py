"""How large the images of a U-Net and a VAE are, by their configurations. No torch here.

drawn_size(None, {"sample_size": 64}, {"block_out_channels": (128, 256, 512, 512)})     # 512
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmark.api import UserError

STEP = 8  #: diffusers' pipeline draws multiples of so many pixels


def drawn_size(asked: int | None, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
    """Height and width in pixels: `asked`, else what the pipeline draws unasked.

    Raises UserError for what it cannot draw.
    """
    factor = 2 ** (len(vae.get("block_out_channels", "1")) - 1)
    step = math.lcm(STEP, factor)
    if asked is not None:
        if asked < step or asked % step:
            raise UserError(
                f"backbone.resolution is {asked}, but the model draws heights and widths by the "
                f"{step} pixels: choose a multiple of {step}"
            )
        return asked
    size = unet.get("sample_size")
    sides = set(size) if isinstance(size, list | tuple) else {size}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or side < 1 or side * factor % STEP:
        raise UserError(
            f"sample_size in unet/config.json is {size!r}, which makes no square of a multiple of "
            f"{STEP} pixels: set resolution in the suite's [backbone]"
        )
    return side * factor


def check_cascade_size(asked: int | None, unet: Mapping[str, Any]) -> None:
    """Raise UserError if a cascade whose last U-Net this is does not draw `asked` pixels."""
    own = unet.get("sample_size")
    if asked not in (None, own):
        raise UserError(
            f"backbone.resolution is {asked}, but the cascade draws {own}: leave it out"
        )
