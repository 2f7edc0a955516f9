"""A leaderboard of published results: index.html, leaderboard.md and leaderboard.csv.

write_leaderboard(Board.of(entries), Path("board"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.report.cost import cost
from benchmark.report.differences import few_subjects, headline, text_columns, verdict_on
from benchmark.report.markdown import count, escape, heading, markdown_table, probability, signed
from benchmark.report.self_contained import rendered
from benchmark.report.table_formats import (
    Column,
    Content,
    Mean,
    ReportTable,
    TableRow,
    csv_text,
    markdown,
    shown_content,
)
from benchmark.results.board import Board, BoardRow
from benchmark.results.completeness import unscored_counts
from benchmark.results.run import Run
from benchmark.results.significance import LEVEL, Difference
from benchmark.store.files import write_atomically

FILES = ("index.html", "leaderboard.md", "leaderboard.csv")
#: Of the cost table: its columns, and what they are called here.
_COSTS = {
    "prior_s": Column("prior_s", "prior s", 1),
    "fit_s": Column("fit_s", "fit s", 1),
    "draw_s": Column("draw_s", "draw s", 1),
    "learned_m": Column("learned_m", "trained M", 3),
    "peak_memory_mb": Column("peak_memory_mb", "peak memory MB"),
}
_NOTES = (
    "Means over subjects and 95 % bootstrap intervals, as in the entries' own reports. Sorted by "
    "the first metric. Intervals of two entries tell how far other subjects would move each mean; "
    "whether two rows differ is tested below, where that can be.",
    "Prior, fit and draw: mean seconds a job on the publisher's own machine. Trained: millions of "
    "numbers that a fit learns. Peak memory: the highest of any job.",
    "Who published an entry is what it says of itself. Verified: what the command verify computed "
    "anew; without it scores are the publisher's word.",
)


#: Rows that share noise, a metric, and each row's difference from the best.
_Family = tuple[list[BoardRow], str, dict[str, Difference]]


@dataclass(frozen=True)
class Tested:
    """The rows of a group beside its best one, in one metric."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_leaderboard(board: Board, directory: Path) -> None:
    """Write FILES to `directory`."""
    table, found = board_table(board), _found(board)
    tested, remarks = _tested(board, found), _few(found)
    page = rendered(
        "benchmark.report",
        "leaderboard.html.jinja",
        styles=("page.css", "leaderboard.css"),
        script="leaderboard.js",
        title=_title(board),
        notes=[*_NOTES, *_fewer(board)],
        columns=table.columns,
        rows=[_cells(table, row) for row in table.rows],
        sorted_by=next((heading(board.about(m).metric(m)) for m in _metrics(board)), "entry"),
        controls=[not row.competes for row in _sorted(board)],
        introduction=_introduction(board),
        tested=tested,
        remarks=[text.strip() for text in remarks],
    )
    text = [*_text(board, table, tested), *remarks]
    contents = (page, "\n".join(text), csv_text(table))
    for name, content in zip(FILES, contents, strict=True):
        write_atomically(directory / name, content)


def board_table(board: Board) -> ReportTable:
    """A row an entry and method: who and what, scores with intervals, cost."""
    metrics = _metrics(board)
    columns = (
        Column("method"),
        Column("entry"),
        *(Column(m, heading(board.about(m).metric(m)), 3) for m in metrics),
        Column("subjects"),
        Column("backbone"),
        *_COSTS.values(),
        Column("published_by", "published by"),
        Column("verified"),
    )
    costs = {entry.name: _costs(entry.run) for entry in board.entries}
    rows = []
    for row in _sorted(board):
        run = row.entry.run
        cells: tuple[Content, ...] = (
            row.method,
            row.entry.name,
            *(_mean(run, row.method, metric) for metric in metrics),
            len(run.subjects(row.method)),
            row.backbone or "none",
            *(costs[row.entry.name][row.method].get(key) for key in _COSTS),
            row.entry.by or "unknown",
            row.entry.verified or "not checked",
        )
        rows.append(TableRow(cells))
    return ReportTable("leaderboard", _title(board), columns, tuple(rows))


def _title(board: Board) -> str:
    return f"Leaderboard ({board.entries[0].run.protocol})"


def _metrics(board: Board) -> list[str]:
    """Those that reports compare methods in, of any entry."""
    return list(dict.fromkeys(name for entry in board.entries for name in headline(entry.run)))


def _sorted(board: Board) -> list[BoardRow]:
    """By the first metric, the best first; rows without a score in it come last."""
    metric = next(iter(_metrics(board)), "")

    def place(row: BoardRow) -> tuple[bool, float]:
        mean = row.entry.run.means.get((row.method, metric))
        if mean is None:
            return True, 0.0
        higher = board.about(metric).metric(metric).higher_is_better
        return False, -mean if higher else mean

    return sorted(board.rows, key=place)


