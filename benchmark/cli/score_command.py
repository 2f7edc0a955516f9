"""The command that scores images which are there: a run's again, or any other tool's.

python -m benchmark score runs/pocket-1a2b3c4d --protocol kosmos-g
python -m benchmark score my-images --method my-tool
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmark.api import UserError
from benchmark.cli.options import (
    DataOption,
    EncodersOption,
    MetricsOption,
    PromptsOption,
    ProtocolOption,
    SuiteOption,
    bundled,
    items,
    prompt_choices,
)
from benchmark.config.suite import load_suite
from benchmark.store.directory import PLAN, SUITE
from benchmark.store.wording import AGAIN


@dataclass(frozen=True)
class OutsideOptions:
    """What is said of images that another tool made."""

    suite: SuiteOption = "pocket"
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="Of IMAGES: what made them; else the folder's name."),
    ] = ""
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of IMAGES; else runs/<name of IMAGES>-<hash>."),
    ] = None
    prompts: PromptsOption = None
    skip_unmatched: Annotated[
        bool, typer.Option("--skip-unmatched", help="Leave out the IMAGES that fit nothing.")
    ] = False


_OUTSIDE = OutsideOptions()


@bundled
def score(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|IMAGES",
            help="A run directory; or a folder of <subject>/<prompt>/<n>.png, or a CSV: "
            "file,subject,prompt[,sample,seed,method].",
        ),
    ],
    protocol: ProtocolOption = "",
    metrics: MetricsOption = "",
    encoders: EncodersOption = None,
    data: DataOption = None,
    ask_again: Annotated[
        bool, typer.Option("--ask-again", help="Of RUN: ask judges again what they refused.")
    ] = False,
    outside: OutsideOptions = _OUTSIDE,
) -> None:
    """Score images that exist, and report them: nothing is trained or sampled.

    A RUN is scored again, under another protocol or by more metrics; earlier scores stay. IMAGES of
    any other tool are scored beside the real images. A prompt is written as its number in `list
    prompts`, its text (`a dog in the snow`), its template (`a {} in the snow`) or a file's name
    (`a-subject-in-the-snow`); `prior` is the prior prompt. Any other template is your own prompt.
    Files that fit nothing are listed, and nothing is scored.

    Examples:

      python -m benchmark score runs/pocket-1a2b3c4d --metrics my_module:METRIC

      python -m benchmark score my-images --suite pocket --method my-tool
    """
    if (images / PLAN).is_file() or ((images / SUITE).is_file() and (images / "jobs").is_dir()):
        if outside.method or outside.out or outside.prompts or outside.skip_unmatched:
            raise UserError(
                f"{images} is a run directory, which is scored where it lies: --method, --out, "
                "--prompts and --skip-unmatched are for images of other tools"
            )
        from benchmark.grid.scoring import score_run

        code = score_run(
            images,
            protocol=protocol,
            metrics=items(metrics),
            encoders=encoders,
            data=data,
            ask_again=ask_again,
        )
        raise typer.Exit(code)
    if (images / SUITE).is_file():
        raise UserError(f"{images} is a run directory that lacks {PLAN}: {AGAIN} to make it anew")
    if ask_again:
        raise UserError(f"--ask-again is for a run directory that was scored, and {images} is none")
    from benchmark.studies.outside_images import collect, score_images

    chosen = load_suite(outside.suite).with_images(data).under(protocol, encoders=encoders)
    work = collect(
        images,
        chosen,
        method=outside.method,
        metrics=items(metrics),
        prompts=prompt_choices(outside.prompts),
    )
    if work.left_out:
        names = ", ".join(dict.fromkeys(path.name for path in work.left_out))
        print(f"left out: {len(work.left_out)} hidden or system files: {names:.200}")
    for line in work.unmatched:
        print(f"unmatched: {line}", file=sys.stderr)
    if work.unmatched and not outside.skip_unmatched:
        raise UserError(
            f"{len(work.unmatched)} files of {images} are unmatched, so nothing was scored: fix "
            "them, or leave them out with --skip-unmatched"
        )
    raise typer.Exit(score_images(work, outside.out or work.directory))
