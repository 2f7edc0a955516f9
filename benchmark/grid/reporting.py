"""The report of a run directory, at the end of a command that added to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.data.manifest import some
from benchmark.store.directory import RunDirectory

if TYPE_CHECKING:
    from benchmark.store.contents import Contents
    from benchmark.trackers.logbook import Logbook


def report(
    directory: RunDirectory,
    failed: Sequence[str],
    jobs: int,
    contents: Contents | None = None,
    logbook: Logbook | None = None,
    *,
    protocol: str = "",
) -> int:
    """Write the report, and say where it lies and what failed. Returns the exit code.

    `contents`: those of the directory, if they are known; `logbook` is told of all that is there.
    `protocol`: the label of the one scored under, whose questions without an answer are told of.
    """
    from benchmark.report.terminal import print_table
    from benchmark.report.write import write_report_of
    from benchmark.results.run import run_of
    from benchmark.store.reading import read_contents

    contents = contents or read_contents(directory.path)
    contents.check()
    rows = contents.write_scores()
    if rows:
        run = run_of(contents)
        path = write_report_of(run)
        directory.seal_report()
        print_table(run)
        print(f"report: {path}")
        print(f"to look at: {path.with_name('index.html')}")
        if logbook:
            logbook.complete(contents)
    unanswered = [
        f"{'/'.join(map(str, name))}: {', '.join(record.unanswered)}"
        for (label, name), record in contents.scores.items()
        if label == protocol and record.unanswered
    ]
    if unanswered:
        print(
            f"{len(unanswered)} of {jobs} jobs have questions that no judge answered "
            f"({some(unanswered)}); why: the column 'reason' of {directory.path}/scores.csv; the "
            "same command asks again",
            file=sys.stderr,
        )
    if not failed:
        return int(bool(unanswered))
    held = "the report holds those that are done" if rows else "there is nothing to report"
    lines = [
        f"{len(failed)} of {jobs} jobs failed; {held}:",
        *(f"  {label}" for label in failed),
        f"why: {directory.path}/jobs/*/*.error.txt; the same command tries them again",
    ]
    print("\n".join(lines), file=sys.stderr)
    return 1
