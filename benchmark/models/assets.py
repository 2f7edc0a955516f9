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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from benchmark.api import UserError
from benchmark.config import registry
from benchmark.models.asset_files import files_digest


class AssetKind(Protocol):
    """What is known of a sort of assets before one is loaded."""

    @property
    def version(self) -> str:
        """Rises when what its assets answer changes; "1" at first."""
        ...

    @property
    def role(self) -> str:
        """The role that it fills: `[assets.<role>]`."""
        ...

    def files(self, table: Mapping[str, Any]) -> list[Path]:
        """The files that make up the asset of a table.

        Raises UserError naming the table's bad key, or what is missing and how to fetch it.
        """
        ...

    def load(self, table: Mapping[str, Any], device: str) -> Any:
        """The asset of a table, in float32. Raises UserError."""
        ...

    # Optional: `check(table)`, which raises UserError naming a file that is broken, or does not fit
    # the others; it is asked before anything is drawn, and may load torch, but reads no weights.
    # And `check_nouns(table, nouns)`, which raises UserError for a class noun that the asset of a
    # table does not know. And `shapes(table)`, of the weights that a backbone takes from it,
    # by name; `BackboneKind.check_adapter` is asked whether they fit. And `hollow(table)`, what
    # stands in its place where all tensors are without numbers, for estimates of GPU memory.


def where(role: str) -> str:
    """How messages call the table of the asset in a role."""
    return f"assets.{role}"


def kind_of(role: str, table: Mapping[str, Any]) -> AssetKind:
    """The kind of the asset of a table, which fills `role`. Raises UserError."""
    if "kind" not in table:
        raise UserError(f"{where(role)}.kind is missing; known: {', '.join(_known(role))}")
    try:
        kind = cast(AssetKind, registry.load_asset_kind(str(table["kind"])))
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


def identify(role: str, table: Mapping[str, Any]) -> str:
    """`<kind>-<version> <name>@<12 hexadecimal digits>`: what decides its answers.

    Where the files lie is no part of it. Raises UserError naming a bad key, or saying how to fetch
    what is missing.
    """
    kind = kind_of(role, table)
    digest = files_digest(kind.files(table))
    name = str(table.get("model", "")).rstrip("/").rpartition("/")[2]
    return f"{table['kind']}-{kind.version} {name}@{digest}"


def check_nouns(role: str, table: Mapping[str, Any], nouns: Sequence[str]) -> None:
    """Raise UserError for a noun that the asset of `table` does not know, if it can tell."""
    kind = kind_of(role, table)
    if hasattr(kind, "check_nouns"):
        kind.check_nouns(table, nouns)
