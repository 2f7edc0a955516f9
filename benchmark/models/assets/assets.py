"""Models that methods use beside the backbone, and which ones a suite declares. No torch here.

    [assets.segmenter]
    kind = "clipseg"
    model = "clipseg-rd64-refined"

    identify("segmenter", suite.assets["segmenter"])
    # "clipseg-1 clipseg-rd64-refined@" and 12 hexadecimal digits

`segmenter` is the asset's role: what a method asks for. A kind says which role it fills; it is
found by entry point, in the group `dreambooth_benchmark.assets`, or as module:ATTRIBUTE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.api import AssetKind, AssetTable, UserError
from benchmark.config import registry
from benchmark.models.assets.asset_files import (
    Layout,
    PinnedTable,
    check_readable,
    checked_table,
    files_digest,
    pinned_files,
)


def where(role: str) -> str:
    """How messages call the table of the asset in a role."""
    return f"assets.{role}"


def pinned_kind(
    role: str,
    layout: Layout,
    load: Callable[[PinnedTable, Path, str], Any],
    *,
    hollow: Callable[[PinnedTable, Path], Any],
    check: Callable[[PinnedTable, Path], None] | None = None,
    check_nouns: Callable[[AssetTable, Sequence[str]], None] | None = None,
) -> AssetKind:
    """The kind of those that are a directory of files, whose weights may be told by their hash.

    `load`, `hollow` and `check` are given the directory; `check` is asked once all files are whole.
    """

    def checked(table: AssetTable) -> PinnedTable:
        return checked_table(where(role), table, PinnedTable)

    def files(table: AssetTable) -> list[Path]:
        return pinned_files(where(role), checked(table), layout)

    def directory(table: AssetTable) -> Path:
        return files(table)[0].parent

    def check_files(table: AssetTable) -> None:
        check_readable(where(role), files(table))
        if check is not None:
            check(checked(table), directory(table))

    return AssetKind(
        role,
        files,
        load=lambda table, device: load(checked(table), directory(table), device),
        hollow=lambda table: hollow(checked(table), directory(table)),
        check=check_files,
        check_nouns=check_nouns,
    )


def kind_of(role: str, table: AssetTable) -> AssetKind:
    """The kind of the asset of a table, which fills `role`. Raises UserError."""
    if "kind" not in table:
        raise UserError(f"{where(role)}.kind is missing; known: {', '.join(_known(role))}")
    try:
        kind = registry.load_asset_kind(str(table["kind"]))
    except UserError as error:
        raise UserError(f"{where(role)}.kind: {error}") from error
    if kind.role != role:
        raise UserError(
            f"{where(role)}.kind is '{table['kind']}', whose role is '{kind.role}'; known here: "
            f"{', '.join(_known(role)) or 'none'}"
        )
    return kind


def _known(role: str) -> list[str]:
    names = registry.available("assets")
    return [name for name in names if registry.load_asset_kind(name).role == role]


def identify(role: str, table: AssetTable) -> str:
    """`<kind>-<version> <name>@<12 hexadecimal digits>`: what decides its answers.

    Where the files lie is no part of it. Raises UserError naming a bad key, or saying how to fetch
    what is missing.
    """
    kind = kind_of(role, table)
    digest = files_digest(kind.files(table))
    name = str(table.get("model", "")).rstrip("/").rpartition("/")[2]
    return f"{table['kind']}-{kind.version} {name}@{digest}"


def check_nouns(role: str, table: AssetTable, nouns: Sequence[str]) -> None:
    """Raise UserError for a noun that the asset of `table` does not know, if it can tell."""
    kind = kind_of(role, table)
    if kind.check_nouns is not None:
        kind.check_nouns(table, nouns)
