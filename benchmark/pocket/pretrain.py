"""Rebuild the pocket models from nothing: `python -m benchmark pretrain PART`.

This is the one queue of trainings: part by part, on one thread, each taken up where it stopped.
Work in progress (checkpoints, logs) lies in `runs/pretrain`; running the command again takes it up.
The shipped weights are written only when a part is finished, and never over others unasked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.api import Backbone, UserError
from benchmark.config.suite import Suite
from benchmark.models.files import identity
from benchmark.pocket.cascade import SHAPES, CascadeRecipe, export_cascade, pretrain_cascade
from benchmark.pocket.evaluate import CLIP, DINO, Measurement, quality
from benchmark.pocket.evaluate_image_prompt import guidance, likeness
from benchmark.pocket.evaluate_segmenter import load_segmenter, segmentation
from benchmark.pocket.generator import GeneratorRecipe, export_generator, pretrain_generator
from benchmark.pocket.guide import GUIDE_RECIPE, pretrain_guide
from benchmark.pocket.image_prompt import ADAPTER_RECIPE, pretrain_ip_adapter
from benchmark.pocket.metric_encoders import CLIP_RECIPE, DINO_RECIPE, pretrain_clip, pretrain_dino
from benchmark.pocket.model_card import SHEETS, renew_lines, sample_sheet, write_model_card
from benchmark.pocket.segmenter import SEGMENTER_RECIPE, pretrain_segmenter
from benchmark.pocket.training import pack
from benchmark.scoring.features import Encoders
from benchmark.store.files import resolved, write_atomically
from benchmark.store.names import unknown

PARTS = ("generator", "cascade", "clip", "dino", "segmenter", "guide", "ip-adapter")
#: The parts that are measured by themselves.
ALONE = ("segmenter", "guide", "ip-adapter")
SHIPPED = Path(__file__).parent / "weights"
#: What draws -> its name as a backbone.
SHIPPED_MODELS = {folder: name for name, folder in identity.SHIPPED.items()}


@dataclass(frozen=True)
class Workshop:
    """Where a training works, what it begins with, and on what it computes."""

    work: Path = Path("runs/pretrain")
    start: Path | None = None  #: packed checkpoints to begin with
    device: str = "auto"
    threads: int = 1

    def open(self) -> str:
        """Set the threads; bring packed checkpoints in if there are no others; return the device.

        Raises UserError if `start` is given, and cannot be used.
        """
        torch.set_num_threads(self.threads)
        if self.start:
            packed = sorted(self.start.glob("*.safetensors"))
            if not packed:
                raise UserError(f"{self.start} holds no packed checkpoint: see --pack")
            if any(self.work.glob("*.safetensors")):
                raise UserError(f"{self.work} holds checkpoints already: give another --work")
            for path in packed:
                write_atomically(self.work / path.name, path.read_bytes())
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def pretrain(part: str, workshop: Workshop, *, output: Path, overwrite: bool) -> list[Path]:
    """Train `part` ("all": every one); return the directories written.

    Raises UserError for an unknown part, or if `output` holds weights and `overwrite` is off.
    """
    if part not in (*PARTS, "all"):
        raise UserError(unknown("part", part, [*PARTS, "all"]))
    parts = PARTS if part == "all" else (part,)
    for name in parts:
        _check_free(output / name, overwrite)
    device = workshop.open()
    for name in parts:
        if name == "generator":
            pretrain_generator(GeneratorRecipe(), workshop.work, output / name, device)
        elif name == "cascade":
            pretrain_cascade(CascadeRecipe(), workshop.work, output / name, device)
        elif name == "clip":
            pretrain_clip(CLIP_RECIPE, workshop.work, output / name, device)
        elif name == "dino":
            pretrain_dino(DINO_RECIPE, workshop.work, output / name, device)
        elif name == "segmenter":
            pretrain_segmenter(SEGMENTER_RECIPE, workshop.work, output / name, device)
        elif name == "guide":
            pretrain_guide(GUIDE_RECIPE, workshop.work, output / name, device)
        else:
            frozen = _beside(output, "generator"), _beside(output, "guide")
            pretrain_ip_adapter(ADAPTER_RECIPE, workshop.work, frozen, output / name, device)
    return [output / name for name in parts]


def _beside(output: Path, part: str) -> Path:
    """The folder of a part that another is trained on: in `output`, else the shipped one."""
    return output / part if (output / part).is_dir() else SHIPPED / part


def export(workshop: Workshop, *, output: Path, overwrite: bool) -> list[Path]:
    """Write the generator as it is now, trained or half trained; return the directories written.

    And the cascade, if both of its U-Nets have begun.
    """
    both = all((workshop.work / f"{name}.safetensors").exists() for name in SHAPES)
    names = ["generator", "cascade"] if both else ["generator"]
    for name in names:
        _check_free(output / name, overwrite)
    workshop.open()
    export_generator(workshop.work, output / "generator")
    if both:
        export_cascade(workshop.work, output / "cascade")
    return [output / name for name in names]


def pack_checkpoints(workshop: Workshop, output: Path) -> list[Path]:
    """Write every checkpoint's averaged weights to `output`, over what it holds; return the files.

    Raises UserError if there is no checkpoint.
    """
    checkpoints = sorted(workshop.work.glob("*.safetensors"))
    if not checkpoints:
        raise UserError(f"{workshop.work} holds no checkpoint to pack")
    for path in checkpoints:
        pack(path, output / path.name)
    return [output / path.name for path in checkpoints]


def _check_free(directory: Path, overwrite: bool) -> None:
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists; write elsewhere with --out, or give --overwrite")


def evaluate_part(part: str, weights: Path, suite: Suite, *, card: bool = False) -> None:
    """Print the measured quality of one of ALONE in `weights`; `suite`: the pocket suite.

    With `card` its lines of the shipped models' card are written anew.
    """
    rows = _measured(part, weights, suite)
    for row in rows:
        print(row.line)
    if card:
        renew_lines(rows, SHIPPED / "MODEL_CARD.md", shipped_weights(suite))


def _measured(part: str, weights: Path, suite: Suite) -> list[Measurement]:
    if part == "segmenter":
        return segmentation(load_segmenter(weights / part, "cpu"))
    if part == "guide":
        return guidance(weights / part)
    from benchmark.models.loading import load_backbone

    generator = str(_beside(weights, "generator"))
    backbone = load_backbone(generator, device="cpu", sampler=suite.sampler.sampler())
    return likeness(backbone, weights, metric_encoders(suite))


def shipped_weights(suite: Suite) -> dict[str, str]:
    """Part of the model card -> which exact shipped models it tells of, as runs name them."""
    from benchmark.models.assets import assets
    from benchmark.scoring.kinds import identify

    found = {part: identity.backbone_id(name) for part, name in SHIPPED_MODELS.items()}
    found |= dict.fromkeys(("VAE", "identifier"), found["generator"])
    for name, table in identify(suite.protocol.encoders).items():
        found[name.upper()] = f"{table['model']}@{table['weights']}"
    for role, part in (
        ("segmenter", "segmenter"),
        ("guide", "guide"),
        ("image-prompt", "ip-adapter"),
    ):
        found[part] = assets.identify(role, suite.assets[role]).rpartition(" ")[2]
    found["ip-adapter"] += f" on {found['generator']}"
    return found


def metric_encoders(suite: Suite, device: str = "cpu") -> Encoders:
    """The suite's CLIP and DINO. Raises UserError."""
    from benchmark.scoring.encoder_tables import protocol_tables
    from benchmark.scoring.features import load_encoders

    tables = protocol_tables(suite.protocol, suite.encoders)
    return load_encoders(tables, device=device, names=(CLIP, DINO))


