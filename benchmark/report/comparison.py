"""Two runs side by side: what differs between them first, then how far their scores lie apart.

found = compare(read_run(Path("runs/last-week")), read_run(Path("runs/today")))
print(comparison_text(found))
write_comparison(found, Path("last-week-and-today"))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.report.differences import few_subjects, text_columns, verdict_on
from benchmark.report.figures.changes import draw_changes
from benchmark.report.figures.drawing import png_of, svg_of
from benchmark.report.markdown import (
    NOTHING,
    count,
    escape,
    heading,
    markdown_table,
    probability,
    shown,
    signed,
)
from benchmark.report.table_formats import Column, Mean, ReportTable, TableRow, csv_text
from benchmark.results.comparison import Comparison, Moved
from benchmark.results.run import Run
from benchmark.results.significance import LEVEL
from benchmark.store.files import write_atomically
from benchmark.store.names import folder_name

_CELLS = 8  #: so many of what one run lacks are named; further ones are counted
SUMMARY, TABLE = "comparison.md", "differences.csv"


def comparison_text(found: Comparison) -> str:
    """All of it as Markdown."""
    parts = [_head(found), _conditions(found), _pictures(found)]
    parts += [_differences(found, label) for label in found.protocols]
    return "\n".join(filter(None, [*parts, _apart(found)]))


def write_comparison(found: Comparison, directory: Path) -> None:
    """Write comparison.md, differences.csv and a figure a protocol to `directory`.

    None of a protocol under which nothing is compared.
    """
    files: dict[str, str | bytes] = {TABLE: csv_text(_table(found))}
    labels = [label for label in found.protocols if found.moved[label]]
    names = {label: f"differences-{folder_name(label)}" for label in labels}
    figures = []
    for label, name in names.items():
        figure = draw_changes(found.moved[label])
        files |= {f"{name}.png": png_of(figure), f"{name}.svg": svg_of(figure)}
        figures.append(f"![Differences under {escape(label)}]({name}.png)\n")
    files[SUMMARY] = "\n".join([comparison_text(found), *figures])
    for old in directory.glob("differences-*.*"):
        if old.suffix in (".png", ".svg"):
            old.unlink()
    for name, content in files.items():
        write_atomically(directory / name, content)


# What differs --------------------------------------------------------------------------------


def _head(found: Comparison) -> str:
    lines = [f"- {name}: {_named(run)}" for name, run in zip("AB", found.runs, strict=True)]
    return "# Run B against run A\n\n" + "\n".join(lines) + "\n"


def _named(run: Run) -> str:
    times = sorted(str(record.provenance.get("time", "")) for record in run.records)
    days = [time[:10] for time in (times[0], times[-1]) if time]
    when = f", drawn {' to '.join(dict.fromkeys(days))}" if days else ""
    return escape(str(run.directory)) + escape(when)


def _conditions(found: Comparison) -> str:
    rows = [
        [
            escape(condition.what)
            + (f" of {escape(', '.join(condition.methods))}" if condition.methods else ""),
            escape("; ".join(condition.before)) or NOTHING,
            escape("; ".join(condition.after)) or NOTHING,
        ]
        for condition in found.conditions
    ]
    if not rows:
        return (
            "## What differs\n\nNothing that is on record: settings, versions, libraries and "
            "machine are the same.\n"
        )
    return f"## What differs\n\n{markdown_table(['what', 'A', 'B'], rows, text=(0, 1, 2))}"


def _pictures(found: Comparison) -> str:
    known = [pictures for pictures in found.pictures if pictures.both]
    if not known:
        return "## Pictures\n\nNo picture is on record in both runs.\n"
    both, identical = sum(one.both for one in known), sum(one.identical for one in known)
    unlike = sum(one.unlike for one in known)
    text = [
        f"## Pictures\n\n{identical} of the {count(both, 'picture')} of both are byte-identical."
    ]
    if unlike:
        text.append(
            f"{unlike} were asked for alike, by the same settings, prompt and noise, and differ "
            "all the same: by the machine or the libraries."
        )
    header = ["method", "of both", "byte-identical", "asked for alike", "these differ"]
    rows = [
        [escape(one.pair.label), *map(str, (one.both, one.identical, one.asked_alike, one.unlike))]
        for one in known
    ]
    return "\n".join(text) + "\n\n" + markdown_table(header, rows)


# Scores --------------------------------------------------------------------------------------


def _differences(found: Comparison, label: str) -> str:
    moved = found.moved[label]
    if not moved:
        return f"## Differences ({escape(label)})\n\nNo metric has scores of both to compare.\n"
    text = [
        f"## Differences ({escape(label)})\n",
        f"{_counted(moved)} B minus A, image by image where both runs have one of the same "
        "subject, seed, prompt and number, else subject by subject (*images* 0): mean over "
        "subjects and 95 % bootstrap interval. *p*: sign flips over subjects, corrected for the "
        "methods of a table (max-T of Westfall and Young). *Better* and *worse* need "
        f"p < {LEVEL} and an interval on one side of 0.\n",
    ]
    header = ["method", "verdict", "A", "B", "difference", "p", "subjects", "images"]
    for name, rows in _by_metric(moved):
        cells = [[escape(one.pair.label), *_row(one)] for one in rows]
        text.append(f"### {escape(name)}\n")
        text.append(markdown_table(header, cells, text=text_columns(header)))
        lacking = sum(one.only_before + one.only_after for one in rows)
        if lacking:
            text.append(f"{count(lacking, 'image')} have a score in one run only.\n")
    return "\n".join([*text, *few_subjects([one.difference for one in moved])])


def _row(one: Moved) -> list[str]:
    difference = one.difference
    return [
        _verdict(one),
        shown(one.before),
        shown(one.after),
        signed(difference.mean, difference.low, difference.high),
        probability(difference.p),
        str(difference.subjects),
        str(one.images),
    ]


def _verdict(one: Moved) -> str:
    return "identical" if one.identical else verdict_on(one.difference, one.metric.higher_is_better)


def _counted(moved: Sequence[Moved]) -> str:
    """`Better: 1 of 12; identical: 11.`"""
    counts = Counter(map(_verdict, moved))
    text = "; ".join(f"{words} {number}" for words, number in counts.most_common())
    return f"Of {count(len(moved), 'comparison')}: {text}."


def _by_metric(moved: Sequence[Moved]) -> Iterator[tuple[str, list[Moved]]]:
    for name in dict.fromkeys(heading(one.metric) for one in moved):
        yield name, [one for one in moved if heading(one.metric) == name]


def _table(found: Comparison) -> ReportTable:
    columns = [Column(key) for key in ("protocol", "metric", "method_a", "method_b", "verdict")]
    columns += [Column(key) for key in ("a", "b", "difference", "p", "subjects")]
    columns += [Column(key) for key in ("images", "images_only_a", "images_only_b")]
    rows = []
    for label, moved in found.moved.items():
        for one in moved:
            difference = one.difference
            rows.append(
                TableRow((
                    label, one.metric.label, one.pair.before, one.pair.after, _verdict(one),
                    one.before, one.after,
                    Mean(difference.mean, difference.low, difference.high),
                    None if math.isnan(difference.p) else difference.p, difference.subjects,
                    one.images, one.only_before, one.only_after,
                ))
            )  # fmt: skip
    return ReportTable("differences", "B minus A", tuple(columns), tuple(rows))


# What one run lacks --------------------------------------------------------------------------


def _apart(found: Comparison) -> str:
    rows = [[escape(one.what), _some(one.before), _some(one.after)] for one in found.apart]
    if not rows:
        return ""
    header = ["what", "only in A", "only in B"]
    return f"## Not compared\n\n{markdown_table(header, rows, text=(0, 1, 2))}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _CELLS} more" if len(names) > _CELLS else ""
    return escape("; ".join(names[:_CELLS]) + more) or NOTHING
