"""The commands for runs that are there: report, check.

python -m benchmark report runs/pocket-1a2b3c4d
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.api import UserError
from benchmark.cli.options import items


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report goes; else into the one RUN."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Report what there is even if jobs are missing."),
    ] = False,
    as_found: Annotated[
        bool,
        typer.Option(
            "--as-found", help="Report what there is even if files were altered, and name these."
        ),
    ] = False,
    style: Annotated[
        Literal["screen", "paper"],
        typer.Option(
            help="Of the figures; `paper`: as wide as one or two columns of a paper, with text of "
            "7 points, and as PDF too."
        ),
    ] = "screen",
    plot: Annotated[
        str,
        typer.Option(metavar="METRIC[,...]", help="What the figures show; else every metric."),
    ] = "",
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="With what other papers print: others' measurements, no verdicts."
        ),
    ] = False,
) -> None:
    """Write a run's summary, tables and figures anew, or put several runs into one report.

    Several runs (other seeds, methods or machines) have to be scored alike under each protocol,
    with the same settings for the same method. Their report goes to --out, a new folder or an
    earlier report's.

    Examples:

      python -m benchmark report runs/pocket-1a2b3c4d

      python -m benchmark report runs/seed-0 runs/seed-1 --out reports/both

      python -m benchmark report runs/dreambench-1a2b3c4d --published

      python -m benchmark report runs/pocket-1a2b3c4d --style paper --plot dino,clip_t
    """
    from benchmark.report.figures.drawing import STYLES
    from benchmark.report.write import Figures, write_joint_report, write_report

    figures = Figures(STYLES[style], tuple(items(plot)))
    if out is None and len(runs) > 1:
        raise UserError(f"{len(runs)} runs make a report of their own: say where with --out DIR")
    asked = {"partial": partial, "as_found": as_found, "published": published}
    if out is None:
        print(write_report(runs[0], **asked, figures=figures))
    else:
        print(write_joint_report(runs, out, **asked, figures=figures))


def check(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Finished run directories, taken as one."),
    ],
    baseline: Annotated[
        Path,
        typer.Option(metavar="FILE", dir_okay=False, help="The scores to keep, a TOML file."),
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Make or rewrite FILE, and print what differs.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --update: also where a tolerance lets too much pass."),
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write the verdicts as JUnit XML, for CI systems."
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(metavar="LABEL", help="One of the runs' protocols; else the baseline's."),
    ] = "",
) -> None:
    """Hold a run's scores against a baseline; the exit code is 1 if one of them got worse.

    How far a score may move was measured, from seed to seed, by the runs that made the baseline: at
    least three seeds, and better five or more. Any change in a control beyond tolerance fails.
    A baseline is refused if a tolerance is half or more of the distance between the lower and the
    upper bound (untuned model, real images): a gate that wide hardly fails.

    Examples:

      python -m benchmark check runs/pocket-1a2b3c4d --baseline baseline.toml

      python -m benchmark check runs/seeds-0-to-4 --baseline baseline.toml --update
    """
    from benchmark.results.gate import check_runs

    if update and junit:
        raise UserError("--update compares nothing, so there is nothing for --junit: leave one out")
    if force and not update:
        raise UserError("--force belongs to --update: without it nothing is written")
    code = check_runs(runs, baseline, update=update, force=force, junit=junit, protocol=protocol)
    raise typer.Exit(code)
