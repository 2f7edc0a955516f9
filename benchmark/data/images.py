"""Reading images: whatever a file holds becomes upright 8-bit RGB, or an error that names it.

>>> read_image(Path("datasets/pocket/dog/00.png")).shape
(64, 64, 3)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from benchmark.api import UserError

# Pillow can open many more, some by starting other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ON_ITS_SIDE = (5, 6, 7, 8)  # Exif orientations that swap width and height


def read_image(path: Path) -> np.ndarray:
    """The image at `path` as (h, w, 3) uint8 RGB, upright, on white where it was transparent.

    Raises UserError naming a file that is missing, broken, animated, or too large.
    """
    with _opened(path) as image:
        image.load()
        return np.array(_to_rgb(ImageOps.exif_transpose(image)))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, upright; of a JPEG without decoding it. Raises UserError."""
    with _opened(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        width, height = image.size
        return (height, width) if turned else (width, height)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 million pixels, and refuses at twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
        with image:
            # A phone's JPEG may hold more pictures than the photograph, which is the first.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it holds {frames} pictures: save the one you mean by itself")
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"cannot read image {path}: no such file") from error
    except Image.UnidentifiedImageError as error:
        if not path.stat().st_size:
            raise UserError(f"cannot read image {path}: the file is empty") from error
        raise UserError(
            f"cannot read image {path}: it is no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"cannot read image {path}: its header asks for more than "
            f"{Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
        ) from error
    # Pillow's decoders raise many kinds of errors on files that are cut short or corrupt.
    except Exception as error:
        raise UserError(f"cannot read image {path}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers, of no known range")
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow's own conversion clips it at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
