"""Small copies of a report's images: in the page if they are few, else in a folder beside it.

    links = thumbnails([Path("runs/a/images/mine/dog/prior-s0-0.png")], Path("runs/a"))

In a published folder, which is copied as a whole, images that are small already stand for
themselves.
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
from urllib.parse import quote

from benchmark.data.images import image_size, read_image
from benchmark.store.files import write_atomically

FOLDER = "gallery"
_SIZE = 160  #: pixels of the longer side
_QUALITY = 90
_INSIDE = 16_000_000  #: pixels of all thumbnails together that a page holds: about 8 MB


def thumbnails(images: Sequence[Path], directory: Path, *, published: bool = False) -> list[str]:
    """What an <img> in `directory` needs for each of `images`: a data URI, or a path.

    All thumbnails are of one kind; those of a `published` folder's small images are these images,
    if they lie in `directory`. A file in gallery/ that is as old as its image is kept, and files of
    images that are gone are removed. Raises UserError if an image cannot be read.
    """
    folder = directory / FOLDER

    def made(image: Path) -> str:
        if published and image.is_relative_to(directory) and max(image_size(image)) <= _SIZE:
            return link(image, directory)
        return _data_uri(image) if inside else _file(image, folder)

    # Pillow releases the lock, so threads help. Reading an image changes the process's warning
    # filters for a while, and threads would restore them in the wrong order: done once here.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        inside = len(images) * _largest(images) ** 2 <= _INSIDE
        links = list(pool.map(made, images))
    wanted = {link.removeprefix(f"{FOLDER}/") for link in links}
    for path in folder.glob("*.webp"):
        if path.name not in wanted:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return links


def link(image: Path, directory: Path) -> str:
    """The address of `image` for a page in `directory`."""
    return quote(Path(os.path.relpath(image, directory)).as_posix())


def _largest(images: Sequence[Path]) -> int:
    """The largest thumbnail's longer side, by one image of each folder."""
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
