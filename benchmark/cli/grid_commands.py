"""The commands that train and draw: run, sweep, curve.

python -m benchmark run --methods dreambooth,untuned --dry-run
"""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.options import (
    BackboneOption,
    DataOption,
    DryRunOption,
    EncodersOption,
    ImagesOption,
    OutOption,
    PrecisionOption,
    PromptsOption,
    ProtocolOption,
    SeedOption,
    SubjectsOption,
    SuiteOption,
    WorkersOption,
    items,
    seed_numbers,
)
from benchmark.config.suite import load_suite


def run(
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME[,...]",
            help="Names from `list methods`; `all` of them but identifier-*; your own as "
            "my_module:METHOD.",
        ),
    ] = "all",
    controls: Annotated[
        bool,
        typer.Option(
            help="Real images and the untuned model too, which every report has as its measures."
        ),
    ] = True,
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

      python -m benchmark run --methods dreambooth --prompts accessory

      python -m benchmark run --methods my_module:METHOD --seed 0,1,2
    """
    from benchmark.grid import run_grid
    from benchmark.results.statistics import CONTROLS
    from benchmark.runs.plan import plan

    grid = plan(
        load_suite(suite)
        .on(backbone, precision)
        .with_images(data)
        .under(protocol, encoders=encoders),
        items(methods),
        subjects=items(subjects),
        prompts=items(prompts),
        seeds=seed_numbers(seed),
        images_per_prompt=images_per_prompt,
        controls=CONTROLS if controls else (),
    )
    raise typer.Exit(run_grid(grid, out or grid.directory, workers=workers, dry_run=dry_run))


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
    from benchmark.runs.plan import plan
    from benchmark.studies.sweep import development, variants, write_sweep

    grid = plan(
        development(
            load_suite(suite)
            .on(backbone, precision)
            .with_images(data)
            .under(protocol, encoders=encoders)
        ),
        [*variants(method, settings), "untuned", "real-images"],
        subjects=items(subjects),
        prompts=items(prompts),
        seeds=seed_numbers(seed),
        images_per_prompt=images_per_prompt,
    )
    directory = out or grid.directory
    code = run_grid(grid, directory, dry_run=dry_run)
    if not dry_run and code != 130:
        print(write_sweep(directory))
    raise typer.Exit(code)


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
    from benchmark.runs.plan import plan
    from benchmark.studies.curve import on_split, read_curve, run_curve

    asked = read_curve(items(methods), over)
    grid = plan(
        on_split(
            load_suite(suite)
            .on(backbone, precision)
            .with_images(data)
            .under(protocol, encoders=encoders),
            split,
        ),
        asked.runs,
        subjects=items(subjects),
        prompts=items(prompts),
        seeds=seed_numbers(seed),
        images_per_prompt=images_per_prompt,
    )
    directory = out or grid.directory
    raise typer.Exit(run_curve(asked, grid, directory, workers=workers, dry_run=dry_run))
