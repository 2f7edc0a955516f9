"""The kind of guides: assets that images are optimised under. No torch here.

[assets.guide]
kind = "clip"
model = "pocket"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from benchmark.api import Guide
from benchmark.models.asset_files import (
    Layout,
    PinnedTable,
    check_readable,
    checked_table,
    pinned_files,
)
from benchmark.models.assets import where

ROLE = "guide"
TABLE = where(ROLE)  #: how messages call it


@dataclass(frozen=True)
class Clip:
    """CLIP (Radford et al., 2103.00020) with a vision transformer, in transformers' layout."""

    version: ClassVar[str] = "1"
    role: ClassVar[str] = ROLE
    layout: ClassVar[Layout] = Layout(
        (
            *("config.json", "preprocessor_config.json", "model.safetensors"),
            *("vocab.json", "merges.txt", "tokenizer_config.json"),
        ),
        "model.safetensors",
        shipped="guide",
    )

    def files(self, table: Mapping[str, Any]) -> list[Path]:
        return pinned_files(TABLE, _checked(table), self.layout)

    def check(self, table: Mapping[str, Any]) -> None:
        files = self.files(table)
        check_readable(TABLE, files)
        check = resolve_name("benchmark.models.clip_guide:check_clip_guide")
        check(_checked(table), files[0].parent, self.layout.weights)

    def load(self, table: Mapping[str, Any], device: str) -> Guide:
        load = resolve_name("benchmark.models.clip_guide:load_clip_guide")
        found: Guide = load(_checked(table), self.files(table)[0].parent, device)
        return found

    def hollow(self, table: Mapping[str, Any]) -> Guide:
        hollow = resolve_name("benchmark.models.clip_guide:hollow_clip_guide")
        found: Guide = hollow(_checked(table), self.files(table)[0].parent)
        return found


CLIP = Clip()


def _checked(table: Mapping[str, Any]) -> PinnedTable:
    return checked_table(TABLE, table, PinnedTable)
