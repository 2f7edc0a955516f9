"""The commands of a grid's workers: run, sweep, curve, overhead.

python -m benchmark run --methods dreambooth,untuned --dry-run
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from benchmark.cli.options import (
    MetricsOption,
    RunOptions,
    SelectionOptions,
    SuiteOptions,
    WorkerOptions,
    bundled,
    items,
)

_SUITE, _SELECTION = SuiteOptions(), SelectionOptions()
_RUN, _WORKERS = RunOptions(), WorkerOptions()


@bundled
def run(
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME[,...]",
            help="Names from `list methods`; groups of the suite, such as `all`; patterns like "
            "'dreambooth-*'; your own as my_module:METHOD.",
        ),
    ] = "all",
    controls: Annotated[
        bool, typer.Option(help="Also the suite's controls, which scores are measured against.")
    ] = True,
    metrics: MetricsOption = "",
    suite: SuiteOptions = _SUITE,
    selection: SelectionOptions = _SELECTION,
    where: RunOptions = _RUN,
    workers: WorkerOptions = _WORKERS,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="Keep what is learned in DIR/weights, so that more prompts need no other fit.",
        ),
    ] = False,
    gpu_memory: Annotated[
        bool | None,
        typer.Option(
            help="With --dry-run: estimate the GPU memory that each method takes, and say what "
            "would make it fit on GPUs of 12 to 80 GiB. Needs no GPU, reads no weights, and takes "
            "minutes for a large model. Else only where there is a GPU.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a grid of methods x subjects x seeds, and report it.

    The same command again resumes, and one that asks for more adds to the same
    directory: only what is missing is trained, drawn and scored. A failed job stops no other; the
    exit code is then 1.

    Examples:

      python -m benchmark run --methods all

      python -m benchmark run --methods dreambooth --prompts accessory

      python -m benchmark run --methods my_module:METHOD --seed 0,1,2
    """
    from benchmark.api import UserError
    from benchmark.grid.running import run_grid

    if gpu_memory and not where.dry_run:
        raise UserError("--gpu-memory is an estimate of a plan: give it with --dry-run")
    with workers.resources(where) as resources:
        grid = selection.plan(resources.on(suite.load()), items(methods), controls=controls)
        if gpu_memory:  # so it is for a GPU, and refused is what does not run there
            grid = replace(grid, device="cuda")
        code = run_grid(
            grid,
            where.out or grid.directory,
            resources=resources,
            dry_run=where.dry_run,
            keep_weights=keep_weights,
            metrics=items(metrics),
        )
    if where.dry_run and (grid.device != "cpu" if gpu_memory is None else gpu_memory):
        from benchmark.runs.memory_table import print_gpu_memory

        print_gpu_memory(grid, where.gradient_checkpointing, asked=bool(gpu_memory))
    raise typer.Exit(code)


@bundled
def sweep(
    method: Annotated[str, typer.Argument(help="A name from `list methods`.")],
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE[,VALUE...]", help="Values to try; give it once a setting."
        ),
    ],
    suite: SuiteOptions = _SUITE,
    selection: SelectionOptions = _SELECTION,
    where: RunOptions = _RUN,
    workers: WorkerOptions = _WORKERS,
) -> None:
    """Try settings of a method on the development subjects, best objective first.

    The objective, the same for every method, is the suite's [objective]: the geometric mean of
    subject fidelity over the upper bound's and of prompt fidelity over the lower bound's. The table
    is written to DIR/sweep.csv and DIR/sweep.md.

    Example:

        python -m benchmark sweep dreambooth --set learning_rate=1e-4,2e-4 --set steps=100,200
    """
    from benchmark.grid.running import run_grid
    from benchmark.studies.sweep import development, variants, write_sweep

    with workers.resources(where) as resources:
        chosen = development(resources.on(suite.load()))
        grid = selection.plan(chosen, variants(method, settings))
        directory = where.out or grid.directory
        code = run_grid(grid, directory, resources=resources, dry_run=where.dry_run)
    if not where.dry_run and code != 130:
        print(write_sweep(directory, grid.jobs))
    raise typer.Exit(code)


@bundled
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
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT", help="`test` is for showing a curve, not for choosing by it."
        ),
    ] = "development",
    suite: SuiteOptions = _SUITE,
    selection: SelectionOptions = _SELECTION,
    where: RunOptions = _RUN,
    workers: WorkerOptions = _WORKERS,
) -> None:
    """Draw each metric along one setting: where a method overfits, how many images it needs.

    On development subjects, as settings must never be chosen on test subjects. Every value is a
    training of its own; the controls are level lines beside the methods. Written to DIR:
    curve.csv, curve.md, and curve.png, .svg and .pdf. The same command again resumes.

    Examples:

      python -m benchmark curve dreambooth,textual-inversion --over steps=25,50,100,200

      python -m benchmark curve dreambooth --over subject_images=1,2,3,4,5
    """
    from benchmark.studies.curve import on_split, read_curve, run_curve

    asked = read_curve(items(methods), over)
    with workers.resources(where) as resources:
        grid = selection.plan(on_split(resources.on(suite.load()), split), asked.runs)
        directory = where.out or grid.directory
        code = run_curve(asked, grid, directory, resources=resources, dry_run=where.dry_run)
    raise typer.Exit(code)


@bundled
def overhead(
    jobs: Annotated[int, typer.Option(metavar="N", min=20, help="How many.")] = 1000,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long each job sleeps.")
    ] = 0.0,
    workers: WorkerOptions = _WORKERS,
) -> None:
    """Measure what handing out jobs costs: jobs that do nothing but sleep, by a run's workers.

    Nothing is trained, drawn or scored. `efficiency` is the share of the workers' time in which
    they slept; `start` has the processes' start and imports.

    Examples:

      python -m benchmark overhead --workers 8 --jobs 10000

      python -m benchmark overhead --workers 8 --seconds 0.5 --jobs 2400

      python -m benchmark overhead --on ray --worker-cpus 0.25 --jobs 10000
    """
    from benchmark.studies.overhead import measure, overhead_text

    with workers.resources() as resources:
        print(overhead_text(measure(resources, jobs=jobs, seconds=seconds)))
