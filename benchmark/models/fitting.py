"""Images as a backbone learns from them: square, in [0, 1]; and their masks.

fitted(read_image(path), 512)       # (3, 512, 512)
fitted_mask(read_mask(path), 512)   # (512, 512)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


def fitted(pixels: np.ndarray, resolution: int) -> Tensor:
    """(height, width, 3) uint8 -> (3, resolution, resolution) float32 in [0, 1], on the CPU.

    The short side is resized (bicubic, anti-aliased), the centre cropped; an image whose short side
    has the size already is only cropped.
    """
    image = torch.tensor(pixels).permute(2, 0, 1).float() / 255
    size = _resized(image.shape[1:], resolution)
    if size != image.shape[1:]:
        image = interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return _centre(image, resolution)


def fitted_mask(mask: np.ndarray, resolution: int) -> Tensor:
    """(height, width) bool -> (resolution, resolution) bool: of the same pixels as `fitted` gives.

    Each pixel is the mask's at its centre.
    """
    whole = torch.tensor(mask)[None].float()
    size = _resized(whole.shape[1:], resolution)
    if size != whole.shape[1:]:
        whole = interpolate(whole[None], size, mode="nearest-exact")[0]
    return _centre(whole, resolution)[0].bool()


def _resized(size: torch.Size, resolution: int) -> tuple[int, int]:
    """Height and width with the short side at `resolution`."""
    height, width = size
    scale = resolution / min(height, width)
    return max(resolution, round(height * scale)), max(resolution, round(width * scale))


def _centre(image: Tensor, resolution: int) -> Tensor:
    """(c, h, w) -> (c, resolution, resolution)."""
    top, left = (image.shape[1] - resolution) // 2, (image.shape[2] - resolution) // 2
    return image[:, top : top + resolution, left : left + resolution]
