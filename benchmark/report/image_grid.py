"""The image grid: for each subject its real images, then a row per prompt, a column per method."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_GAP, _MARGIN, _PROMPT_WIDTH, _LINE = 6, 16, 190, 17
_SMALL_CELL, _LARGE_CELL = 128, 192  #: pixels; the large one for images of at least that size


@dataclass(frozen=True)
class GridRow:
    """One prompt: an image of each method from the same noise, or None."""

    prompt: str
    images: tuple[Path | None, ...]


@dataclass(frozen=True)
class GridBlock:
    """One subject: its real images, and the rows below them."""

    title: str
    references: tuple[Path, ...]
    rows: tuple[GridRow, ...]


def grid_png(methods: Sequence[str], blocks: Sequence[GridBlock]) -> bytes:
    """The grid as a PNG. Small images are enlarged by whole pixels, large ones reduced."""
    from PIL import Image

    cell = _cell_size(blocks)
    drawn = [_draw_block(block, methods, cell=cell) for block in blocks]
    size = (max(d.width for d in drawn), sum(d.height for d in drawn))
    page = Image.new("RGB", (size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN), "white")
    y = _MARGIN
    for block in drawn:
        page.paste(block, (_MARGIN, y))
        y += block.height
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_block(block: GridBlock, methods: Sequence[str], *, cell: int) -> Image.Image:
    from PIL import Image, ImageDraw

    heads = ["\n".join(_wrapped(method, cell)) for method in methods]
    head_height = _LINE * max(head.count("\n") + 1 for head in heads) + _GAP
    title_height = _LINE + 2 * _GAP
    reference_height = cell + 2 * _GAP if block.references else 0
    columns = max(len(methods), len(block.references))
    page = Image.new(
        "RGB",
        (
            _PROMPT_WIDTH + columns * (cell + _GAP),
            title_height + reference_height + head_height + len(block.rows) * (cell + _GAP) + _LINE,
        ),
        "white",
    )
    draw = ImageDraw.Draw(page)
    draw.text((0, 0), block.title, fill="black", font=_font(17, bold=True))
    y = title_height
    if block.references:
        _draw_row(page, GridRow("real images", block.references), y, cell)
        y += reference_height
    for i, head in enumerate(heads):
        draw.multiline_text(
            (_PROMPT_WIDTH + i * (cell + _GAP) + cell // 2, y + head_height - _GAP),
            head,
            fill="black",
            font=_font(13, bold=True),
            anchor="md",
            align="center",
        )
    y += head_height
    for row in block.rows:
        _draw_row(page, row, y, cell)
        y += cell + _GAP
    return page


def _draw_row(page: Image.Image, row: GridRow, top: int, cell: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(page)
    label = "\n".join(_wrapped(row.prompt, _PROMPT_WIDTH - 2 * _GAP))
    middle = top + cell // 2
    draw.multiline_text((0, middle), label, fill="black", font=_font(14), anchor="lm", spacing=4)
    for i, path in enumerate(row.images):
        left = _PROMPT_WIDTH + i * (cell + _GAP)
        if path is not None:
            page.paste(_fitted(path, cell), (left, top))
            continue
        draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline="#cccccc")
        center = (left + cell // 2, middle)
        draw.text(center, "none", fill="#777777", font=_font(13), anchor="mm")


def _cell_size(blocks: Sequence[GridBlock]) -> int:
    from benchmark.data.images import image_size

    images = (path for block in blocks for row in block.rows for path in row.images if path)
    sizes = [max(image_size(path)) for path in images]
    return _LARGE_CELL if sizes and max(sizes) >= _LARGE_CELL else _SMALL_CELL


def _fitted(path: Path, cell: int) -> Image.Image:
    from PIL import Image

    from benchmark.data.images import read_image

    image = Image.fromarray(read_image(path))
    factor = cell // max(image.size)
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    return image


def _wrapped(text: str, width: int) -> list[str]:
    # A letter is about nine pixels wide at these sizes; names break at hyphens.
    return textwrap.wrap(" ".join(text.split()), max(8, width // 9)) or [""]


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    # matplotlib's own font: the same everywhere, with more than Latin letters.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
