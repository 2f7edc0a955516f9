"""What calibrations write and print: sections of tables and sentences, CSV, and where files may go.

section_text(section)          # Markdown
print_sections(sections)       # the tables, on the terminal
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.api import UserError
from benchmark.report.markdown import markdown_table


@dataclass(frozen=True)
class Section:
    """A table, what its columns are, and what it says of each metric."""

    title: str
    lead: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str]


def check_free(directory: Path, files: Sequence[str], *, overwrite: bool) -> None:
    """Raise UserError if `files` cannot go to `directory`, or would replace others unasked."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is no folder: choose another --out")
    there = [name for name in files if (directory / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"{directory / there[0]} exists: write elsewhere with --out, or give --overwrite"
        )


def print_sections(sections: Sequence[Section]) -> None:
    """Their tables."""
    # Off a terminal rich assumes 80 columns, and would break the rows.
    console = Console(highlight=False, width=None if Console().is_terminal else 200)
    for section in sections:
        table = Table(title=section.title, title_justify="left", box=None, pad_edge=False)
        for i, name in enumerate(section.header):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*map(Text, row))
        console.print(table, "")


def section_text(section: Section) -> str:
    """A section in Markdown."""
    parts = [f"## {section.title}\n", section.lead + "\n"]
    parts.append(markdown_table(section.header, section.rows))
    parts.append("\n".join(f"- {remark}" for remark in section.remarks) + "\n")
    return "\n".join(parts)


def csv_text(rows: Sequence[Any]) -> str:
    """Long form: a row a number, six decimals, empty where there is no interval.

    `rows`: dataclasses of one kind with `value`, `low` and `high`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in fields(rows[0])])
    for one in rows:
        row = asdict(one)
        for name in ("value", "low", "high"):
            row[name] = "" if row[name] != row[name] else f"{row[name]:.6f}"
        writer.writerow(row.values())
    return buffer.getvalue()
