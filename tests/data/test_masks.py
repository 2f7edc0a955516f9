"""Masks beside a subject's images: found, checked before anything runs, known by their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.data.dataset import describe, first_images, load_dataset, verify
from benchmark.data.masks import masks_digest, read_mask

OWN = '[my-dog]\nclass_noun = "dog"\nlive = true\n'


def draw_mask(path: Path, width: int, height: int, white: slice = slice(1, 4)) -> None:
    pixels = np.zeros((height, width), np.uint8)
    pixels[white, 2:5] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    draw = np.random.default_rng(0)
    (folder / "my-dog").mkdir(parents=True)
    for name, (width, height) in {"a.png": (10, 12), "b.jpg": (30, 20)}.items():
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "my-dog" / name)
        draw_mask(folder / f"my-dog/masks/{name[0]}.png", width, height)
    (folder / "my-dog/masks/.DS_Store").write_bytes(b"\0")
    (folder / "subjects.toml").write_text(OWN)
    return folder


def test_each_image_has_the_mask_of_its_name(own: Path) -> None:
    (dog,) = load_dataset(str(own)).subjects
    verify(load_dataset(str(own)))
    assert [path.name for path in dog.images] == ["a.png", "b.jpg"]
    assert dog.masks == (own / "my-dog/masks/a.png", own / "my-dog/masks/b.png")
    assert describe(dog, sizes=False) == "dog, live, 2 images with masks"
    mask = read_mask(dog.masks[0])
    assert mask.shape == (12, 10) and mask.dtype == bool
    assert mask.sum() == 9 and mask[1:4, 2:5].all()
    assert first_images(dog, 1).masks == dog.masks[:1]


def test_masks_are_known_by_their_pixels_in_order(own: Path) -> None:
    (dog,) = load_dataset(str(own)).subjects
    before = masks_digest(dog)
    Image.open(dog.masks[0]).convert("RGB").save(dog.masks[0], compress_level=0)
    assert masks_digest(dog) == before
    draw_mask(dog.masks[0], 10, 12, white=slice(1, 5))
    assert masks_digest(dog) != before
    (own / "my-dog/masks/a.png").unlink()
    (own / "my-dog/masks/b.png").unlink()
    (own / "my-dog/masks/.DS_Store").unlink()
    (own / "my-dog/masks").rmdir()
    (dog,) = load_dataset(str(own)).subjects
    assert dog.masks == () and masks_digest(dog) is None


def transparent(path: Path) -> None:
    pixels = np.full((12, 10, 4), 255, np.uint8)
    pixels[:6, :, 3] = 0
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda masks: (masks / "b.png").unlink(), "masks/b.png is missing: draw the mask of b"),
        (lambda masks: draw_mask(masks / "a.png", 12, 10), "a.png has 12 x 10 pixels, .* 10 x 12"),
        (lambda masks: draw_mask(masks / "a.png", 10, 12, slice(0)), "masks/a.png is empty"),
        (lambda masks: draw_mask(masks / "c.png", 10, 12), "masks/c.png is the mask of no image"),
        (lambda masks: (masks / "a.png").write_bytes(b"GIF"), "cannot read image .*masks/a.png"),
        (lambda masks: transparent(masks / "a.png"), "masks/a.png is transparent in part"),
        (
            lambda masks: Image.new("L", (10, 12)).save(masks.parent / "b.png"),
            "masks/b.png would be the mask of two images",
        ),
    ],
)
def test_what_is_wrong_with_a_mask_is_named(own: Path, spoil, message: str) -> None:
    spoil(own / "my-dog/masks")
    with pytest.raises(UserError, match=message):
        verify(load_dataset(str(own)))
