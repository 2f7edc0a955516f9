"""The image grid: for each subject its real images, then a row per prompt, a column per method."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.report.figures.drawing import name_lines

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_GAP, _MARGIN, _PROMPT_WIDTH, _LINE = 6, 16, 190, 17
_SMALL_CELL, _LARGE_CELL = 128, 192  #: pixels; the large one for images of at least that size
_HEAD = (13, True)  #: of a method's name: size, and whether it is bold


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


@dataclass(frozen=True)
class _Cells:
    """Pixels: an image's side, and the width of a column, which may have a longer word above it."""

    side: int
    width: int

    def left(self, column: int) -> int:
        """Where the image of a column begins."""
        return _PROMPT_WIDTH + column * (self.width + _GAP) + (self.width - self.side) // 2


def grid_png(methods: Sequence[str], blocks: Sequence[GridBlock]) -> bytes:
    """The grid as a PNG. Small images are enlarged by whole pixels, large ones reduced."""
    from PIL import Image

    cell = _cell_size(blocks)
    width = max([cell, *(_width(name_lines(method, 1), _HEAD) for method in methods)])
    drawn = [_draw_block(block, methods, _Cells(cell, width)) for block in blocks]
    size = (max(d.width for d in drawn), sum(d.height for d in drawn))
    page = Image.new("RGB", (size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN), "white")
    y = _MARGIN
    for block in drawn:
        page.paste(block, (_MARGIN, y))
        y += block.height
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_block(block: GridBlock, methods: Sequence[str], cells: _Cells) -> Image.Image:
    from PIL import Image, ImageDraw

    cell = cells.side
    heads = [_wrapped(method, cells.width, _HEAD) for method in methods]
    head_height = _LINE * max(head.count("\n") + 1 for head in heads) + _GAP
    title_height = _LINE + 2 * _GAP
    reference_height = cell + 2 * _GAP if block.references else 0
    columns = max(len(methods), len(block.references))
    page = Image.new(
        "RGB",
        (
            _PROMPT_WIDTH + columns * (cells.width + _GAP),
            title_height + reference_height + head_height + len(block.rows) * (cell + _GAP) + _LINE,
        ),
        "white",
    )
    draw = ImageDraw.Draw(page)
    draw.text((0, 0), block.title, fill="black", font=_font(17, bold=True))
    y = title_height
    if block.references:
        _draw_row(page, GridRow("real images", block.references), y, cells)
        y += reference_height
    for i, head in enumerate(heads):
        draw.multiline_text(
            (cells.left(i) + cell // 2, y + head_height - _GAP),
            head,
            fill="black",
            font=_font(*_HEAD),
            anchor="md",
            align="center",
        )
    y += head_height
    for row in block.rows:
        _draw_row(page, row, y, cells)
        y += cell + _GAP
    return page


def _draw_row(page: Image.Image, row: GridRow, top: int, cells: _Cells) -> None:
    from PIL import ImageDraw

    draw, cell = ImageDraw.Draw(page), cells.side
    label = _wrapped(row.prompt, _PROMPT_WIDTH - 2 * _GAP, (14, False))
    middle = top + cell // 2
    draw.multiline_text((0, middle), label, fill="black", font=_font(14), anchor="lm", spacing=4)
    for i, path in enumerate(row.images):
        left = cells.left(i)
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


def _wrapped(text: str, width: int, font: tuple[int, bool]) -> str:
    """`text` in as few lines as fit into `width` pixels, never broken within a word."""
    fitting = (name_lines(text, letters) for letters in range(len(text), 0, -1))
    return next((lines for lines in fitting if _width(lines, font) <= width), name_lines(text, 1))


def _width(lines: str, font: tuple[int, bool]) -> int:
    drawn = _font(*font)
    return max(math.ceil(drawn.getlength(line.rstrip())) for line in lines.split("\n"))


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    # matplotlib's own font: the same everywhere, with more than Latin letters.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
