"""One table, three formats: Markdown to read, CSV to compute with, LaTeX (booktabs) to paste.

    columns = (Column("method"), Column("fit_s", "fit s", 1))
    table = ReportTable("cost", "What a job costs", columns, (TableRow(("mine", 20.25)),))
    print(latex(table))

Cells hold plain text and numbers; each format escapes and rounds on its own.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.report.markdown import NOTHING, escape, markdown_table, shown, with_interval

_ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\texttt{\char34}",  # \textquotedbl takes another font encoding than the default one
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}
_LINES_OF_A_PAGE = 45
_LONG = "% It goes over pages: not for a table float, nor for two columns."
_FOREIGN = (
    "% Letters that pdfLaTeX does not know take LuaLaTeX or XeLaTeX, and a font that has them."
)
_PUBLISHED = r"Ruiz et al.\ (2023), other backbones: directions, not targets"


@dataclass(frozen=True)
class Mean:
    """A mean over subjects and its interval (NaN where there is none), in the metric's unit."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    best: bool = False

    @property
    def has_interval(self) -> bool:
        return not (math.isnan(self.low) or math.isnan(self.high))


Content = str | float | Mean | None  #: None: there is nothing


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
class TableRow:
    """A row's cells, as many as there are columns. `published`: it is the paper's, not ours."""

    cells: tuple[Content, ...]
    published: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table; `name` is that of its files. Text columns are left-aligned, others right-aligned."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]


def markdown(table: ReportTable) -> str:
    """The table as Markdown: the best in bold, the paper's rows in italics."""

    def cell(row: TableRow, place: int) -> str:
        content = row.cells[place]
        text = shown_content(content, table.columns[place])
        text = escape(text) if isinstance(content, str) else text
        if row.published and content is not None:
            return f"*paper: {text}*" if place == 0 else f"*{text}*"
        return f"**{text}**" if isinstance(content, Mean) and content.best else text

    places = range(len(table.columns))
    header = [escape(column.title) for column in table.columns]
    rows = [[cell(row, place) for place in places] for row in table.rows]
    return markdown_table(header, rows, text=[p for p in places if _is_text(table, p)])


def csv_text(table: ReportTable) -> str:
    """The table as CSV: six decimals, empty where there is nothing.

    A mean takes three columns: KEY, KEY_low and KEY_high. Where rows of the paper stand in
    the table, a last column `source` says `here` or `paper`.
    """
    wide_columns = [
        any(isinstance(row.cells[place], Mean) for row in table.rows)
        for place in range(len(table.columns))
    ]
    sourced = any(row.published for row in table.rows)
    header: list[str] = []
    for column, wide in zip(table.columns, wide_columns, strict=True):
        header += [column.key, f"{column.key}_low", f"{column.key}_high"] if wide else [column.key]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*header, *(["source"] if sourced else [])])
    for row in table.rows:
        fields: list[str] = []
        for content, wide in zip(row.cells, wide_columns, strict=True):
            fields += _fields(content, width=3 if wide else 1)
        writer.writerow([*fields, *(["paper" if row.published else "here"] if sourced else [])])
    return buffer.getvalue()


def latex(table: ReportTable) -> str:
    """The table for a paper, with booktabs' rules; what it needs is said in a comment above.

    An interval stands in small print below its mean, so that a table of three metrics is no wider
    than a page's text. Where rows share their first cell, it becomes a line of its own above them.
    What would be longer than a page is a longtable. The paper's rows come last, under their source.
    """
    ours = [row for row in table.rows if not row.published]
    paper = [row for row in table.rows if row.published]
    grouped = not paper and len({row.cells[0] for row in ours}) < len(ours)
    columns = table.columns[grouped:]
    kinds = "".join("l" if _is_text(table, p) else "r" for p in range(len(table.columns)))[grouped:]
    body = _latex_groups(ours, columns) if grouped else _latex_rows(ours, columns)
    if paper:
        body += [r"\midrule", _latex_heading(_PUBLISHED, columns), *_latex_rows(paper, columns)]
    long = len(body) > _LINES_OF_A_PAGE
    environment = "longtable" if long else "tabular"
    lines = [
        f"% {_latex_text(table.caption)}",
        rf"% \usepackage{{booktabs,textcomp{',longtable' if long else ''}}}",
        *([_LONG] if long else []),
        *([_FOREIGN] if not "".join(body).isascii() else []),
        r"\begingroup\small\setlength{\tabcolsep}{3.5pt}%",
        rf"\begin{{{environment}}}{{@{{}}{kinds}@{{}}}}",
        r"\toprule",
        " & ".join(_latex_text(column.title) for column in columns) + r" \\",
        r"\midrule",
        *([r"\endhead", r"\bottomrule", r"\endfoot"] if long else []),
        *body,
        *([] if long else [r"\bottomrule"]),
        rf"\end{{{environment}}}%",
        r"\endgroup",
    ]
    return "\n".join(lines) + "\n"


