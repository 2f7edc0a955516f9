"""What other papers print of methods on DreamBench: other_papers.toml. Others' measurements.

rows_under(run.declarations["paper-1"])     # those that belong to a protocol
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from benchmark.config.protocol import load_protocol, protocol_names
from benchmark.data.manifest import Table, read_toml
from benchmark.store.files import toml_of


class Paper(Table):
    """Where rows are printed, and where they were read."""

    key: str
    source: str  #: authors, title, address, table
    read: str  #: in what, since a paper's own pages were not at hand


class PrintedRow(Table):
    """One row of a table."""

    paper: str  #: its key
    method: str
    backbone: str
    references: str  #: how many images of a subject the method is given, as printed
    measured_by: str
    protocols: list[str] = Field(min_length=1)  #: ours that it belongs to, by name
    scores: dict[str, float] = Field(min_length=1)  #: metric -> as printed, without a factor


class OtherPapers(Table):
    """The whole file."""

    paper: list[Paper]
    row: list[PrintedRow]

    @model_validator(mode="after")
    def _papers_are_known(self) -> Self:
        known = {paper.key for paper in self.paper}
        for row in self.row:
            if row.paper not in known:
                raise ValueError(f"row '{row.method}' is of an unknown paper '{row.paper}'")
        return self


@cache
def other_papers() -> OtherPapers:
    """Everything that is kept."""
    return read_toml(Path(__file__).parent / "other_papers.toml", OtherPapers)


def rows_under(declared: Mapping[str, Any]) -> list[PrintedRow]:
    """The rows that belong to a run's protocol, `declared` in its TOML, in the file's order.

    None if it is called as one of ours and is another: other encoders give other scores.
    """
    name = declared.get("name")
    if name not in protocol_names():
        return []
    ours = toml_of(load_protocol(str(name)).dump_toml())
    if {**ours, "description": ""} != {**declared, "description": ""}:
        return []
    return [row for row in other_papers().row if name in row.protocols]
