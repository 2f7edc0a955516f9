"""Small copies of a report's images: inside the page while they are few, else beside it.

links = thumbnails([Path("runs/a/images/mine/dog/prior-s0-0.png")], Path("runs/a"))
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmark.data.images import image_size, read_image
from benchmark.store.files import write_atomically

FOLDER = "gallery"
_SIZE = 160  #: pixels of the longer side
_QUALITY = 90
_INSIDE = 16_000_000  #: pixels of all thumbnails together that a page carries: about 8 MB of it


def thumbnails(images: Sequence[Path], directory: Path) -> list[str]:
    """What an <img> in `directory` needs for each of `images`: a data URI, or a path in gallery/.

    All of one kind. Files that are there and as old as their image are kept, and those of images
    that are gone are removed. Raises UserError if an image cannot be read.
    """
    folder = directory / FOLDER
    # Pillow decodes and encodes unlocked. Reading an image changes the process's warning filters
    # for a while, which threads do out of step: they are put back when all is done.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        if len(images) * _largest(images) ** 2 <= _INSIDE:
            links = list(pool.map(_data_uri, images))
        else:
            links = list(pool.map(lambda image: _file(image, folder), images))
    wanted = {link.removeprefix(f"{FOLDER}/") for link in links}
    for path in folder.glob("*.webp"):
        if path.name not in wanted:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return links


def _largest(images: Sequence[Path]) -> int:
    """The largest thumbnail's longer side. One image of each folder is looked at."""
    of_each_folder = {image.parent: image for image in images}.values()
    return min(_SIZE, max((max(image_size(path)) for path in of_each_folder), default=0))


def _data_uri(image: Path) -> str:
    return f"data:image/webp;base64,{base64.b64encode(_webp(image)).decode()}"


def _file(image: Path, folder: Path) -> str:
    """Its path relative to the page. Named after where the image lies."""
    place = os.path.relpath(image, folder.parent)
    name = f"{hashlib.sha256(place.encode()).hexdigest()[:20]}.webp"
    made = image.stat().st_mtime_ns
    path = folder / name
    if not path.is_file() or path.stat().st_mtime_ns != made:
        write_atomically(path, _webp(image))
        os.utime(path, ns=(made, made))
    return f"{FOLDER}/{name}"


def _webp(path: Path) -> bytes:
    from PIL import Image

    image = Image.fromarray(read_image(path))
    image.thumbnail((_SIZE, _SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY)
    return buffer.getvalue()
