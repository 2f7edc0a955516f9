"""The command line: reads arguments, calls the one path, turns errors into exit codes.

0  done      1  a job failed      2  bad input, in one line      130  interrupted
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark import plugins
from benchmark.data import load_dataset
from benchmark.protocol import load_protocol, protocol_names
from benchmark.records import UserError
from benchmark.suite import load_suite, suite_names

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Train every method on every subject, sample the evaluation prompts, score the images, "
        "and write the comparison.\n\n"
        "`python -m benchmark run --methods all --dry-run` shows what a full run would do; "
        "without --dry-run it does it."
    ),
)

SuiteOption = Annotated[
    str, typer.Option(metavar="NAME|FILE.toml", help="A shipped suite, or one of your own.")
]

ProtocolOption = Annotated[
    str,
    typer.Option(metavar="NAME|FILE.toml", help="How images are scored; else as the suite says."),
]
EncodersOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the protocol's encoders lie, a folder each; else the caches."
    ),
]


class Kind(StrEnum):
    """What `list` can list."""

    METHODS = "methods"
    SUBJECTS = "subjects"
    SUITES = "suites"
    METRICS = "metrics"
    PROTOCOLS = "protocols"


@app.command()
def run(
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME[,...]",
            help="Names from `list methods`, `all`, or your own as my_module:METHOD.",
        ),
    ] = "all",
    suite: SuiteOption = "pocket",
    subjects: Annotated[
        str,
        typer.Option(metavar="NAME[,...]", help="Names from `list subjects`; else the suite's."),
    ] = "",
    prompts: Annotated[
        str,
        typer.Option(
            metavar="PROMPT[,...]",
            help="Kinds (recontextualization, accessory, property), numbers from 1 in the "
            "subject's list, or templates ('a {} in the snow'); else all.",
        ),
    ] = "",
    seed: Annotated[
        str, typer.Option(metavar="N[,...]", help="Seeds of the runs; else the suite's.")
    ] = "",
    images_per_prompt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Else the suite's.")
    ] = None,
    protocol: ProtocolOption = "",
    encoders: EncodersOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Else runs/<suite>-<hash of the configuration>."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes; else one a core, or one for a GPU."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Run a grid of methods x subjects x seeds, and report it.

    The same command again goes on where it stopped: finished jobs are skipped. A failed job stops
    no other; the exit code is then 1.

    Examples:

      python -m benchmark run --methods all

      python -m benchmark run --methods dreambooth,untuned --prompts accessory

      python -m benchmark run --methods my_module:METHOD --seed 0,1,2
    """
    from benchmark.grid import run_grid
    from benchmark.plan import plan

    grid = plan(
        load_suite(suite).under(protocol, encoders=encoders),
        _items(methods),
        subjects=_items(subjects),
        prompts=_items(prompts),
        seeds=_seeds(seed),
        images_per_prompt=images_per_prompt,
    )
    directory = out or Path("runs") / f"{grid.suite.name}-{grid.configuration[:8]}"
    raise typer.Exit(run_grid(grid, directory, workers=workers, dry_run=dry_run))


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(metavar="methods|subjects|suites|metrics|protocols")],
    suite: SuiteOption = "pocket",
) -> None:
    """List what there is, one per line: the name, then what it is.

    Example:

        python -m benchmark list subjects --suite pocket
    """
    match kind:
        case Kind.SUITES:
            rows = {name: load_suite(name).description for name in suite_names()}
        case Kind.PROTOCOLS:
            rows = {name: load_protocol(name).description for name in protocol_names()}
        case Kind.SUBJECTS:
            data = load_suite(suite).data
            rows = {
                s.name: f"{s.class_noun}, {'live' if s.live else 'object'}, {len(s.images)} images"
                for s in load_dataset(data.dataset, split=data.split).subjects
                if not data.subjects or s.name in data.subjects
            }
        case Kind.METHODS | Kind.METRICS:
            rows = {name: _description(kind, name) for name in plugins.available(kind)}
    width = max(map(len, rows), default=0)
    for name, description in rows.items():
        print(f"{name:<{width}}  {description}")


@app.command()
def score(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A folder of <subject>/<prompt>/<n>.png, or a CSV: file,subject,prompt[,sample,"
            "seed,method].",
        ),
    ],
    suite: SuiteOption = "pocket",
    protocol: ProtocolOption = "",
    encoders: EncodersOption = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="What made the images; else the folder's name.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Else runs/<name of IMAGES>-<hash>.")
    ] = None,
    skip_unmatched: Annotated[
        bool, typer.Option("--skip-unmatched", help="Leave out the files that fit nothing.")
    ] = False,
) -> None:
    """Score images that any other tool made, beside the real images, and report them.

    A prompt is written as its text (`a dog in the snow`), its template (`a {} in the snow`), or as
    file names have it (`a-subject-in-the-snow`); `prior` is the prior prompt. Files that fit no
    subject or prompt, or are no images, are listed, and nothing is scored.

    Example:

        python -m benchmark score my-images --suite pocket --method my-tool
    """
    from benchmark.score import collect, score_images

    found = load_suite(suite).under(protocol, encoders=encoders)
    work = collect(images, found, method=method)
    for line in work.unmatched:
        print(f"unmatched: {line}", file=sys.stderr)
    if work.unmatched and not skip_unmatched:
        raise UserError(
            f"{len(work.unmatched)} files of {images} are unmatched, so nothing was scored: mend "
            "them, or leave them out with --skip-unmatched"
        )
    directory = out or Path("runs") / f"{images.resolve().stem}-{work.configuration[:8]}"
    print(f"report: {score_images(work, directory)}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
) -> None:
    """Write a run's summary, tables and figures anew from its scores and images.

    Example:

        python -m benchmark report runs/pocket-1a2b3c4d
    """
    from benchmark.report import write_report
    from benchmark.store import RunDirectory

    if not RunDirectory(directory).assemble_scores():
        raise UserError(f"{directory} has no finished job to report: run it first")
    print(write_report(directory))


