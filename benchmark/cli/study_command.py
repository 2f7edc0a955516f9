"""The command that asks people.

python -m benchmark study runs/pocket-1a2b3c4d --methods dreambooth,textual-inversion --out study
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from benchmark.api import UserError
from benchmark.config.registry import separated


def study(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="Whose images are shown.")
    ] = None,
    methods: Annotated[
        str,
        typer.Option(metavar="A,B[,...]", help="The first is compared with each of the others."),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="The study's folder.")
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=1, help="How many pairs each person sees, twice: a question each.")
    ] = 25,
    seed: Annotated[int, typer.Option(help="Decides which pairs are chosen.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make the page anew, as long as it has no votes.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Show the page on this machine and take its votes."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="With --serve; 0 is any free one.")
    ] = 0,
    votes: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="A study's folder: what came of it."),
    ] = None,
) -> None:
    """Ask people which of two methods' images is better, with the paper's two questions.

    DIR/index.html is one file that works offline, on a phone and by keyboard: send it, or put it on
    any web server. At its end people save a small file and send it back: put these into DIR/votes.
    With --serve they come by themselves from browsers on this machine. DIR/study.json says which
    method made which picture; keep it to yourself.

    --votes tells preferences as the paper's Table 2 does, with intervals over people and subjects,
    how people agree among each other, and how each metric agrees with them.

    Examples:

      python -m benchmark study runs/a --methods dreambooth,textual-inversion --out study

      python -m benchmark study --out study --serve

      python -m benchmark study --votes study
    """
    if votes is not None:
        if runs or methods or out or serve:
            raise UserError("--votes reads a study that is there: give it alone")
        from benchmark.people.results import write_results

        path = write_results(votes)
        print(path.read_text("utf-8"))
        print(f"results: {path}")
        return
    if out is None:
        raise UserError("name the study's folder with --out DIR, or --votes DIR to see its results")
    if runs:
        _make(runs, methods, out, pairs, seed, overwrite)
    elif not serve:
        raise UserError("name a RUN whose images are to be shown, or give --serve or --votes")
    if serve:
        _serve(out, port)


def _make(
    runs: list[Path], methods: str, out: Path, pairs: int, seed: int, overwrite: bool
) -> None:
    from benchmark.people.make import make_study
    from benchmark.people.records import PAGE
    from benchmark.results.merge import join
    from benchmark.results.run import read_run

    read = [read_run(directory) for directory in runs]
    run = read[0] if len(read) == 1 else join(read, out, partial=True)
    made = make_study(run, separated(methods), out, count=pairs, seed=seed, overwrite=overwrite)
    print(f"page: {out / PAGE}: {len(made.pairs)} pairs, {len(made.checks)} checks of attention")
    if not made.checks:
        print("no checks of attention: they take photographs of two class nouns")


def _serve(out: Path, port: int) -> None:
    from benchmark.people.records import read_study
    from benchmark.people.serve import served

    with served(read_study(out), out, port) as address:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(1)
