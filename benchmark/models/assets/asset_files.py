"""Models beside the backbone (encoders, a segmenter): what declares one, and where its files lie.

    [encoders.dino]     kind = "timm", model, ...       in a protocol
    [assets.segmenter]  kind = "clipseg", model, ...    in a suite

`model` is "pocket" (shipped), a directory (written with a slash), or a name; then `hub` and
`revision` say where its weights come from. Nothing is downloaded: what is missing raises
MissingFiles with the command that fetches it. No torch here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from benchmark.api import UserError
from benchmark.data.manifest import Table
from benchmark.models.families import read_configuration
from benchmark.models.files.diffusers_layout import SUFFIXES
from benchmark.models.files.downloads import Download, HubFiles
from benchmark.models.files.header import read_header
from benchmark.store.files import expanded, file_digest, read_text, short
from benchmark.store.names import meant
from benchmark.store.not_here import NotHere
from benchmark.store.wording import in_plain_words

SHIPPED = Path(__file__).parents[2] / "pocket" / "weights"


class MissingFiles(NotHere):
    """A model's files are not on this machine; the message says how to fetch them."""

    def __init__(self, message: str, *downloads: Download) -> None:
        super().__init__(message)
        self.downloads = downloads  #: what `python -m benchmark fetch` brings


class ModelTable(Table):
    """Which model, and where its files are looked for."""

    kind: str
    model: str
    hub: str | None = None  #: the repository of a model that is known by name
    revision: str = "main"
    directory: str | None = None  #: where to look for its files instead of the caches


class PinnedTable(ModelTable):
    """One whose weights may be told by their hash."""

    #: Of the file with the weights: fetched ones are then known to be those that were meant.
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Layout:
    """Which files a kind of model has."""

    own: tuple[str, ...]  #: what a directory must hold; named, so that no pickle is ever picked up
    weights: str  #: the file with the weights, there and in the hub's repository
    shipped: str  #: the folder of the pocket suite's model of this kind; empty: there is none


@dataclass(frozen=True)
class Source:
    """What a model is loaded from."""

    directory: Path | None  #: None: a model that its library knows by name
    weights: Path


_Table = TypeVar("_Table", bound=Table)


def checked_table(where: str, table: Mapping[str, Any], model: type[_Table]) -> _Table:
    """The table at `where` as a `model`. Raises UserError naming each bad key."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        problems = []
        for found in error.errors():
            key = ".".join(map(str, (where, *found["loc"])))
            if found["type"] == "missing":
                problems.append(f"{key} is missing")
            elif found["type"] == "extra_forbidden":
                close = meant(str(found["loc"][-1]), model.model_fields)
                keys = ", ".join(model.model_fields)
                problems.append(f"{key} is unknown{close}; the keys are {keys}")
            else:
                problems.append(f"{key}: {in_plain_words(found['msg'])}")
        raise UserError("; ".join(problems)) from error


def source_of(where: str, table: ModelTable, layout: Layout) -> Source:
    """The directory and the weights' file of a model. Raises UserError."""
    return Source(own_directory(where, table, layout), weights_file(where, table, layout))


def own_directory(where: str, table: ModelTable, layout: Layout) -> Path | None:
    """The directory of a model that is given as one, or None for a model known by name."""
    if table.model == "pocket" and layout.shipped:
        directory = SHIPPED / layout.shipped
    elif "/" in table.model:
        directory = expanded(table.model)
    else:
        return None
    missing = [file for file in layout.own if not (directory / file).is_file()]
    if missing:
        raise UserError(f"{where}.model: {directory} has no {', '.join(missing)}")
    return directory


def files_of(where: str, table: ModelTable, layout: Layout) -> list[Path]:
    """The files that make up a model: weights, configuration, vocabulary. Raises UserError."""
    directory = own_directory(where, table, layout)
    if directory is None:
        return [weights_file(where, table, layout)]
    return [path for path in sorted(directory.iterdir()) if path.suffix in SUFFIXES]


def pinned_files(where: str, table: PinnedTable, layout: Layout) -> list[Path]:
    """What a directory holds, or what is read of the hub's repository, checked by its SHA-256.

    Raises UserError.
    """
    if own_directory(where, table, layout) is None:
        files = hub_files(where, table, layout.own)
    else:
        files = files_of(where, table, layout)
    for path in files:
        if path.name == layout.weights:
            check_digest(where, path, table.sha256)
    return files


def weights_file(where: str, table: ModelTable, layout: Layout) -> Path:
    """The file with a model's weights. Raises UserError."""
    directory = own_directory(where, table, layout)
    if directory is not None:
        return directory / layout.weights
    return hub_files(where, table, [layout.weights])[0]


def hub_files(where: str, table: ModelTable, names: Sequence[str]) -> list[Path]:
    """Files of the hub's repository of a model that is known by name.

    Raises UserError, and MissingFiles with the command if one of them is not here.
    """
    if table.hub is None:
        raise UserError(
            f"{where}.hub is missing: the hub's repository of '{table.model}'; or "
            "give model as 'pocket', or as a directory written with a slash (./directory)"
        )
    option, folder = "", None
    if table.directory is not None:
        folder = expanded(table.directory) / table.hub.rpartition("/")[2]
        option = f" --local-dir {folder}"
        found: list[Path | None] = [folder / name for name in names]
    else:
        found = [_cached(table.hub, name, table.revision) for name in names]
    here = [path for path in found if path is not None and path.is_file()]
    if len(here) < len(names):
        raise MissingFiles(
            f"{where}: the weights of '{table.hub}' are not here; fetch them: "
            f"hf download {table.hub} {' '.join(names)} --revision {table.revision}{option}",
            HubFiles(table.hub, table.revision, tuple(names), folder),
        )
    return here


def check_digest(where: str, path: Path, sha256: str | None) -> None:
    """Raise UserError unless the file's SHA-256 is the given one; None: any will do."""
    found = file_digest(path).hex()
    if sha256 not in (None, found):
        raise UserError(
            f"{where}: {path} has SHA-256 {short(found)}, and sha256 is {short(sha256)}: fetch it "
            "anew"
        )


def _cached(repository: str, name: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def check_readable(where: str, files: Iterable[Path]) -> None:
    """Raise UserError for weights that are not whole, and for a file that is no JSON or text."""
    for path in files:
        try:
            if path.suffix == ".safetensors":
                read_header(path)
            elif path.suffix == ".json":
                read_configuration(path)
            elif path.suffix == ".txt":
                read_text(path)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: {path} cannot be read ({error}): fetch it anew") from error


def files_digest(files: Iterable[Path]) -> str:
    """12 hexadecimal digits of the SHA-256 over the files, by name and content."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + file_digest(path))
    return digest.hexdigest()[:12]


@contextmanager
def load_errors(where: str, table: ModelTable) -> Iterator[None]:
    """Whatever a library raises while it loads a model, as a UserError naming its table."""
    try:
        yield
    # They raise errors of many kinds, and plain Exceptions, for files that are broken.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{where}: cannot load '{table.model}': {lines[0]}; it should be 'pocket', "
            "a name and hub, or a directory written with a slash (./directory)"
        ) from error
