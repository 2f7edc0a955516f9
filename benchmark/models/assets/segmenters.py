"""The kinds of segmenters: assets that find what a noun names. No torch here.

[assets.segmenter]
kind = "clipseg"
model = "clipseg-rd64-refined"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import AssetTable, Segmenter, UserError
from benchmark.models.assets.asset_files import Layout, PinnedTable
from benchmark.models.assets.assets import pinned_kind, where
from benchmark.store.files import read_text

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "segmenter"
TABLE = where(ROLE)  #: how messages call it
NOUNS = "nouns.txt"


CLIPSEG_LAYOUT = Layout(
    (
        *("config.json", "preprocessor_config.json", "model.safetensors"),
        *("vocab.json", "merges.txt", "tokenizer_config.json"),
    ),
    "model.safetensors",
    shipped="",
)
NOUN_UNET_LAYOUT = Layout(
    ("config.json", "diffusion_pytorch_model.safetensors", NOUNS),
    "diffusion_pytorch_model.safetensors",
    shipped="segmenter",
)


class Everywhere:
    """In a segmenter's place: finds everything in any image, numbers or none."""

    def segment(self, images: Tensor, noun: str) -> Tensor:
        return images[:, 0] >= 0


def _load_clipseg(table: PinnedTable, directory: Path, device: str) -> Segmenter:
    from benchmark.models.assets.clipseg import load_clipseg

    return load_clipseg(table, directory, device)


def _load_noun_unet(table: PinnedTable, directory: Path, device: str) -> Segmenter:
    from benchmark.models.assets.noun_unet import load_noun_unet

    return load_noun_unet(table, directory, device)


def _hollow(_table: PinnedTable, _directory: Path) -> Segmenter:
    return Everywhere()


def _check_nouns(table: AssetTable, nouns: Sequence[str]) -> None:
    known = nouns_of(NOUN_UNET.files(table)[0].parent)
    for noun in nouns:
        if noun not in known:
            raise UserError(
                f"{TABLE}: '{table['model']}' knows no '{noun}'; it knows "
                f"{', '.join(known)}: choose another segmenter, or leave the subject out"
            )


#: CLIPSeg by transformers: any noun, on photographs.
CLIPSEG = pinned_kind(ROLE, CLIPSEG_LAYOUT, _load_clipseg, hollow=_hollow)
#: A U-Net by diffusers that knows a list of nouns: the pocket world's.
NOUN_UNET = pinned_kind(
    ROLE, NOUN_UNET_LAYOUT, _load_noun_unet, hollow=_hollow, check_nouns=_check_nouns
)


def nouns_of(directory: Path) -> list[str]:
    """What the U-Net in `directory` knows, a noun a class. Raises UserError."""
    try:
        return read_text(directory / NOUNS).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{directory / NOUNS} cannot be read ({error}): fetch it anew") from error