def _fewer(board: Board) -> list[str]:
    """What to say of rows whose means are over less than was asked for, if there are any."""
    most = max(len(row.entry.run.subjects(row.method)) for row in board.rows)
    found = []
    for row in board.rows:
        run = row.entry.run
        subjects = len(run.subjects(row.method))
        whats = [f"{subjects} of {most} subjects"] if subjects < most else []
        whats += [
            f"without a score in {run.metric(lacking.metric).label}: "
            f"{count(lacking.images, 'image')} ({lacking.reason})"
            for lacking in unscored_counts(run).itertuples()
            if lacking.method == row.method and lacking.metric in _metrics(board)
        ]
        found += [f"{row.label}: {', '.join(whats)}"] if whats else []
    said = "Their means are over less than was asked for, and do not compare with others'"
    return [f"{said}: {'; '.join(found)}."] if found else []


def _mean(run: Run, method: str, metric: str) -> Mean | None:
    found = run.summary[(run.summary["method"] == method) & (run.summary["metric"] == metric)]
    for row in found.itertuples():
        return Mean(row.mean, row.low, row.high)
    return None


def _costs(run: Run) -> dict[str, dict[str, Content]]:
    """method -> key of a column of the cost table -> its cell."""
    table = cost(run)
    keys = [column.key for column in table.columns]
    return {str(row.cells[0]): dict(zip(keys, row.cells, strict=True)) for row in table.rows}


# Tests ---------------------------------------------------------------------------------------


def _introduction(board: Board) -> str:
    alone = [row for row in board.rows if row.competes and not _in_group(board, row)]
    text = (
        "Rows are tested against the best of those with the same backbone, sampler, seeds and "
        "prompts, whose images began from the same noise: each minus the best, image by image. "
        "p: sign flips over subjects, corrected for all pairs of a group in a metric (max-T of "
        f"Westfall and Young). Better and worse need p < {LEVEL} and an interval on one side of 0."
    )
    if alone:
        names = "; ".join(row.label for row in alone)
        text += f" Not tested, since no other row shares their noise: {names}."
    return text


def _in_group(board: Board, row: BoardRow) -> bool:
    return any(row.label in [other.label for other in group] for group in board.groups)


def _found(board: Board) -> list[_Family]:
    found = [
        (group, metric, board.behind(group, metric))
        for group in board.groups
        for metric in _metrics(board)
    ]
    return [one for one in found if one[2]]


def _tested(board: Board, found: Sequence[_Family]) -> list[Tested]:
    header = ("row", "verdict", "difference", "p", "subjects")
    tables = []
    for group, metric, behind in found:
        declared = board.about(metric).metric(metric)
        leader = board.leader(group, metric)
        rows = tuple(
            (
                label,
                verdict_on(difference, declared.higher_is_better),
                signed(difference.mean, difference.low, difference.high),
                probability(difference.p),
                str(difference.subjects),
            )
            for label, difference in behind.items()
        )
        best = leader.label if leader else ""
        seeds = ", ".join(map(str, group[0].seeds))
        title = f"{heading(declared)}: minus {best}; {group[0].backbone}, seed {seeds}"
        tables.append(Tested(title, header, rows))
    return tables


def _few(found: Sequence[_Family]) -> list[str]:
    return few_subjects([d for _, _, behind in found for d in behind.values()])


# Text ----------------------------------------------------------------------------------------


def _text(board: Board, table: ReportTable, tested: Sequence[Tested]) -> list[str]:
    parts = [f"# {escape(_title(board))}\n", markdown(table), *(f"{note}\n" for note in _NOTES)]
    parts += [f"{escape(line)}\n" for line in _fewer(board)]
    parts += ["## Differences\n", f"{escape(_introduction(board))}\n"]
    for one in tested:
        rows = [[escape(row[0]), *row[1:]] for row in one.rows]
        columns = [0, *text_columns(one.header)]
        parts += [f"### {escape(one.title)}\n", markdown_table(one.header, rows, text=columns)]
    return parts


def _cells(table: ReportTable, row: TableRow) -> list[dict[str, Any]]:
    """What the page shows of a row, and what it sorts by."""
    cells = []
    for content, column in zip(row.cells, table.columns, strict=True):
        text, bracket, interval = shown_content(content, column), "", ""
        if isinstance(content, Mean):
            text, bracket, interval = text.partition(" [")
        value = content.mean if isinstance(content, Mean) else content
        number = not isinstance(content, str)
        cells.append(
            {"text": text, "interval": bracket + interval, "value": value, "number": number}
        )
    return cells