@app.command()
def sweep(
    method: Annotated[str, typer.Argument(help="A name from `list methods`.")],
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE[,VALUE...]", help="Values to try; give it once a setting."
        ),
    ],
    suite: SuiteOption = "pocket",
    subjects: Annotated[str, typer.Option(help="Default: all development subjects.")] = "",
    prompts: Annotated[str, typer.Option(help="As for `run`.")] = "",
    seed: Annotated[
        str, typer.Option(metavar="SEED[,SEED...]", help="Run seeds. Default: the suite's.")
    ] = "",
    images_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Default: the suite's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: `runs/<suite>-<hash of the configuration>`."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
) -> None:
    """Try settings of a method on the development subjects, best objective first.

    The objective, the same for every method: the geometric mean of DINO over the real images'
    DINO and of CLIP-T over the untuned model's CLIP-T. The table is written to DIR/sweep.csv and
    DIR/sweep.md.

    Example:

        python -m benchmark sweep dreambooth --set learning_rate=1e-4,2e-4 --set steps=100,200
    """
    from benchmark.grid import run_grid
    from benchmark.plan import plan
    from benchmark.sweep import development, variants, write_sweep

    grid = plan(
        development(load_suite(suite)),
        [*variants(method, settings), "untuned", "real-images"],
        subjects=_items(subjects),
        prompts=_items(prompts),
        seeds=_seeds(seed),
        images_per_prompt=images_per_prompt,
    )
    directory = out or Path("runs") / f"{grid.suite.name}-{grid.configuration[:8]}"
    code = run_grid(grid, directory, dry_run=dry_run)
    if not dry_run and code != 130:
        print(write_sweep(directory))
    raise typer.Exit(code)


@app.command()
def speed(
    suite: SuiteOption = "pocket",
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 5,
) -> None:
    """Measure training, sampling and scoring against the bare modules, by turns in one process."""
    from benchmark.speed import measure, speed_table

    print(speed_table(measure(load_suite(suite), repetitions=repetitions)))


@app.command()
def pretrain(
    part: Annotated[
        str, typer.Argument(help="`generator`, `clip`, `dino`, or `all` of them.")
    ] = "all",
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure the shipped models instead of training.")
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="With --evaluate: write the model card anew.")
    ] = False,
    per_cell: Annotated[
        int, typer.Option(min=1, help="Pictures sampled for each class x background.")
    ] = 8,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Checkpoints and logs; taken up if they are there.")
    ] = Path("runs/pretrain"),
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: the shipped weights' place.")
    ] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights that are there.")
    ] = False,
) -> None:
    """Rebuild the pocket models from nothing, or measure the shipped ones.

    Hours on two CPU cores; an interrupted training goes on where its last checkpoint was.

    Examples:

        python -m benchmark pretrain all --output my-weights

        python -m benchmark pretrain --evaluate
    """
    from benchmark.pocket import pretrain as pocket

    if evaluate:
        encoders = load_suite("pocket").encoder_tables()
        pocket.evaluate(encoders, per_cell=per_cell, device=device, card=card)
        return
    output = output or pocket.SHIPPED
    for directory in pocket.pretrain(
        part, work=work, output=output, device=device, overwrite=overwrite
    ):
        print(directory)


@app.command("draw-subjects")
def draw_subjects(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, e.g. my-subjects.")],
) -> None:
    """Draw the pocket subjects' images, manifest and prompts anew (`datasets/pocket`)."""
    from benchmark.pocket.individuals import write_dataset

    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: nothing was drawn; choose a new folder")
    write_dataset(out)
    print(out)


def _items(text: str) -> list[str]:
    # A comma within name[key=value,key=value] does not separate.
    parts = re.split(r",(?![^\[]*\])", text)
    return [item for item in (part.strip() for part in parts) if item]


def _seeds(text: str) -> list[int]:
    seeds = _items(text)
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit()):
            raise UserError(f"--seed '{seed}' is no seed: give whole numbers from 0, like 0,1,2")
    return [int(seed) for seed in seeds]


def _description(kind: Kind, name: str) -> str:
    try:
        return plugins.load(kind, name).description
    except Exception as error:  # one broken plugin of somebody's should not hide the others
        return f"cannot be loaded: {type(error).__name__}: {error}"


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        app()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
