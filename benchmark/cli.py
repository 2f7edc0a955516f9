"""The command line: reads arguments, calls the one path, turns errors into exit codes.

0  done      1  a job failed, or `check` found a regression      2  bad input, in one line
130  interrupted
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark import plugins
from benchmark.data import describe, verify
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
SubjectsOption = Annotated[
    str, typer.Option(metavar="NAME[,...]", help="Names from `list subjects`; else the suite's.")
]
PromptsOption = Annotated[
    str,
    typer.Option(
        metavar="PROMPT[,...]",
        help="Kinds (recontextualization, accessory, property), numbers from 1 in the subject's "
        "list, or templates ('a {} in the snow'); else all.",
    ),
]
SeedOption = Annotated[
    str, typer.Option(metavar="N[,...]", help="Seeds of the runs; else the suite's.")
]
ImagesOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Else the suite's.")]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Else runs/<suite>-<hash of the configuration>."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes; else one a core, or one for a GPU."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A copy of the suite's photographs, or your own subjects; else the suite's own.",
    ),
]


BackboneOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR|HUB-ID|FILE",
        help="sd15, sd14, sd21, sd21-base, pocket; a directory in diffusers' layout; owner/name "
        "on the Hugging Face hub, with @revision if wanted; FILE.safetensors, with @epsilon or "
        "@v_prediction if it is a Stable Diffusion 2; else the suite's.",
    ),
]


class Precision(StrEnum):
    """What forward passes are computed in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Of forward passes; weights are float32. Else the suite's."),
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
            help="Names from `list methods`; `all` of them but identifier-*; your own as "
            "my_module:METHOD.",
        ),
    ] = "all",
    suite: SuiteOption = "pocket",
    backbone: BackboneOption = None,
    precision: PrecisionOption = None,
    data: DataOption = None,
    subjects: SubjectsOption = "",
    prompts: PromptsOption = "",
    seed: SeedOption = "",
    images_per_prompt: ImagesOption = None,
    protocol: ProtocolOption = "",
    encoders: EncodersOption = None,
    out: OutOption = None,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
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
        load_suite(suite)
        .on(backbone, precision)
        .with_images(data)
        .under(protocol, encoders=encoders),
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
    data: DataOption = None,
) -> None:
    """List what there is, one per line: the name, then what it is.

    With --data every image is checked, and the sizes of the smallest and the largest are shown.

    Examples:

      python -m benchmark list subjects --suite pocket

      python -m benchmark list subjects --data my-subjects
    """
    match kind:
        case Kind.SUITES:
            rows = {name: load_suite(name).description for name in suite_names()}
        case Kind.PROTOCOLS:
            rows = {name: load_protocol(name).description for name in protocol_names()}
        case Kind.SUBJECTS:
            choice = load_suite(suite).with_images(data).data
            dataset = choice.load()
            chosen = [
                s for s in dataset.subjects if not choice.subjects or s.name in choice.subjects
            ]
            if data:
                verify(dataset, chosen)
            rows = {s.name: describe(s, sizes=data is not None) for s in chosen}
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
    data: DataOption = None,
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

    found = load_suite(suite).with_images(data).under(protocol, encoders=encoders)
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
def fetch(
    dataset: Annotated[str, typer.Argument(help="A dataset whose photographs lie elsewhere.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Else your cache folder, where runs look.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Check the copy at DIR and download nothing."),
    ] = None,
) -> None:
    """Bring a dataset's photographs here, and check every one of them.

    Only what is missing or altered is downloaded, so it may be interrupted and run again.

    Examples:

      python -m benchmark fetch dreambench

      python -m benchmark fetch dreambench --data my-copy
    """
    from benchmark.fetch import check_copy, fetch_images

    if out and data:
        raise UserError("--out says where to download to, --data what to check: give one of them")
    found = check_copy(dataset, data) if data else fetch_images(dataset, out)
    images = sum(len(subject.images) for subject in found.subjects)
    print(f"{len(found.subjects)} subjects, {images} images, each as it should be: {found.root}")


