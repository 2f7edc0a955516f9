"""Images as a backbone learns from them, against Pillow's own resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.models.fitting import fitted


def test_an_image_that_has_the_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = fitted(pixels, 16)
    assert image.dtype == torch.float32
    assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1) / np.float32(255))


@pytest.mark.parametrize("shape", [(20, 31), (40, 24), (16, 33), (9, 7)])
def test_every_shape_becomes_a_square_in_range(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image = fitted(pixels, 16)
    assert image.shape == (3, 16, 16) and image.min() >= 0 and image.max() <= 1


def test_it_is_resized_and_cropped_at_the_centre():
    # A smooth picture, so that Pillow's own bicubic resize agrees to within its rounding.
    ramp = np.zeros((48, 96, 3), np.uint8)
    ramp[...] = np.linspace(0, 255, 96).astype(np.uint8)[None, :, None]
    resized = Image.fromarray(ramp).resize((32, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[:, 8:24].transpose(2, 0, 1) / 255
    assert np.abs(fitted(ramp, 16).numpy() - expected).max() < 1.5 / 255