def _latex_groups(rows: Sequence[TableRow], columns: Sequence[Column]) -> list[str]:
    """The lines of a table with groups: the first cell of a group's rows is its heading."""
    lines: list[str] = []
    for name, group in itertools.groupby(rows, lambda row: str(row.cells[0])):
        lines += [r"\addlinespace"] if lines else []
        lines.append(_latex_heading(_latex_text(name), columns))
        lines += _latex_rows([TableRow(row.cells[1:]) for row in group], columns)
    return lines


def _latex_heading(text: str, columns: Sequence[Column]) -> str:
    return rf"\multicolumn{{{len(columns)}}}{{@{{}}l@{{}}}}{{\textit{{{text}}}}} \\*"


def _latex_rows(rows: Sequence[TableRow], columns: Sequence[Column]) -> list[str]:
    lines = []
    for row in rows:
        cells = [_latex_cell(*cell) for cell in zip(row.cells, columns, strict=True)]
        intervals = [_latex_interval(content) for content in row.cells]
        if any(intervals):
            lines += [" & ".join(cells) + r" \\*[-2pt]", " & ".join(intervals) + r" \\[1pt]"]
        else:
            lines.append(" & ".join(cells) + r" \\")
    return lines


def _latex_cell(content: Content, column: Column) -> str:
    if content is None:
        return "--"
    if isinstance(content, Mean):
        text = _latex_text(shown(content.mean), minus=True)
        return rf"\textbf{{{text}}}" if content.best else text
    return _latex_text(shown_content(content, column), minus=not isinstance(content, str))


def _latex_interval(content: Content) -> str:
    if not isinstance(content, Mean) or not content.has_interval:
        return ""
    low, high = (_latex_text(shown(end), minus=True) for end in (content.low, content.high))
    return rf"{{\scriptsize [{low}, {high}]}}"


def _latex_text(text: str, *, minus: bool = False) -> str:
    """`text` escaped so that LaTeX shows it literally, on one line. `minus`: hyphens as minus."""
    letters = _LATEX | _ARROWS | ({"-": "$-$"} if minus else {})
    escaped = "".join(letters.get(letter, letter) for letter in " ".join(text.split()))
    escaped = re.sub(r"([-,])(?=\1)", r"\1{}", escaped)  # two would become a dash or a quote
    return re.sub(r"^[\[*]", r"{\g<0>}", escaped)  # after a row's \\, they would be its arguments


def _is_text(table: ReportTable, place: int) -> bool:
    return any(isinstance(row.cells[place], str) for row in table.rows)


def shown_content(content: Content, column: Column) -> str:
    """A cell's text: plain, not escaped."""
    if content is None:
        return NOTHING
    if isinstance(content, Mean):
        return with_interval(content.mean, content.low, content.high)
    return content if isinstance(content, str) else f"{content:.{column.digits}f}"


def _fields(content: Content, *, width: int) -> list[str]:
    if isinstance(content, Mean):
        values = (content.mean, content.low, content.high)
        return ["" if math.isnan(value) else f"{value:.6f}" for value in values]
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        text = str(content) if isinstance(content, int) else f"{content:.6f}"
    return [text, *[""] * (width - 1)]
