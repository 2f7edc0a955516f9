"""What a node of a cluster lacks of a run: images, masks, and plugins of the driver's folder.

luggage = luggage_of(suite, subjects={"dog-biscuit"})
suite = unpacked(luggage, suite, Path("/tmp/here"))      # reads them there
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmark.config.suite import Suite
from benchmark.data.dataset import dataset_directory, dataset_names
from benchmark.data.manifest import MANIFEST
from benchmark.runs.parcel import Parcel
from benchmark.store.files import write_atomically

#: The top level of this package, which each node has installed.
_OURS = {"benchmark", "methods"}


@dataclass(frozen=True)
class Luggage:
    """Files by their path."""

    data: Parcel  #: relative to the data set's folder
    code: Parcel  #: relative to a folder on Python's path


def luggage_of(suite: Suite, *, subjects: Collection[str]) -> Luggage:
    """What `suite` needs beside the package, once its plugins are imported here.

    Images of `subjects`; of a data set without a manifest, which is read as a folder, of all.
    Plugins are what was imported from the working folder: modules, and packages with all that
    their folders hold. Other files there are left out.
    """
    return Luggage(_data(suite, subjects), _code(Path.cwd()))


def _data(suite: Suite, subjects: Collection[str]) -> Parcel:
    dataset = suite.data.load()
    definition = dataset_directory(suite.data.dataset)
    pinned = (definition / MANIFEST).is_file()
    images = [
        path
        for subject in dataset.subjects
        if not pinned or subject.name in subjects
        for path in (*subject.images, *subject.masks)
    ]
    found = {path.relative_to(dataset.root).as_posix(): path.read_bytes() for path in images}
    return found | {path.name: path.read_bytes() for path in definition.glob("*.toml")}


def _code(folder: Path) -> Parcel:
    found: set[Path] = set()
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        if name.partition(".")[0] in _OURS or file.suffix != ".py":
            continue
        if file.is_relative_to(folder) and not file.is_relative_to(sys.prefix):
            found |= _beside(file) if hasattr(module, "__path__") else {file}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def _beside(file: Path) -> set[Path]:
    """All files of a package, by its `__init__.py`, but for hidden and compiled ones."""
    files = (path for path in file.parent.rglob("*") if path.is_file())
    return {
        path
        for path in files
        if not any(p.startswith((".", "__pycache__")) for p in path.relative_to(file.parent).parts)
    }


def unpacked(luggage: Luggage, suite: Suite, folder: Path) -> Suite:
    """`suite` with its images in `folder`, and Python's path with the plugins there."""
    for kind, parcel in (("data", luggage.data), ("code", luggage.code)):
        for relative, content in parcel.items():
            write_atomically(folder / kind / relative, content)
    code = str(folder / "code")
    if luggage.code and code not in sys.path:
        sys.path.insert(0, code)
    data = folder / "data"
    update = {"folder": str(data)}
    if suite.data.dataset not in dataset_names():
        update["dataset"] = str(data)
    return suite.model_copy(update={"data": suite.data.model_copy(update=update)})
