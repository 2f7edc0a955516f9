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

from pydantic import Field

from benchmark.api import Segmenter, UserError
from benchmark.models.asset_files import (
    AssetTable,
    Layout,
    check_digest,
    checked_table,
    files_of,
    hub_files,
    own_directory,
)
from benchmark.models.assets import where
from benchmark.store.files import read_text

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "segmenter"
TABLE = where(ROLE)  #: how messages call it
NOUNS = "nouns.txt"


class SegmenterTable(AssetTable):
    """A segmenter."""

    #: Of the file with the weights: fetched ones are then known to be those that were meant.
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


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
        return _files(table, self.layout)

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
        return _files(table, self.layout)

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


def _checked(table: Mapping[str, Any]) -> SegmenterTable:
    return checked_table(TABLE, table, SegmenterTable)


def _files(table: Mapping[str, Any], layout: Layout) -> list[Path]:
    """What a directory holds, or what is read of the hub's repository, checked by its SHA-256."""
    checked = _checked(table)
    if own_directory(TABLE, checked, layout) is None:
        files = hub_files(TABLE, checked, layout.own)
    else:
        files = files_of(TABLE, checked, layout)
    for path in files:
        if path.name == layout.weights:
            check_digest(TABLE, path, checked.sha256)
    return files
