"""The kind of guides: assets that images are optimised under. No torch here.

[assets.guide]
kind = "clip"
model = "pocket"
"""

from __future__ import annotations

from pathlib import Path

from benchmark.api import Guide
from benchmark.models.assets.asset_files import Layout, PinnedTable
from benchmark.models.assets.assets import pinned_kind, where

ROLE = "guide"
TABLE = where(ROLE)  #: how messages call it
LAYOUT = Layout(
    (
        *("config.json", "preprocessor_config.json", "model.safetensors"),
        *("vocab.json", "merges.txt", "tokenizer_config.json"),
    ),
    "model.safetensors",
    shipped="guide",
)


def _load(table: PinnedTable, directory: Path, device: str) -> Guide:
    from benchmark.models.assets.clip_guide import load_clip_guide

    return load_clip_guide(table, directory, device)


def _hollow(table: PinnedTable, directory: Path) -> Guide:
    from benchmark.models.assets.clip_guide import hollow_clip_guide

    return hollow_clip_guide(table, directory)


def _check(table: PinnedTable, directory: Path) -> None:
    from benchmark.models.assets.clip_guide import check_clip_guide

    check_clip_guide(table, directory)


#: CLIP (Radford et al., 2103.00020) with a vision transformer, in transformers' layout.
CLIP = pinned_kind(ROLE, LAYOUT, _load, hollow=_hollow, check=_check)
