"""Options that several commands share, and how their values are read.

items("untuned,dreambooth[steps=1,prior_weight=0]")    # two names
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark.api import UserError

SuiteOption = Annotated[
    str, typer.Option(metavar="NAME|FILE.toml", help="A shipped suite, or one of your own.")
]
SubjectsOption = Annotated[
    str, typer.Option(metavar="NAME[,...]", help="Names from `list subjects`; else the suite's.")
]
PromptsOption = Annotated[
    str,
    typer.Option(
        metavar="PROMPT[,...]",
        help="Kinds (recontextualization, accessory, property), numbers from 1 in the subject's "
        "list, or templates ('a {} in the snow'); else all.",
    ),
]
SeedOption = Annotated[
    str, typer.Option(metavar="N[,...]", help="Seeds of the runs; else the suite's.")
]
ImagesOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Else the suite's.")]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Else runs/<suite>-<hash of the configuration>."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes; else one a core, or one for a GPU."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A copy of the suite's photographs, or your own subjects; else the suite's own.",
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR|HUB-ID|FILE",
        help="sd15, sd14, sd21, sd21-base, pocket; a directory in diffusers' layout; owner/name "
        "on the Hugging Face hub, with @revision if wanted; FILE.safetensors, with @epsilon or "
        "@v_prediction if it is a Stable Diffusion 2; else the suite's.",
    ),
]


class Precision(StrEnum):
    """What forward passes are computed in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Of forward passes; weights are float32. Else the suite's."),
]

ProtocolOption = Annotated[
    str,
    typer.Option(metavar="NAME|FILE.toml", help="How images are scored; else as the suite says."),
]
EncodersOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the protocol's encoders lie, a folder each; else the caches."
    ),
]


def items(text: str) -> list[str]:
    """What commas separate, without blanks; a comma in `name[key=value,key=value]` does not."""
    parts = re.split(r",(?![^\[]*\])", text)
    return [item for item in (part.strip() for part in parts) if item]


def seed_numbers(text: str) -> list[int]:
    """The whole numbers of `0,1,2`. Raises UserError."""
    seeds = items(text)
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit()):
            raise UserError(f"--seed '{seed}' is no seed: give whole numbers from 0, like 0,1,2")
    return [int(seed) for seed in seeds]
