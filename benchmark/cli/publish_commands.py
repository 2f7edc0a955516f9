"""The commands for results that go to others, or come from them: publish, verify,
leaderboard.

python -m benchmark publish runs/pocket-1a2b3c4d mine
python -m benchmark verify mine
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.api import UserError
from benchmark.cli.options import DataOption, EncodersOption
from benchmark.store.names import checked_name


def publish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory.")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or a published run's.")
    ],
    images: Annotated[
        Literal["all", "sample", "none"],
        typer.Option(help="With all, others can score them again; a sample is the report's."),
    ] = "sample",
    with_subjects: Annotated[
        bool,
        typer.Option("--with-subjects", help="Your own photographs too; else they stay here."),
    ] = False,
    by: Annotated[
        str, typer.Option(metavar="NAME", help="Who publishes it, for leaderboards.")
    ] = "",
    push: Annotated[
        str,
        typer.Option(
            metavar="USER/NAME", help="Upload it to this data set repository of the hub as well."
        ),
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="With --push: for you alone, if it is new.")
    ] = False,
) -> None:
    """Copy a run to DIR for others: scores, records, suite, report, and a sample of its images.

    `report DIR` writes the same report again, `verify DIR` checks its numbers. What becomes public
    is printed first.

    Examples:

        python -m benchmark publish runs/pocket-1a2b3c4d mine

        python -m benchmark publish runs/pocket-1a2b3c4d mine --images all --push user/my-results
    """
    from benchmark.studies.hub_results import is_repository, push_folder
    from benchmark.studies.publish import Wanted, publish_run

    if push and (not is_repository(push) or "@" in push):
        raise UserError(f"--push '{push}' should read USER/NAME")
    if private and not push:
        raise UserError("--private is of a repository on the hub: add --push USER/NAME")
    name = checked_name("--by", by) if by else push.partition("/")[0]
    wanted = Wanted(images, with_subjects, name)
    print(publish_run(run, directory, wanted, tell=print))
    if push:
        print(push_folder(directory, push, private=private))


def verify(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|USER/NAME",
            help="A published folder, or a repository of the hub that holds one.",
        ),
    ],
    data: DataOption = None,
    encoders: EncodersOption = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            help="How far a raw score may be from the stated one: last digits depend on the "
            "processor.",
        ),
    ] = 1e-3,
) -> None:
    """Check a published folder: its files, its scores by its images, its tables by its scores.

    A line a check: ok, differs, or could not and why. The exit code is 1 if anything differs.
    Nothing of the folder is run, and no link in it is followed.

    Examples:

        python -m benchmark verify reports/pocket/reference

        python -m benchmark verify user/my-results
    """
    from benchmark.studies.hub_results import opened
    from benchmark.studies.rescoring import Again
    from benchmark.studies.verification import verify_and_tell

    if not math.isfinite(tolerance):
        raise UserError(f"--tolerance {tolerance}: every score would pass: give a number")
    with opened(folder) as found:
        code = verify_and_tell(found, Again(tolerance, data, encoders))
    raise typer.Exit(code)


def leaderboard(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|USER/NAME...", help="Published folders, or repositories of the hub."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the page goes.")],
    protocol: Annotated[
        str, typer.Option(metavar="LABEL", help="Where the entries have several.")
    ] = "",
    check: Annotated[
        bool,
        typer.Option("--verify", help="Verify each entry first: with images, that takes a while."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a leaderboard that is there.")
    ] = False,
) -> None:
    """Join published results of one protocol and prompt set into a page, Markdown and CSV.

    A row a method of an entry: scores with intervals, cost, backbone, who published it and whether
    it was verified. Rows are tested against each other only where their images share noise: the
    same backbone, seeds and prompts.

    Example:

        python -m benchmark leaderboard mine theirs user/my-results --out board
    """
    from contextlib import ExitStack

    from benchmark.report.leaderboard import FILES, write_leaderboard
    from benchmark.report.output import check_output
    from benchmark.results.board import Board
    from benchmark.studies.entries import read_entries
    from benchmark.studies.hub_results import opened

    check_output(out, "leaderboard", FILES, overwrite=overwrite)
    with ExitStack() as stack:
        places = {name: stack.enter_context(opened(name)) for name in dict.fromkeys(folders)}
        entries = read_entries(places, protocol=protocol, check=check)
        write_leaderboard(Board.of(entries), out)
    print(out / FILES[0])
