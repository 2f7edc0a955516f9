"""Reading images: whatever a file holds becomes upright 8-bit RGB, or an error that names it.

>>> read_image(Path("datasets/pocket/dog/00.png")).shape
(64, 64, 3)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

from benchmark.api import UserError
from benchmark.store.files import sha256

if TYPE_CHECKING:
    from benchmark.api import Images

# What cameras, phones and other tools write. Pillow can open many more, some by starting other
# programs; AVIF, JPEG 2000 and WebP only if it was built with their libraries.
_LIBRARIES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
_FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP", "PPM", "GIF")
    if name not in _LIBRARIES or features.check(_LIBRARIES[name])
)
_REDUCED = 1  # NewSubfileType of a small version of another picture in the same file


def read_image(path: Path) -> np.ndarray:
    """The image at `path` as (h, w, 3) uint8 RGB, upright, on white where it was transparent.

    Upright is what Pillow's `ImageOps.exif_transpose` makes of it. A colour profile is not applied.
    Raises UserError naming a file that is missing, broken, animated, or too large, or whose pixels
    are numbers of no known range.
    """
    with _opened(path) as image:
        _check_tiff(image, path)
        with _decoding(path):
            image.load()
            image = ImageOps.exif_transpose(image)
        return np.array(_to_rgb(image))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of what `read_image` gives. Raises UserError."""
    # Decoded, since a header alone does not always tell: a PNG's Exif may stand at its end, and
    # Pillow turns a TIFF itself.
    height, width, _ = read_image(path).shape
    return width, height


def is_turned(path: Path) -> bool:
    """Whether `read_image` turns the image at `path`, as its Exif says. Raises UserError."""
    with _opened(path) as image, _decoding(path):
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def is_transparent(path: Path) -> bool:
    """Whether a pixel of the image at `path` lets through what lies behind. Raises UserError."""
    with _opened(path) as image, _decoding(path):
        if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
            return False
        return bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())


def unusable(images: Iterable[Path]) -> list[str]:
    """What is wrong with a subject's images: one cannot be read, or is there twice.

    A photograph that is there twice would weigh twice in training and in scores, and is hardly ever
    meant: files are compared pixel by pixel, since a copy may have other metadata.
    """
    problems: list[str] = []
    first: dict[str, Path] = {}
    for path in images:
        try:
            pixels = read_image(path)
        except UserError as error:
            problems.append(str(error))
            continue
        digest = sha256(repr(pixels.shape).encode() + pixels.tobytes())
        if first.setdefault(digest, path) != path:
            problems.append(f"{first[digest]} and {path.name} are one photograph")
    return problems


def as_pixels(images: Images | Sequence[np.ndarray]) -> list[np.ndarray]:
    """`images` as uint8 (height, width, 3), rounded as for a PNG: what is scored is what is kept.

    `images`: (n, 3, height, width) float in [0, 1], or n of any sizes: float (3, height, width)
    tensors, or uint8 (height, width, 3) arrays. Raises ValueError for values that are NaN or
    outside [0, 1], and for what else is no image.
    """
    if _is_tensor(images):
        return _rounded(images)
    each: Any = images
    if not isinstance(each, Iterable) or isinstance(each, str | bytes | Mapping):
        raise ValueError(f"images should be a tensor or a list, not {type(each).__name__}")
    pixels = [_rounded(image[None])[0] if _is_tensor(image) else image for image in each]
    for image in pixels:
        if not isinstance(image, np.ndarray):
            raise ValueError(f"an image is of type {type(image).__name__}: no tensor and no array")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is {image.dtype} {image.shape}, not uint8 (h, w, 3)")
    return pixels


def _is_tensor(images: Any) -> bool:
    return hasattr(images, "detach")  # so that nobody imports torch to look at a picture


def _rounded(tensor: Any) -> list[np.ndarray]:
    numbers: np.ndarray = tensor.detach().float().cpu().numpy()
    if numbers.ndim != 4 or numbers.shape[1] != 3:
        raise ValueError(f"images should be (n, 3, height, width), not {numbers.shape}")
    if not bool(((numbers >= 0) & (numbers <= 1)).all()):  # NaN compares false
        low, high = float(numbers.min()), float(numbers.max())
        found = "some are NaN" if low != low else f"they go from {low:g} to {high:g}"
        raise ValueError(f"images should be numbers in [0, 1], and {found}")
    return list((numbers * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _decoding(path):  # a name may be too long to be looked for
        odd = path.exists() and not path.is_file()
    if odd:  # a FIFO or a device may never end
        raise UserError(f"cannot read image {path}: it is no regular file")
    with _decoding(path), warnings.catch_warnings():
        # Pillow warns at 89 million pixels, and refuses at twice as many.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(path, formats=_FORMATS)
    with image:
        with _decoding(path):
            # A phone's JPEG may hold more pictures than the photograph, which is the first.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise UserError(
                f"cannot read image {path}: it holds {frames} pictures: save the one you mean by "
                "itself"
            )
        yield image


def _check_tiff(image: Image.Image, path: Path) -> None:
    """Refuse what a TIFF may hold, and what would be read as another picture than is meant."""
    if image.mode == "F" or (image.format, image.mode) == ("TIFF", "I"):
        raise UserError(
            f"cannot read image {path}: its pixels are 32-bit numbers, of no known range: save it "
            "with 8 or 16 bits"
        )
    with _decoding(path):
        kind = image.getexif().get(ExifTags.Base.NewSubfileType, 0)
    if image.format == "TIFF" and kind == _REDUCED:
        raise UserError(
            f"cannot read image {path}: it is a raw photograph, of which only a small preview can "
            "be read: save it as JPEG or PNG"
        )


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Name `path` in whatever Pillow raises meanwhile; nothing but Pillow's own work goes here."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"cannot read image {path}: no such file") from error
    except Image.UnidentifiedImageError as error:
        if not path.stat().st_size:
            raise UserError(f"cannot read image {path}: the file is empty") from error
        raise UserError(
            f"cannot read image {path}: it is no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}: "
            "save it as one of these"
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
    if image.mode.startswith("I"):
        image = _with_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _with_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, scaled: Pillow's own conversion clips at 255. With the level that is clear."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels / 257).round().astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    opaque = np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)
    return Image.merge("LA", (grey, Image.fromarray(opaque)))
