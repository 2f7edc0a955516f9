"""One table, three formats: Markdown to read, CSV to compute with, LaTeX (booktabs) to paste.

    table = Table("cost", "What a job costs", (Column("method"), Column("train_s", "train s", 1)),
                  (Row(("untuned", 20.25)),))
    print(latex(table))

Cells hold plain text and numbers; each format escapes and rounds on its own.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.tables import NOTHING, escape, markdown_table, with_interval

_ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}


@dataclass(frozen=True)
class Estimate:
    """A mean over subjects and its interval (NaN where there is none), in the metric's unit."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    best: bool = False


Content = str | float | Estimate | None  #: None: there is nothing


@dataclass(frozen=True)
class Column:
    """A column: its name in a CSV, its heading elsewhere, and how its plain numbers are rounded."""

    key: str
    heading: str = ""
    digits: int = 0

    @property
    def title(self) -> str:
        return self.heading or self.key


@dataclass(frozen=True)
class Row:
    """A row's cells, as many as there are columns. `published`: it is the paper's, not ours."""

    cells: tuple[Content, ...]
    published: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `name` is that of its files. Columns of text stand left, the others right."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def markdown(table: Table) -> str:
    """The table as Markdown: the best in bold, the paper's rows in italics."""

    def cell(row: Row, place: int) -> str:
        content = row.cells[place]
        text = _shown(content, table.columns[place])
        text = escape(text) if isinstance(content, str) else text
        if row.published and content is not None:
            return f"*paper: {text}*" if place == 0 else f"*{text}*"
        return f"**{text}**" if isinstance(content, Estimate) and content.best else text

    places = range(len(table.columns))
    header = [escape(column.title) for column in table.columns]
    rows = [[cell(row, place) for place in places] for row in table.rows]
    return markdown_table(header, rows, text=[p for p in places if _is_text(table, p)])


def csv_text(table: Table) -> str:
    """The table as CSV: six decimals, empty where there is nothing, no rounding to please the eye.

    An estimate takes three columns: KEY, KEY_low and KEY_high. Where rows of the paper stand in
    the table, a last column `source` says `here` or `paper`.
    """
    estimated = [
        any(isinstance(row.cells[place], Estimate) for row in table.rows)
        for place in range(len(table.columns))
    ]
    sourced = any(row.published for row in table.rows)
    header: list[str] = []
    for column, wide in zip(table.columns, estimated, strict=True):
        header += [column.key, f"{column.key}_low", f"{column.key}_high"] if wide else [column.key]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*header, *(["source"] if sourced else [])])
    for row in table.rows:
        fields: list[str] = []
        for content, wide in zip(row.cells, estimated, strict=True):
            fields += _fields(content, width=3 if wide else 1)
        writer.writerow([*fields, *(["paper" if row.published else "here"] if sourced else [])])
    return buffer.getvalue()


def latex(table: Table) -> str:
    """The table as a LaTeX tabular with booktabs' rules, the caption and what it needs above it."""
    body = [_latex_row(row, table.columns) for row in table.rows if not row.published]
    paper = [_latex_row(row, table.columns) for row in table.rows if row.published]
    kinds = "".join("l" if _is_text(table, place) else "r" for place in range(len(table.columns)))
    lines = [
        f"% {_latex_text(table.caption)}",
        r"% \usepackage{booktabs,textcomp}",
        f"\\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(_latex_text(column.title) for column in table.columns) + r" \\",
        r"\midrule",
        *body,
        *([r"\midrule", *paper] if paper else []),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(row: Row, columns: Sequence[Column]) -> str:
    cells = []
    for place, (content, column) in enumerate(zip(row.cells, columns, strict=True)):
        text = _latex_text(_shown(content, column), minus=not isinstance(content, str))
        if isinstance(content, Estimate) and content.best:
            text = rf"\textbf{{{text}}}"
        if row.published and content is not None:
            text = rf"\textit{{{'paper: ' if place == 0 else ''}{text}}}"
        cells.append(text)
    return " & ".join(cells) + r" \\"


def _latex_text(text: str, *, minus: bool = False) -> str:
    """`text` so that LaTeX shows exactly it, on one line. `minus`: a hyphen is a minus sign."""
    letters = _LATEX | _ARROWS | ({"-": "$-$"} if minus and text != NOTHING else {})
    shown = "".join(letters.get(letter, letter) for letter in " ".join(text.split()))
    shown = re.sub("-(?=-)", "-{}", shown)  # two hyphens would become a dash
    return re.sub(r"^[\[*]", r"{\g<0>}", shown)  # after a row's \\, they would be its arguments


def _is_text(table: Table, place: int) -> bool:
    return any(isinstance(row.cells[place], str) for row in table.rows)


def _shown(content: Content, column: Column) -> str:
    """What a cell reads, escaped for nothing."""
    if content is None:
        return NOTHING
    if isinstance(content, Estimate):
        return with_interval(content.mean, content.low, content.high)
    return content if isinstance(content, str) else f"{content:.{column.digits}f}"


def _fields(content: Content, *, width: int) -> list[str]:
    if isinstance(content, Estimate):
        values = (content.mean, content.low, content.high)
        return ["" if math.isnan(value) else f"{value:.6f}" for value in values]
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        text = str(content) if isinstance(content, int) else f"{content:.6f}"
    return [text, *[""] * (width - 1)]