def evaluate(suite: Suite, weights: Path, *, per_cell: int, device: str, card: bool) -> None:
    """Print the measured quality of what `weights` holds, and of the shipped other models.

    That is the generator, and the cascade if it is there. A sheet of samples is written beside
    each; of the shipped ones only with `card`, which writes their card anew. `suite` is the pocket
    suite: its encoders, its samplers.
    """
    from benchmark.models.loading import load_backbone

    backbones: dict[str, Backbone] = {}
    for part, model in SHIPPED_MODELS.items():
        if part == "generator" or (weights / part).is_dir():
            sampler = suite.on(model).sampler.sampler()
            backbones[part] = load_backbone(str(weights / part), device=device, sampler=sampler)
    encoders = metric_encoders(suite, backbones["generator"].device.type)
    if card or resolved(weights) != resolved(SHIPPED):
        for part, backbone in backbones.items():
            sample_sheet(backbone, weights / SHEETS[part])
    rows = quality(backbones, encoders, per_cell=per_cell)
    for part in ALONE:
        rows += _measured(part, SHIPPED, suite)
        print(*(row.line for row in rows if row.part == part), sep="\n")
    if card:
        write_model_card(rows, SHIPPED / "MODEL_CARD.md", shipped_weights(suite), per_cell=per_cell)
