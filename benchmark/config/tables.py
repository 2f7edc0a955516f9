"""What a suite declares for its report: tables of ablations, and the objective of sweeps.

    [[tables]]                                      # in a suite
    name = "prior-weight"
    title = "Prior weight"
    members = ["my-method", "my-method[prior_weight=*"]
    metrics = ["pres", "dino"]

A package declares tables in a `tables.toml` beside its code, with the same `[[tables]]`, and names
itself by an entry point:

    [project.entry-points."dreambooth_benchmark.tables"]
    my-methods = "my_package"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from benchmark.api import UserError
from benchmark.config.registry import available
from benchmark.data.manifest import Names, Table, read_toml
from benchmark.store.wording import in_plain_words

FILE = "tables.toml"


class AblationTable(Table):
    """One table of a report: which methods, in which metrics."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")  #: of its files, tables/.../<name>.csv
    title: str
    members: Names = Field(min_length=1)  #: methods; `*` stands for any characters
    metrics: Names = Field(min_length=1)  #: the columns, in their order
    settings: Names = []  #: settings that are shown as columns
    paper: str | None = None  #: the key of the paper's rows in published.toml
    note: str = ""  #: Markdown, below the table

    def chosen(self, methods: Sequence[str]) -> list[str]:
        """Those of `methods` that are members, in the members' order."""
        found = [name for member in self.members for name in methods if fits(name, member)]
        return list(dict.fromkeys(found))

    def absent(self, methods: Sequence[str]) -> list[str]:
        """The members that none of `methods` is."""
        return [m for m in self.members if not any(fits(name, m) for name in methods)]


def fits(name: str, pattern: str) -> bool:
    """Whether `name` matches `pattern`; `*` stands for any characters."""
    # Not fnmatch, which gives the brackets of `my-method[steps=50]` a meaning.
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


class Objective(Table):
    """What settings are chosen by: two metrics, each relative to a bound.

    The geometric mean of a method's `fidelity` over the upper bound's, and of its `prompt` over the
    lower bound's.
    """

    fidelity: str
    prompt: str


class _Declared(Table):
    tables: list[AblationTable]


def installed_tables() -> list[AblationTable]:
    """The tables that installed packages declare. Raises UserError naming a bad one."""
    found: list[AblationTable] = []
    for point in available("tables").values():
        with as_file(files(point.value) / FILE) as path:
            found += read_toml(path, _Declared).tables
    return found


def declared_tables(suites: Iterable[dict[str, Any]]) -> list[AblationTable]:
    """The installed tables, then those of `suites` (as read from TOML); of one name, the last.

    Raises UserError.
    """
    try:
        own = [
            table
            for suite in suites
            for table in TypeAdapter(list[AblationTable]).validate_python(suite.get("tables", []))
        ]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"the suite's tables.{place}: {in_plain_words(first['msg'])}") from error
    return list({table.name: table for table in [*installed_tables(), *own]}.values())
