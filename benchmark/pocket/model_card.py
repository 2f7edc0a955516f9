"""The model card of the pocket models, and its sheet of samples.

python -m benchmark pretrain --evaluate --card
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmark.api import Backbone
from benchmark.pocket.evaluate import Measurement, in_place, sampled, wearing
from benchmark.pocket.world import CLASSES, LIVE

#: What draws -> its samples, beside the model card.
SHEETS = {"generator": "samples.png", "cascade": "samples-cascade.png"}
_HEAD = "| part | measure | value | goal | weights |\n|---|---|---|---|---|\n"


def sample_sheet(backbone: Backbone, path: Path, *, columns: int = 8, scale: int = 1) -> None:
    """A PNG of samples: a row per class noun, a prompt per column."""
    rows = []
    for noun in CLASSES:
        asked = [f"a {noun}", *in_place(noun)[:4], f"a red {noun}", f"a shiny {noun}"]
        asked.append(wearing(noun)[0] if noun in LIVE else f"a striped {noun}")
        rows.append(sampled(backbone, asked[:columns], range(columns)))
    _save_sheet(torch.cat(rows), path, columns=columns, scale=scale)


def _save_sheet(images: Tensor, path: Path, *, columns: int, scale: int) -> None:
    count, _, height, width = images.shape
    grid = images.view(count // columns, columns, 3, height, width)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(-1, columns * width, 3)
    picture = Image.fromarray(grid.mul(255).round().byte().numpy())
    size = (picture.width * scale, picture.height * scale)
    picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # a third as large


def write_model_card(
    rows: Sequence[Measurement], path: Path, weights: Mapping[str, str], *, per_cell: int
) -> None:
    """Write the measured quality as Markdown; sizes are read off the files beside the card.

    `weights`: part -> the exact models that were measured.
    """
    lines = [
        "# The pocket models",
        "",
        "A small Stable Diffusion, a cascade of two pixel models in DeepFloyd IF's layout, a CLIP,",
        "a DINO-shaped ViT, a segmenter, a second CLIP for methods (`guide`) and an IP-Adapter,",
        "trained from nothing on pictures that `benchmark/pocket/world.py` draws. They stand in",
        "for the paper's models, so that the whole benchmark runs offline on two CPU cores; they",
        "know nothing of photographs.",
        "Rebuild them: `python -m benchmark pretrain all`. [TRAINING.md](TRAINING.md)",
        "tells how they were trained.",
        "",
        f"Measured by `python -m benchmark pretrain --evaluate --per-cell {per_cell}` on renders",
        "and samples that no training saw:",
        "",
        *_HEAD.splitlines(),
        *(_line(row, weights) for row in rows),
        "",
        *_sizes(path.parent),
        "",
        "Samples: a row a class noun; columns `a [noun]`, four backgrounds, `a red [noun]`,",
        "`a shiny [noun]`, and an accessory (live) or stripes.",
        "",
        *_sheets(path.parent),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _sheets(directory: Path) -> list[str]:
    here = {part: name for part, name in SHEETS.items() if (directory / name).exists()}
    return [
        line for part, name in here.items() for line in (f"![Samples of the {part}]({name})", "")
    ]


def renew_lines(rows: Sequence[Measurement], path: Path, weights: Mapping[str, str]) -> None:
    """Put `rows` in the place of what the card says of the same parts; read the sizes anew.

    Raises ValueError for a card of another form.
    """
    above, head, below = path.read_text("utf-8").partition(_HEAD)
    measured, blank, rest = below.partition("\n\n")
    _, sheet, samples = rest.partition("\n\n")
    if not (head and blank and sheet):
        raise ValueError(f"{path} is no model card")
    parts = {row.part for row in rows}
    kept = [line for line in measured.split("\n") if line.split(" | ")[0][2:] not in parts]
    lines = [*kept, *(_line(row, weights) for row in rows), "", *_sizes(path.parent)]
    path.write_text(above + head + "\n".join(lines) + sheet + samples, encoding="utf-8")


def _line(row: Measurement, weights: Mapping[str, str]) -> str:
    cells = (row.part, row.name, f"{row.value:.3f}", row.goal, weights[row.part])
    return f"| {' | '.join(cells)} |"


def _sizes(folder: Path) -> list[str]:
    """A table of the files with weights."""
    files = sorted(folder.rglob("*.safetensors"))
    return [
        "| file | size, MB |",
        "|---|---|",
        *(f"| `{f.relative_to(folder)}` | {f.stat().st_size / 1e6:.1f} |" for f in files),
    ]
