"""Rebuild the pocket models from nothing: `python -m benchmark pretrain [generator|clip|dino|all]`.

Work in progress (checkpoints, logs) lies in `runs/pretrain`; running the command again takes it up.
The shipped weights are written only when a part is finished, and never over others unasked.
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.pocket.evaluate import CLIP, DINO, quality, sample_sheet, write_model_card
from benchmark.pocket.generator import GeneratorRecipe, pretrain_generator
from benchmark.pocket.judges import CLIP_RECIPE, DINO_RECIPE, pretrain_clip, pretrain_dino

PARTS = ("generator", "clip", "dino")
SHIPPED = Path(__file__).parent / "weights"


def pretrain(part: str, *, work: Path, output: Path, device: str, overwrite: bool) -> list[Path]:
    """Train `part` ("all": every one); return the directories written.

    Raises UserError for an unknown part, or if `output` holds weights and `overwrite` is off.
    """
    if part not in (*PARTS, "all"):
        raise UserError(f"unknown part '{part}'; known: {', '.join(PARTS)}, all")
    parts = PARTS if part == "all" else (part,)
    for name in parts:
        if (output / name).exists() and not overwrite:
            raise UserError(
                f"{output / name} exists; write elsewhere with --output, or give --overwrite"
            )
    device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    for name in parts:
        if name == "generator":
            pretrain_generator(GeneratorRecipe(), work, output / name, device)
        elif name == "clip":
            pretrain_clip(CLIP_RECIPE, work, output / name, device)
        else:
            pretrain_dino(DINO_RECIPE, work, output / name, device)
    return [output / name for name in parts]


def evaluate(suite: Suite, *, per_cell: int, device: str, card: bool) -> None:
    """Print the shipped models' measured quality; with `card`, write it into the model card.

    `suite` is the pocket suite: its encoders, its sampler.
    """
    from benchmark.models.loading import load_backbone
    from benchmark.scoring.encoder_tables import protocol_tables
    from benchmark.scoring.features import load_encoders

    backbone = load_backbone("pocket", device=device, sampler=suite.sampler.sampler())
    tables = protocol_tables(suite.protocol, suite.encoders)
    encoders = load_encoders(tables, device=backbone.device.type, names=(CLIP, DINO))
    rows = quality(backbone, encoders, per_cell=per_cell)
    if card:
        write_model_card(rows, SHIPPED / "MODEL_CARD.md", per_cell=per_cell)
        sample_sheet(backbone, SHIPPED / "samples.png")
