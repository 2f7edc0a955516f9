"""What a suite needs beside this package, and bringing it here: `python -m benchmark fetch all`.

for one in provisions(load_suite("dreambench"), PARTS):
    print(one.name, [download.source for download in one.downloads])
    one.fetch()
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.config.suite import Suite, load_suite, suite_names
from benchmark.data.download import fetch_images
from benchmark.models.assets import assets
from benchmark.models.assets.asset_files import MissingFiles
from benchmark.models.files.downloads import Download
from benchmark.scoring.encoder_tables import completed, protocol_tables
from benchmark.scoring.kinds import kind_of as encoder_kind
from benchmark.store.not_here import NotHere

#: In the order in which they are fetched.
PARTS = ("dataset", "encoders", "assets", "backbone")


@dataclass(frozen=True)
class Provision:
    """One thing that a suite needs."""

    name: str
    downloads: tuple[Download, ...]  #: what of it is not here
    fetch: Callable[[], object]  #: brings it and checks it. Raises UserError


@dataclass(frozen=True)
class Photographs:
    """The images of a dataset that are not here."""

    count: int
    address: str
    place: Path
    dataset: str

    @property
    def source(self) -> str:
        return f"{self.count} images of {self.address}"

    def size(self) -> int | None:
        return None

    def bring(self) -> None:
        fetch_images(self.dataset, self.place)


def provisions(suite: Suite, parts: Collection[str]) -> list[Provision]:
    """What `suite` needs of PARTS, whether it is here or not. Raises UserError."""
    every = {"dataset": _dataset, "encoders": _encoders, "assets": _assets, "backbone": _backbone}
    return [one for part in PARTS if part in parts for one in every[part](suite)]


@contextmanager
def in_short(suite: Suite) -> Iterator[None]:
    """Within, what is not here of a suite of ours is told by name, and how to fetch it at once."""
    try:
        yield
    except NotHere as error:
        lacking = [one.name for one in provisions(suite, PARTS) if one.downloads]
        if suite.name not in suite_names() or not lacking:
            raise
        own = load_suite(suite.name).backbone.model
        other = "" if suite.backbone.model == own else f" --backbone {suite.backbone.model}"
        raise UserError(
            f"not on this machine: {', '.join(lacking)}. `--data DIR` and `--encoders DIR` use "
            "copies of yours, `--suite pocket` needs none. To bring them: python -m benchmark "
            f"fetch all --suite {suite.name}{other}"
        ) from error


def _dataset(suite: Suite) -> Iterator[Provision]:
    dataset = suite.data.load()
    name = f"dataset {dataset.name}"
    lacking = sum(not path.is_file() for path in dataset.hashes)
    if dataset.source is None or not lacking:
        yield Provision(name, (), lambda: None)
        return
    images = Photographs(lacking, dataset.source, dataset.root, suite.data.dataset)
    yield Provision(name, (images,), images.bring)


def _encoders(suite: Suite) -> Iterator[Provision]:
    for name, table in completed(protocol_tables(suite.protocol, suite.encoders)).items():
        kind = encoder_kind(name, table)
        yield _of_files(f"encoders.{name}", partial(kind.files, name, table))


def _assets(suite: Suite) -> Iterator[Provision]:
    for role, table in suite.assets.items():
        kind = assets.kind_of(role, table)
        yield _of_files(assets.where(role), partial(kind.files, table))


def _of_files(name: str, files: Callable[[], object]) -> Provision:
    try:
        files()
    except MissingFiles as missing:
        downloads = missing.downloads

        def fetch() -> None:
            for download in downloads:
                download.bring()
            files()  # looks for them where a run does, and checks them

        return Provision(name, downloads, fetch)
    return Provision(name, (), files)


def _backbone(suite: Suite) -> Iterator[Provision]:
    kind: Any = suite.backbone.load_kind()
    model = suite.backbone.model
    lacking = kind.downloads(model) if hasattr(kind, "downloads") else ()
    yield Provision(f"backbone {model}", tuple(lacking), partial(kind.fetch, model))
