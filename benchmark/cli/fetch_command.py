"""The command that brings here what a suite needs: photographs, encoders, assets, the backbone.

python -m benchmark fetch all --suite dreambench --to /media/stick
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.api import UserError
from benchmark.cli.options import SuiteOptions, bundled
from benchmark.data.dataset import dataset_names, fetched_directory
from benchmark.store.files import expanded
from benchmark.store.names import unknown

if TYPE_CHECKING:
    from benchmark.runs.provisions import Provision

_ALL = "all"
_SUITE = SuiteOptions()
#: What say where the caches are, other than the one that `--to` sets.
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TORCH_HOME")


@bundled
def fetch(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DATASET|PART",
            help="A dataset whose photographs lie elsewhere; or of what the suite needs `dataset`, "
            "`encoders`, `assets`, `backbone`, or `all`.",
        ),
    ],
    suite: SuiteOptions = _SUITE,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of a dataset: else your cache folder, where runs look."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Put it into caches in DIR, for a machine without a connection: there, set "
            "XDG_CACHE_HOME to DIR.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is missing, how large, and where it goes.")
    ] = False,
) -> None:
    """Bring here what runs need, and check it: only what is missing or altered is downloaded.

    It may be interrupted and run again. With --data the copy of a dataset at DIR is checked, and
    nothing is downloaded.

    Examples:

      python -m benchmark fetch dreambench

      python -m benchmark fetch dreambench --data my-copy

      python -m benchmark fetch all --suite dreambench --dry-run

      python -m benchmark fetch encoders --suite dreambench --to /media/stick
    """
    if to is not None:
        _move_caches(to)
    # After that: libraries read where their caches are when they are imported.
    from benchmark.runs.provisions import PARTS, provisions

    if what not in (_ALL, *PARTS):
        _fetch_dataset(what, suite.data, out, dry_run)
        return
    if out is not None:
        raise UserError("--out is where a dataset goes, such as dreambench: --to moves all caches")
    parts = PARTS if what == _ALL else (what,)
    _bring(provisions(suite.load(), parts), dry_run)
    if to is not None and not dry_run:
        place = shlex.quote(str(expanded(to).absolute()))
        print(f"on the other machine: export XDG_CACHE_HOME={place}, or where you bring it to")


def _move_caches(folder: Path) -> None:
    """Have all caches in `folder`, but for the token of the hub. Raises UserError for a file."""
    if expanded(folder).exists() and not expanded(folder).is_dir():
        raise UserError(f"--to {folder}: it is no folder, and caches are folders: choose another")
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache"), "huggingface"
    )
    os.environ.setdefault("HF_TOKEN_PATH", str(Path(home) / "token"))
    os.environ["XDG_CACHE_HOME"] = str(expanded(folder).absolute())
    for name in _CACHES:
        os.environ.pop(name, None)


def _fetch_dataset(name: str, data: Path | None, out: Path | None, dry_run: bool) -> None:
    from benchmark.data.download import check_copy, fetch_images
    from benchmark.runs.provisions import PARTS

    known = [_ALL, *PARTS, *dataset_names()]
    if name not in known and not expanded(name).is_dir():
        raise UserError(f"{unknown('thing to fetch', name, known)}; or give a dataset's folder")
    if out and data:
        raise UserError("--out says where to download to, --data what to check: give one of them")
    if dry_run:
        print(f"the photographs of {name} that are missing go to {out or fetched_directory(name)}")
        return
    found = check_copy(name, data) if data else fetch_images(name, out)
    images = sum(len(subject.images) for subject in found.subjects)
    print(f"{len(found.subjects)} subjects, {images} images, each as it should be: {found.root}")


def _bring(needed: Sequence[Provision], dry_run: bool) -> None:
    """Print what is needed, then bring what is not here, and check all of it."""
    width = max((len(one.name) for one in needed), default=0)
    sizes = []
    for one in needed:
        if not one.downloads:
            print(f"{one.name:<{width}}  is here")
        for download in one.downloads:
            sizes.append(download.size())
            print(
                f"{one.name:<{width}}  {_in_words(sizes[-1]):>12}  {download.source}, to "
                f"{download.place}"
            )
    if known := [size for size in sizes if size is not None]:
        unknown_too = ", and what is of unknown size" if len(known) < len(sizes) else ""
        print(f"to fetch: {_in_words(sum(known))}{unknown_too}")
    if dry_run:
        return
    for one in needed:
        one.fetch()
        print(f"{one.name:<{width}}  {'fetched' if one.downloads else 'checked'}", flush=True)


def _in_words(size: int | None) -> str:
    if size is None:
        return "size unknown"
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
