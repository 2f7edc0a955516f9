"""The kinds of segmenters: assets that find what a noun names. No torch here.

[assets.segmenter]
kind = "clipseg"
model = "clipseg-rd64-refined"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Segmenter, UserError
from benchmark.models.asset_files import (
    Layout,
    PinnedTable,
    check_readable,
    checked_table,
    pinned_files,
)
from benchmark.models.assets import where
from benchmark.store.files import read_text

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "segmenter"
TABLE = where(ROLE)  #: how messages call it
NOUNS = "nouns.txt"


class Everywhere:
    """In a segmenter's place: finds everything in any image, numbers or none."""

    def segment(self, images: Tensor, noun: str) -> Tensor:
        return images[:, 0] >= 0


@dataclass(frozen=True)
class ClipSeg:
    """CLIPSeg by transformers: any noun, on photographs."""

    version: ClassVar[str] = "1"
    role: ClassVar[str] = ROLE
    layout: ClassVar[Layout] = Layout(
        (
            *("config.json", "preprocessor_config.json", "model.safetensors"),
            *("vocab.json", "merges.txt", "tokenizer_config.json"),
        ),
        "model.safetensors",
        shipped="",
    )

    def files(self, table: Mapping[str, Any]) -> list[Path]:
        return pinned_files(TABLE, _checked(table), self.layout)

    def check(self, table: Mapping[str, Any]) -> None:
        check_readable(TABLE, self.files(table))

    def load(self, table: Mapping[str, Any], device: str) -> Segmenter:
        load = resolve_name("benchmark.models.clipseg:load_clipseg")
        found: Segmenter = load(_checked(table), self.files(table)[0].parent, device)
        return found

    def hollow(self, table: Mapping[str, Any]) -> Segmenter:
        return Everywhere()


@dataclass(frozen=True)
class NounUNet:
    """A U-Net by diffusers that knows a list of nouns: the pocket world's."""

    version: ClassVar[str] = "1"
    role: ClassVar[str] = ROLE
    layout: ClassVar[Layout] = Layout(
        ("config.json", "diffusion_pytorch_model.safetensors", NOUNS),
        "diffusion_pytorch_model.safetensors",
        shipped="segmenter",
    )

    def files(self, table: Mapping[str, Any]) -> list[Path]:
        return pinned_files(TABLE, _checked(table), self.layout)

    def check(self, table: Mapping[str, Any]) -> None:
        check_readable(TABLE, self.files(table))

    def load(self, table: Mapping[str, Any], device: str) -> Segmenter:
        load = resolve_name("benchmark.models.noun_unet:load_noun_unet")
        found: Segmenter = load(_checked(table), self.files(table)[0].parent, device)
        return found

    def hollow(self, table: Mapping[str, Any]) -> Segmenter:
        return Everywhere()

    def check_nouns(self, table: Mapping[str, Any], nouns: Sequence[str]) -> None:
        known = nouns_of(self.files(table)[0].parent)
        for noun in nouns:
            if noun not in known:
                raise UserError(
                    f"{TABLE}: '{_checked(table).model}' knows no '{noun}'; it knows "
                    f"{', '.join(known)}: choose another segmenter, or leave the subject out"
                )


CLIPSEG = ClipSeg()
NOUN_UNET = NounUNet()


def nouns_of(directory: Path) -> list[str]:
    """What the U-Net in `directory` knows, a noun a class. Raises UserError."""
    try:
        return read_text(directory / NOUNS).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{directory / NOUNS} cannot be read ({error}): fetch it anew") from error


def _checked(table: Mapping[str, Any]) -> PinnedTable:
    return checked_table(TABLE, table, PinnedTable)