@app.command()
def manifest(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Your own subjects, with a subjects.toml.")
    ],
    name: Annotated[str, typer.Option(help="The dataset's; else the folder's.")] = "",
    source: Annotated[
        str, typer.Option(metavar="URL", help="Where `fetch` shall find <subject>/<image>.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Else DIR/manifest.toml.")
    ] = None,
) -> None:
    """Write down the SHA-256 of every image, so that any later change of them is noticed.

    Example:

        python -m benchmark manifest my-subjects
    """
    from benchmark.fetch import write_manifest

    print(write_manifest(directory, out, name=name or None, source=source or None))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report goes; else into the one RUN."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Report several runs even if jobs are missing."),
    ] = False,
) -> None:
    """Write a run's summary, tables and figures anew, or put several runs into one report.

    Several runs (other seeds, methods or machines) have to be of one protocol, with the same
    settings for the same method. Their report goes to --out, a new folder or an earlier report's.

    Examples:

      python -m benchmark report runs/pocket-1a2b3c4d

      python -m benchmark report runs/seed-0 runs/seed-1 --out reports/both
    """
    from benchmark.report import write_joint_report, write_report
    from benchmark.store import RunDirectory

    if out is None and len(runs) > 1:
        raise UserError(f"{len(runs)} runs make a report of their own: say where with --out DIR")
    for directory in runs:
        if not RunDirectory(directory).assemble_scores():
            raise UserError(f"{directory} has no finished job to report: run it first")
    if out is None:
        print(write_report(runs[0]))
    else:
        print(write_joint_report(runs, out, partial=partial))


@app.command()
def keep(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory.")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or a kept run's.")
    ],
) -> None:
    """Copy a run to DIR without most of its images, small enough to commit, and report it there.

    Scores, records and the images of the report's grid stay, so `report DIR` writes the same again.

    Example:

        python -m benchmark keep runs/pocket-1a2b3c4d reports/mine
    """
    from benchmark.keep import keep_run
    from benchmark.store import RunDirectory

    RunDirectory(run).assemble_scores()
    print(keep_run(run, directory))


