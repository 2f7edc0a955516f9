"""Where an encoder's files lie, and how to fetch those that are missing. No torch here.

Nothing is downloaded: what is missing raises MissingFiles with the command that fetches it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmark.api import UserError
from benchmark.models.diffusers_layout import SUFFIXES
from benchmark.scoring.encoder_tables import EncoderTable
from benchmark.store.files import expanded

SHIPPED = Path(__file__).parent.parent / "pocket" / "weights"
#: LPIPS's network, as torchvision publishes it. Eight digits of its SHA-256 stand in its name.
ALEXNET = "alexnet-owt-7be5be79.pth"
ALEXNET_ADDRESS = f"https://download.pytorch.org/models/{ALEXNET}"
#: LPIPS's learned weights for it, in the package torchmetrics.
LEARNED = "functional/image/lpips_models/alex.pth"


class MissingFiles(UserError):
    """An encoder's files are not on this machine; the message says how to fetch them."""


@dataclass(frozen=True)
class Layout:
    """Which files a kind of encoder has."""

    own: tuple[str, ...]  #: what a directory must hold; named, so that no pickle is ever picked up
    weights: str  #: the file with the weights, there and in the hub's repository
    shipped: str  #: the folder of the pocket suite's encoder of this kind


@dataclass(frozen=True)
class Source:
    """What an encoder is loaded from."""

    directory: Path | None  #: None: a model that its library knows by name
    weights: Path


def source_of(name: str, table: EncoderTable, layout: Layout) -> Source:
    """The directory and the weights' file of an encoder. Raises UserError."""
    return Source(own_directory(name, table, layout), weights_file(name, table, layout))


def own_directory(name: str, table: EncoderTable, layout: Layout) -> Path | None:
    """The directory of a model that is given as one, or None for a model known by name."""
    if table.model == "pocket":
        directory = SHIPPED / layout.shipped
    elif "/" in table.model:
        directory = expanded(table.model)
    else:
        return None
    missing = [file for file in layout.own if not (directory / file).is_file()]
    if missing:
        raise UserError(f"encoders.{name}.model: {directory} has no {', '.join(missing)}")
    return directory


def files_of(name: str, table: EncoderTable, layout: Layout) -> list[Path]:
    """The files that make up an encoder: weights, configuration, vocabulary. Raises UserError."""
    directory = own_directory(name, table, layout)
    if directory is None:
        return [weights_file(name, table, layout)]
    return [path for path in sorted(directory.iterdir()) if path.suffix in SUFFIXES]


def weights_file(name: str, table: EncoderTable, layout: Layout) -> Path:
    """The file with an encoder's weights. Raises UserError."""
    directory = own_directory(name, table, layout)
    if directory is not None:
        return directory / layout.weights
    if table.hub is None:
        raise UserError(
            f"encoders.{name}.hub is missing: the hub's repository of '{table.model}'; or "
            "give model as 'pocket', or as a directory written with a slash (./directory)"
        )
    option = ""
    if table.directory is not None:
        path = expanded(table.directory) / table.hub.rpartition("/")[2] / layout.weights
        option = f" --local-dir {path.parent}"
        if path.is_file():
            return path
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(table.hub, layout.weights, revision=table.revision)
        if isinstance(found, str):
            return Path(found)
    raise MissingFiles(
        f"encoders.{name}: the weights of '{table.hub}' are not here; fetch them: "
        f"hf download {table.hub} {layout.weights} --revision {table.revision}{option}"
    )


def alexnet_file(name: str, table: EncoderTable) -> Path:
    """The file with AlexNet's weights, in the table's `directory` or where torch.hub keeps it."""
    if table.directory is not None:
        path = expanded(table.directory) / ALEXNET
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
        path = expanded(os.environ.get("TORCH_HOME", cache)) / "hub/checkpoints" / ALEXNET
    if not path.is_file():
        raise MissingFiles(
            f"encoders.{name}: the weights of LPIPS's network are not here; fetch them: "
            f"curl --create-dirs -o {path} {ALEXNET_ADDRESS}"
        )
    return path


def learned_file(name: str) -> Path:
    """The file with the weights that LPIPS's authors learned on top of AlexNet, by torchmetrics."""
    found = find_spec("torchmetrics")  # not imported: that would bring torch
    path = None if found is None or found.origin is None else Path(found.origin).parent / LEARNED
    if path is None or not path.is_file():
        raise UserError(
            f"encoders.{name}: torchmetrics does not hold {LEARNED}, LPIPS's learned weights: "
            "install it anew"
        )
    return path
