"""How large the images of a denoiser and a VAE are, by their configurations. No torch here.

drawn_size(None, {"sample_size": 64}, {"block_out_channels": (128, 256, 512, 512)})     # 512
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmark.api import UserError

STEP = 8  #: diffusers' pipeline draws multiples of so many pixels


def drawn_size(
    asked: int | None, denoiser: Mapping[str, Any], vae: Mapping[str, Any], *, part: str = "unet"
) -> int:
    """Height and width in pixels: `asked`, else what the pipeline draws unasked.

    `part` is the denoiser's. Raises UserError for what it cannot draw.
    """
    factor = 2 ** (len(vae.get("block_out_channels", "1")) - 1)
    patch = factor * (denoiser.get("patch_size") or 1)  # of a transformer
    step, places = math.lcm(STEP, patch), denoiser.get("pos_embed_max_size")
    if asked is not None:
        check_step(asked, step)
        if places and asked > places * patch:
            raise UserError(
                f"backbone.resolution is {asked}, but the model knows places in images of at most "
                f"{places * patch} pixels: choose no more"
            )
        return asked
    size = denoiser.get("sample_size")
    sides = set(size) if isinstance(size, list | tuple) else {size}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or side < 1 or side * factor % step:
        raise UserError(
            f"sample_size in {part}/config.json is {size!r}, which makes no square of a multiple "
            f"of {step} pixels: set resolution in the suite's [backbone]"
        )
    return side * factor


def check_step(asked: int | None, step: int = STEP) -> None:
    """Raise UserError for a size that is no multiple of `step` pixels; None: the model's own."""
    if asked is not None and (asked < step or asked % step):
        raise UserError(
            f"backbone.resolution is {asked}, but the model draws heights and widths by the "
            f"{step} pixels: choose a multiple of {step}"
        )


def check_cascade_size(asked: int | None, unet: Mapping[str, Any]) -> None:
    """Raise UserError if a cascade whose last U-Net this is does not draw `asked` pixels."""
    own = unet.get("sample_size")
    if asked not in (None, own):
        raise UserError(
            f"backbone.resolution is {asked}, but the cascade draws {own}: leave it out"
        )
