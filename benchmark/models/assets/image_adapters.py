"""The kinds of image adapters: assets that have a backbone look at images. No torch here.

[assets.image-prompt]
kind = "ip-adapter"
model = "ip-adapter_sd15"
hub = "h94/IP-Adapter"
weights = "models/ip-adapter_sd15.safetensors"
image_encoder = "models/image_encoder"

`weights` and the folder `image_encoder` lie in the hub's repository or, where `model` is a
directory, there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from benchmark.api import AssetKind, AssetTable, ImageAdapter, ImagePrompt, UserError
from benchmark.models.assets.asset_files import (
    Layout,
    ModelTable,
    check_digest,
    check_readable,
    checked_table,
    hub_files,
    own_directory,
)
from benchmark.models.assets.assets import where
from benchmark.models.families import read_configuration
from benchmark.models.files.header import read_header

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "image-prompt"
TABLE = where(ROLE)  #: how messages call it
_SHA256 = r"^[0-9a-f]{64}$"
PROJECTION = "image_proj."  #: before the names of what reads the image encoder

#: The weight by which a sort of adapter is told -> the one that reads what the image encoder gives.
#: The first reads one embedding an image; "full-face" and "plus" the states before the last layer,
#: a patch each.
POOLED = "proj.weight"
SORTS = {POOLED: POOLED, "proj.3.weight": "proj.0.weight", "latents": "proj_in.weight"}


class IpAdapterTable(ModelTable):
    """An IP-Adapter, and the image encoder that it was trained with."""

    weights: str = "ip-adapter/ip-adapter.safetensors"  #: the defaults are those of the pocket's
    image_encoder: str = "guide"
    #: Of both files with weights: fetched ones are then known to be those that were meant.
    sha256: str | None = Field(default=None, pattern=_SHA256)
    image_encoder_sha256: str | None = Field(default=None, pattern=_SHA256)

    @property
    def encoder_files(self) -> tuple[str, str]:
        """The image encoder's configuration and weights."""
        return f"{self.image_encoder}/config.json", f"{self.image_encoder}/model.safetensors"

    @property
    def layout(self) -> Layout:
        """Its files, in a directory and in the hub's repository."""
        return Layout((self.weights, *self.encoder_files), self.weights, shipped=".")


@dataclass(frozen=True)
class Files:
    """Where an IP-Adapter lies, and what its header and the encoder's configuration say."""

    weights: Path
    configuration: Path
    encoder: Path
    shapes: Mapping[str, tuple[int, ...]]  #: of the adapter's weights
    vision: Mapping[str, Any]  #: the image encoder's configuration

    @property
    def reads_patches(self) -> bool:
        """Whether it reads an image patch by patch; else as one embedding."""
        return f"{PROJECTION}{POOLED}" not in self.shapes


@dataclass(frozen=True)
class HollowAdapter:
    """In an adapter's place where tensors have no numbers: weights and embeddings of its shapes."""

    files: Files

    @property
    def resolution(self) -> int:
        return int(self.files.vision["image_size"])

    def prompt(self, images: Tensor, scale: float) -> ImagePrompt:
        adapter = {name: images.new_empty(shape) for name, shape in self.files.shapes.items()}
        embeddings = images.new_empty(len(images), *embedded(self.files))
        return ImagePrompt(adapter, embeddings, embeddings, scale)


def _checked(table: AssetTable) -> IpAdapterTable:
    return checked_table(TABLE, table, IpAdapterTable)


def _files(table: AssetTable) -> list[Path]:
    """The weights, then the encoder's configuration and weights."""
    checked = _checked(table)
    names = (checked.weights, *checked.encoder_files)
    directory = own_directory(TABLE, checked, checked.layout)
    if directory is None:
        found = hub_files(TABLE, checked, names)
    else:
        found = [directory / name for name in names]
    check_digest(TABLE, found[0], checked.sha256)
    check_digest(TABLE, found[2], checked.image_encoder_sha256)
    return found


def _read(table: AssetTable) -> Files:
    """What the files say of themselves. Raises UserError if they do not fit together."""
    weights, configuration, encoder = _files(table)
    said = read_configuration(configuration)
    # Of a whole CLIP, the half that sees.
    vision = said.get("vision_config", said)
    files = Files(weights, configuration, encoder, read_header(weights).shapes, vision)
    check_widths(files)
    return files


def _check(table: AssetTable) -> None:
    from benchmark.models.assets.ip_adapter import check_image_encoder

    check_readable(TABLE, _files(table))
    check_image_encoder(_checked(table), _read(table))


def _load(table: AssetTable, device: str) -> ImageAdapter:
    from benchmark.models.assets.ip_adapter import load_ip_adapter

    return load_ip_adapter(_checked(table), _read(table), device)


#: IP-Adapter by diffusers, with a CLIP image encoder by transformers.
IP_ADAPTER = AssetKind(
    ROLE,
    _files,
    _load,
    hollow=lambda table: HollowAdapter(_read(table)),
    check=_check,
    shapes=lambda table: _read(table).shapes,
)


def check_widths(files: Files) -> None:
    """Raise UserError if an adapter does not read what its image encoder gives."""
    reads = [
        files.shapes.get(f"{PROJECTION}{reader}", ())
        for sort, reader in SORTS.items()
        if f"{PROJECTION}{sort}" in files.shapes
    ]
    if not reads or len(reads[0]) != 2:
        raise UserError(
            f"{TABLE}: {files.weights} is no IP-Adapter that looks at images (those called FaceID "
            "look at faces): choose another"
        )
    read = reads[0][1]
    key = "hidden_size" if files.reads_patches else "projection_dim"
    if files.vision.get(key) != read:
        raise UserError(
            f"{TABLE}: {files.weights} reads embeddings of width {read}, and {files.configuration} "
            f"says {key} = {files.vision.get(key)}: give the image encoder that it was trained with"
        )


def embedded(files: Files) -> tuple[int, ...]:
    """The shape of an image's embedding."""
    if not files.reads_patches:
        return (int(files.vision["projection_dim"]),)
    side = int(files.vision["image_size"]) // int(files.vision["patch_size"])
    return side * side + 1, int(files.vision["hidden_size"])