@app.command()
def check(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Finished run directories, taken as one."),
    ],
    baseline: Annotated[
        Path, typer.Option(metavar="FILE", help="The scores to keep, a TOML file.")
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Make or rewrite FILE, and print what differs.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the verdicts as JUnit XML, for CI systems."),
    ] = None,
) -> None:
    """Hold a run's scores against a baseline; the exit code is 1 if one of them got worse.

    How far a score may move was measured, from seed to seed, by the runs that made the baseline: at
    least three seeds, and better five or more. A control that moves either way is a failure too.

    Examples:

      python -m benchmark check runs/pocket-1a2b3c4d --baseline baseline.toml

      python -m benchmark check runs/seeds-0-to-4 --baseline baseline.toml --update
    """
    from benchmark.check import check_runs

    if update and junit:
        raise UserError("--update compares nothing, so there is nothing for --junit: leave one out")
    raise typer.Exit(check_runs(runs, baseline, update=update, junit=junit))


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
    backbone: BackboneOption = None,
    precision: PrecisionOption = None,
    data: DataOption = None,
    subjects: Annotated[
        str, typer.Option(metavar="NAME[,...]", help="Else all development subjects.")
    ] = "",
    prompts: PromptsOption = "",
    seed: SeedOption = "",
    images_per_prompt: ImagesOption = None,
    protocol: ProtocolOption = "",
    encoders: EncodersOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
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
        development(
            load_suite(suite)
            .on(backbone, precision)
            .with_images(data)
            .under(protocol, encoders=encoders)
        ),
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
def curve(
    methods: Annotated[str, typer.Argument(metavar="METHOD[,...]", help="From `list methods`.")],
    over: Annotated[
        str,
        typer.Option(
            metavar="KEY=VALUE,VALUE[,...]",
            help="A setting of the methods (steps, prior_weight, prior_images, ...), or "
            "subject_images: on how many of its images a subject is learned.",
        ),
    ],
    suite: SuiteOption = "pocket",
    backbone: BackboneOption = None,
    precision: PrecisionOption = None,
    data: DataOption = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT", help="`test` is for showing a curve, not for choosing by it."
        ),
    ] = "development",
    subjects: Annotated[
        str, typer.Option(metavar="NAME[,...]", help="Else all subjects of the split.")
    ] = "",
    prompts: PromptsOption = "",
    seed: SeedOption = "",
    images_per_prompt: ImagesOption = None,
    protocol: ProtocolOption = "",
    encoders: EncodersOption = None,
    out: OutOption = None,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Draw each metric along one setting: where a method overfits, how many images it needs.

    On development subjects, as settings must never be chosen on test subjects. Every value is a
    training of its own; the controls are level lines beside the methods. Written to DIR:
    curve.csv, curve.md, curve.png, curve.svg. The same command again goes on where it stopped.

    Examples:

      python -m benchmark curve dreambooth,textual-inversion --over steps=25,50,100,200

      python -m benchmark curve dreambooth --over subject_images=1,2,3,4,5
    """
    from benchmark.curve import on_split, read_curve, run_curve
    from benchmark.plan import plan

    asked = read_curve(_items(methods), over)
    grid = plan(
        on_split(
            load_suite(suite)
            .on(backbone, precision)
            .with_images(data)
            .under(protocol, encoders=encoders),
            split,
        ),
        asked.runs,
        subjects=_items(subjects),
        prompts=_items(prompts),
        seeds=_seeds(seed),
        images_per_prompt=images_per_prompt,
    )
    directory = out or Path("runs") / f"{grid.suite.name}-{grid.configuration[:8]}"
    raise typer.Exit(run_curve(asked, grid, directory, workers=workers, dry_run=dry_run))


@app.command()
def speed(
    suite: SuiteOption = "pocket",
    backbone: BackboneOption = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 5,
) -> None:
    """Measure training, sampling and scoring against the bare modules, by turns in one process."""
    from benchmark.speed import measure, speed_table

    print(speed_table(measure(load_suite(suite).on(backbone), repetitions=repetitions)))


@app.command()
def identifier(
    suite: SuiteOption = "pocket",
    backbone: BackboneOption = None,
    precision: PrecisionOption = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many to list.")] = 20,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Draw with each, and measure how far it pulls the class."),
    ] = False,
    class_noun: Annotated[
        str, typer.Option(metavar="NOUN", help="With --probe: what is drawn with each.")
    ] = "dog",
    images: Annotated[
        int, typer.Option(metavar="N", min=2, help="With --probe: images of each.")
    ] = 8,
) -> None:
    """List rare tokens of a backbone's vocabulary that can stand for a subject, rarest first.

    Whole words of a single token and at most three letters. With --probe the weakest prior comes
    first: `pull` is 0 for a token that changes no image of the class, and 1 for one that changes
    it as much as other noise does. Without it no weights are needed.

    Examples:

      python -m benchmark identifier --backbone sd15

      python -m benchmark identifier --probe --class-noun teapot
    """
    from benchmark.identifiers import candidate_table, find_candidates, probe_candidates

    chosen = load_suite(suite).on(backbone, precision)
    found = find_candidates(chosen.backbone.model, count)
    if probe:
        found = probe_candidates(chosen, found, class_noun, images=images)
    print(candidate_table(found))


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
        pocket.evaluate(load_suite("pocket"), per_cell=per_cell, device=device, card=card)
        return
    output = output or pocket.SHIPPED
    for directory in pocket.pretrain(
        part, work=work, output=output, device=device, overwrite=overwrite
    ):
        print(directory)


@app.command()
def calibrate(
    subjects: Annotated[
        int, typer.Option(metavar="N", min=10, help="Subjects to draw; ten are one a class.")
    ] = 200,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another draws others.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where calibration.csv, .md and .png go.")
    ] = Path("reports/pocket/calibration"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a calibration that is there.")
    ] = False,
) -> None:
    """Measure the metrics themselves, on pocket pictures of which the truth is known.

    How surely DINO, CLIP-I and CLIP-T tell right from wrong, whether they follow identity from one
    subject to another, and what else moves them.

    Example:

        python -m benchmark calibrate --subjects 50 --out my-calibration
    """
    from benchmark.pocket.calibrate import run_calibration

    run_calibration(subjects=subjects, seed=seed, out=out, overwrite=overwrite)


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
