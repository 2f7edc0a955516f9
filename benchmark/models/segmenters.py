"""The kinds of segmenters, and which exact one a suite's table declares. No torch here.

    [segmenter]
    kind = "clipseg"
    model = "clipseg-rd64-refined"

    identify(suite.segmenter)       # "clipseg-1 clipseg-rd64-refined@" and 12 hexadecimal digits

A kind is found by entry point, in the group `dreambooth_benchmark.segmenters`, or as
module:ATTRIBUTE: `kind = "my_module:KIND"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, Protocol

from pydantic import Field

from benchmark.api import Segmenter, UserError
from benchmark.config import registry
from benchmark.models.asset_files import (
    AssetTable,
    Layout,
    checked_table,
    files_digest,
    files_of,
    hub_files,
    own_directory,
)
from benchmark.store.files import file_digest, read_text

TABLE = "segmenter"  #: where a suite declares one
NOUNS = "nouns.txt"


class SegmenterKind(Protocol):
    """What is known of a sort of segmenters before one is loaded."""

    @property
    def version(self) -> str:
        """Rises when the masks of its segmenters change; "1" at first."""
        ...

    def files(self, table: Mapping[str, Any]) -> list[Path]:
        """The files that make up the segmenter of a table.

        Raises UserError naming the table's bad key, or what is missing and how to fetch it.
        """
        ...

    def load(self, table: Mapping[str, Any], device: str) -> Segmenter:
        """The segmenter of a table, in float32. Raises UserError."""
        ...

    # Optional: `check_nouns(table, nouns)`, which raises UserError for a noun that the segmenter of
    # a table does not know.


class SegmenterTable(AssetTable):
    """A segmenter."""

    #: Of the file with the weights: fetched ones are then known to be those that were meant.
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class ClipSeg:
    """CLIPSeg by transformers: any noun, on photographs."""

    version: ClassVar[str] = "1"
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


@dataclass(frozen=True)
class NounUNet:
    """A U-Net by diffusers that knows a list of nouns: the pocket world's."""

    version: ClassVar[str] = "1"
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
        if path.name == layout.weights and checked.sha256 not in (None, file_digest(path).hex()):
            raise UserError(
                f"{TABLE}: {path} has SHA-256 {file_digest(path).hex()}, and sha256 is "
                f"{checked.sha256}: fetch it anew"
            )
    return files


def kind_of(table: Mapping[str, Any]) -> SegmenterKind:
    """The kind of the segmenter of a table. Raises UserError."""
    if "kind" not in table:
        known = ", ".join(registry.available("segmenters"))
        raise UserError(f"{TABLE}.kind is missing; known: {known}")
    try:
        kind: SegmenterKind = registry.load_segmenter_kind(str(table["kind"]))
    except UserError as error:
        raise UserError(f"{TABLE}.kind: {error}") from error
    return kind


def identify(table: Mapping[str, Any]) -> str:
    """`<kind>-<version> <name>@<12 hexadecimal digits>`: what decides its masks.

    Where the files lie is no part of it. Raises UserError naming a bad key, or saying how to fetch
    what is missing.
    """
    kind = kind_of(table)
    digest = files_digest(kind.files(table))
    name = str(table.get("model", "")).rstrip("/").rpartition("/")[2]
    return f"{table['kind']}-{kind.version} {name}@{digest}"


def check_nouns(table: Mapping[str, Any], nouns: Sequence[str]) -> None:
    """Raise UserError for a noun that the segmenter of `table` does not know, if it can tell."""
    kind = kind_of(table)
    if hasattr(kind, "check_nouns"):
        kind.check_nouns(table, nouns)
