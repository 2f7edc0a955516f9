"""Masks of a subject's images: which pixels are the subject's. Yours go before any segmenter's.

    my-subjects/my-dog/garden.jpg
    my-subjects/my-dog/masks/garden.png     as large as the image; white is the subject

Either every image has one, or none has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmark.api import Subject, UserError
from benchmark.data.images import image_size, is_transparent, read_image
from benchmark.store.files import visible_files
from benchmark.store.names import composed, located

FOLDER = "masks"  #: beside a subject's images
_WHITE = 128  #: of 255: what is at least so bright is the subject


def holds_masks(path: Path) -> bool:
    """Whether `path`, beside a subject's images, is the folder of their masks."""
    return path.name == FOLDER and path.is_dir()


def mask_paths(folder: Path, images: Sequence[Path]) -> tuple[Path, ...]:
    """Where the masks of `images`, in a subject's `folder`, lie or should; none without any."""
    place = folder / FOLDER
    if not holds_masks(place):
        return ()
    return tuple(located(place, f"{composed(image.stem)}.png") for image in images)


def read_mask(path: Path) -> np.ndarray:
    """The mask at `path`: (h, w) bool, True where it is white. Raises UserError."""
    if is_transparent(path):
        raise UserError(
            f"mask {path} is transparent in part: save it in black and white alone, white where "
            "the subject is"
        )
    return read_image(path).mean(axis=2) >= _WHITE


def masks_digest(subject: Subject) -> str | None:
    """SHA-256 over those of the subject's masks, in the images' order; None without any.

    Raises UserError.
    """
    if not subject.masks:
        return None
    digest = hashlib.sha256()
    for mask in subject.masks:
        pixels = read_mask(mask)
        digest.update(repr(pixels.shape).encode() + np.packbits(pixels).tobytes())
    return digest.hexdigest()


def unusable_masks(subject: Subject) -> list[str]:
    """What is wrong with a subject's masks: missing, odd, empty, or of another size."""
    if not subject.masks:
        return []
    folder = subject.masks[0].parent
    problems = [
        f"{path} is the mask of no image: call it as its image, with .png"
        for path in visible_files(folder)
        if path not in subject.masks
    ]
    for mask in _twice(subject.masks):
        problems.append(f"{mask} would be the mask of two images: give these other names")
    for image, mask in zip(subject.images, subject.masks, strict=True):
        if problem := _problem(image, mask):
            problems.append(problem)
    return problems


def _twice(masks: Sequence[Path]) -> Iterable[Path]:
    return dict.fromkeys(mask for mask in masks if masks.count(mask) > 1)


def _problem(image: Path, mask: Path) -> str | None:
    if not mask.is_file():
        return (
            f"{mask} is missing: draw the mask of {image.name}, or take the folder "
            f"{mask.parent} away"
        )
    try:
        found, (width, height) = read_mask(mask), image_size(image)
    except UserError as error:
        return str(error)
    if found.shape != (height, width):
        return (
            f"{mask} has {found.shape[1]} x {found.shape[0]} pixels, and its image {image.name} "
            f"{width} x {height}: draw it in the image's size"
        )
    if not found.any():
        return f"{mask} is empty: draw the subject white (255) on black"
    return None
