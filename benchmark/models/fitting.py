"""Images as a backbone learns from them: square, in [0, 1].

fitted(read_image(path), 512)       # (3, 512, 512)
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
    height, width = image.shape[1:]
    if min(height, width) != resolution:
        scale = resolution / min(height, width)
        size = (max(resolution, round(height * scale)), max(resolution, round(width * scale)))
        image = interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (image.shape[1] - resolution) // 2, (image.shape[2] - resolution) // 2
    return image[:, top : top + resolution, left : left + resolution]
