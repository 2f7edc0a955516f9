"""Where the files of LPIPS lie, and how to fetch those that are missing. No torch here.

Those of other encoders: `benchmark.models.assets.asset_files`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from benchmark.api import UserError
from benchmark.models.assets.asset_files import MissingFiles
from benchmark.scoring.encoder_tables import EncoderTable
from benchmark.store.files import expanded

#: LPIPS's network, as torchvision publishes it. Eight digits of its SHA-256 stand in its name.
ALEXNET = "alexnet-owt-7be5be79.pth"
ALEXNET_ADDRESS = f"https://download.pytorch.org/models/{ALEXNET}"
#: LPIPS's learned weights for it, in the package torchmetrics.
LEARNED = "functional/image/lpips_models/alex.pth"


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
