"""The command that sets two runs side by side.

python -m benchmark compare runs/last-week runs/today
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.api import UserError


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run directory.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The run that is compared with it.")],
    pair: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD=METHOD",
            help="Compare this method of A with that of B, and no others; may be given again.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write it there too, with a table as CSV and figures."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a comparison that is there.")
    ] = False,
) -> None:
    """Compare the methods that two runs share: last week and today, two machines, two versions.

    First what differs in settings, versions, libraries and machine; then how many pictures are the
    same file, and for each metric and method B minus A, with intervals and tests over subjects.

    Examples:

      python -m benchmark compare runs/last-week runs/today

      python -m benchmark compare runs/a runs/a --pair 'dreambooth=dreambooth[steps=200]'
    """
    from benchmark.report.comparison import SUMMARY, TABLE, comparison_text, write_comparison
    from benchmark.report.output import check_output
    from benchmark.results.comparison import compare as compared
    from benchmark.results.comparison import read_pair
    from benchmark.results.run import read_run
    from benchmark.store.directory import PLAN, SUITE
    from benchmark.store.wording import READ_ANOTHER

    pairs = [read_pair(text) for text in pair or ()]
    for path in (a, b):
        if not (path / PLAN).is_file() and not (path / SUITE).is_file():
            raise UserError(f"{path} is no run directory: it has no {PLAN}; {READ_ANOTHER}")
    if out is not None:
        check_output(out, "comparison", (SUMMARY, TABLE), overwrite=overwrite)
    found = compared(read_run(a), read_run(b), pairs)
    print(comparison_text(found), end="")
    if out is not None:
        write_comparison(found, out)
