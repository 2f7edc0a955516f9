"""A subject cut out of its image by Pillow, as evaluation scripts of the field do it."""

from __future__ import annotations

import numpy as np
from PIL import Image


def masked(image: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """The image with `colour` for all that is not white in the mask."""
    picture = Image.fromarray(image)
    plain = Image.new("RGB", picture.size, colour)
    return np.asarray(Image.composite(picture, plain, Image.fromarray(mask)))


def cut_out(image: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """The same, cropped to the mask's box and pasted into the middle of a square."""
    box = Image.fromarray(mask).getbbox()
    picture = Image.fromarray(masked(image, mask, colour)).crop(box)
    side = max(picture.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square)
