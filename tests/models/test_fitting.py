"""Images as a backbone learns from them, against Pillow's own resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.models.fitting import fitted, fitted_mask


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


@pytest.mark.parametrize("shape", [(20, 31), (40, 24), (16, 33), (9, 7), (16, 16), (64, 48)])
def test_a_mask_lies_where_its_image_does(shape):
    """Of a picture of the mask, resized as an image, the mask's own pixels are the brighter ones.

    But for those at the mask's edge, where both mix.
    """
    height, width = shape
    mask = np.zeros(shape, bool)
    mask[height // 4 : height * 3 // 4, width // 3 : width * 2 // 3] = True
    image = fitted(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255, 16)[0]
    found = fitted_mask(mask, 16)
    assert found.shape == (16, 16) and found.dtype == torch.bool and found.any()
    assert torch.equal(found[image > 0.8], torch.ones(int((image > 0.8).sum()), dtype=torch.bool))
    assert not found[image < 0.2].any()


def test_a_mask_is_resized_as_pillow_does_by_the_nearest_pixel():
    mask = np.random.default_rng(0).random((31, 53)) < 0.5
    resized = Image.fromarray(mask.astype(np.uint8) * 255).resize((27, 16), Image.NEAREST)
    assert np.array_equal(fitted_mask(mask, 16).numpy(), np.asarray(resized)[:, 5:21] > 0)
