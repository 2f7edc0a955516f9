"""Options that several commands share, each spelled once, and how their values are read.

@bundled
def run(methods: MethodsOption = "all", suite: SuiteOptions = SuiteOptions()) -> None:
    suite.load()                                   # --suite, --backbone, --data, ...

items("untuned,dreambooth[steps=1,prior_weight=0]")    # two names
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from benchmark.api import UserError
from benchmark.config.registry import separated
from benchmark.config.suite import Precision, Suite, load_suite
from benchmark.data.prompts import EXAMPLE, choices_in
from benchmark.models.files.identity import known_names

if TYPE_CHECKING:
    from benchmark.runs.machine import Resources
    from benchmark.runs.plan import Grid
    from benchmark.runs.shared import Shard

SuiteOption = Annotated[
    str, typer.Option(metavar="NAME|FILE.toml", help="A shipped suite, or one of your own.")
]
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
        help=f"{', '.join(known_names())}; a directory in diffusers' layout; owner/name on the "
        "Hugging Face hub, with @revision if wanted; FILE.safetensors, with @epsilon or "
        "@v_prediction if it does not say what it predicts; else the suite's.",
    ),
]


PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Of forward passes; weights are float32. Else the suite's."),
]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="wandb|tensorboard|trackio",
        help="Also tell this tool of each job, and of the report; give it once a tool "
        "(docs/trackers.md).",
        show_default=False,
    ),
]
ProtocolOption = Annotated[
    str,
    typer.Option(metavar="NAME|FILE.toml", help="How images are scored; else as the suite says."),
]
MetricsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME[,...]",
        help="Beside the protocol's: from `list metrics`, or my_module:METRIC.",
    ),
]
EncodersOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the protocol's encoders lie, a folder each; else the caches."
    ),
]
PromptsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PROMPT[,...]",
        help="Of `list prompts`: kinds, numbers, or all; or your own, such as "
        f"'{EXAMPLE}', where {{}} is the subject. May be given more than once; else all.",
    ),
]


@dataclass(frozen=True)
class SuiteOptions:
    """A suite, and what stands in the place of its own backbone, images and protocol."""

    suite: SuiteOption = "pocket"
    backbone: BackboneOption = None
    precision: PrecisionOption = None
    data: DataOption = None
    protocol: ProtocolOption = ""
    encoders: EncodersOption = None

    def load(self) -> Suite:
        """The suite with all that put in. Raises UserError."""
        suite = load_suite(self.suite).on(self.backbone, self.precision).with_images(self.data)
        return suite.under(self.protocol, encoders=self.encoders)


@dataclass(frozen=True)
class SelectionOptions:
    """Which part of a suite."""

    subjects: Annotated[
        str,
        typer.Option(
            metavar="NAME[,...]",
            help="Names from `list subjects`; else the suite's.",
        ),
    ] = ""
    prompts: PromptsOption = None
    seed: Annotated[
        str, typer.Option(metavar="N[,...]", help="Seeds of the runs; else the suite's.")
    ] = ""
    images_per_prompt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Else the suite's.")
    ] = None

    def plan(self, suite: Suite, methods: list[str], *, controls: bool = True) -> Grid:
        """The plan of `methods`, and of the suite's controls if wanted. Raises UserError."""
        from benchmark.runs.plan import plan

        return plan(
            suite,
            methods,
            subjects=items(self.subjects),
            prompts=prompt_choices(self.prompts),
            seeds=seed_numbers(self.seed),
            images_per_prompt=self.images_per_prompt,
            controls=suite.controls if controls else (),
        )


@dataclass(frozen=True)
class RunOptions:
    """Where a grid is kept, which part of it is done, and whether."""

    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Else runs/<suite>-<hash of backbone, sampler, data and settings>: more methods, "
            "subjects, seeds and prompts go on in the same directory.",
        ),
    ] = None
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Of N processes with one --out on a disk that all of them see, this is number I: "
            "it begins with its part, and then takes whatever nobody else is at.",
        ),
    ] = ""
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what is to be done, by phases, and how long it takes by how many workers; "
            "then stop.",
        ),
    ] = False
    gradient_checkpointing: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            help="Compute activations twice in a training instead of keeping them: slower, in less "
            "memory, and the same but for the last digits. auto: on a GPU, for large families."
        ),
    ] = "auto"
    log: LogOption = None


@dataclass(frozen=True)
class WorkerOptions:
    """By how many workers, and where."""

    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes; else one a GPU, or else one a core."),
    ] = None
    gpus: Annotated[
        str,
        typer.Option(
            metavar="N[,...]",
            help="Which GPUs, counted from 0 among those that CUDA_VISIBLE_DEVICES lets be seen; "
            "else all of them.",
        ),
    ] = ""
    job_timeout: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="A job whose fit, drawing and scoring take longer fails, as do prior images; "
            "loading the model does not count. Else there is no limit.",
        ),
    ] = None
    on: Annotated[
        Literal["here", "ray"],
        typer.Option(help="On this machine, or on the nodes of a Ray cluster ('.[ray]')."),
    ] = "here"
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="With --on ray: the cluster's head, or `auto` for a cluster that this machine is "
            "part of; else a cluster of this machine alone.",
        ),
    ] = None
    worker_cpus: Annotated[
        float | None,
        typer.Option(metavar="N", min=0.01, help="With --on ray: CPU cores a worker; else 1."),
    ] = None
    worker_gpus: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            help="With --on ray: GPUs a worker, such as 0.5, or 0 for CPUs; else 1 if the cluster "
            "has any.",
        ),
    ] = None
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="With --on ray: also nodes with other devices or versions, whose scores differ in "
            "the last digits; each job's record names its own.",
        ),
    ] = False
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="With --on ray: every node sees the run directory, and writes there itself.",
        ),
    ] = False

    @contextmanager
    def resources(self, where: RunOptions | None = None) -> Iterator[Resources]:
        """What may be used. Raises UserError."""
        from benchmark.runs.machine import Resources

        try:
            gpus = tuple(int(number) for number in items(self.gpus)) or None
        except ValueError:
            raise UserError(f"--gpus '{self.gpus}': numbers are wanted, such as 0,2") from None
        where = where or RunOptions()
        checkpointing, log = where.gradient_checkpointing, tuple(where.log or ())
        if self.on == "here":
            yield Resources(
                self.workers,
                gpus,
                self.job_timeout,
                self._shard(where.shard),
                gradient_checkpointing=checkpointing,
                log=log,
            )
            return
        from benchmark.runs.on_ray import ClusterOptions, joined

        if self.workers or gpus or where.shard:
            raise UserError(
                "--workers, --gpus and --shard are this machine's: with --on ray, say what each "
                "worker gets by --worker-cpus and --worker-gpus"
            )
        cpus = 1.0 if self.worker_cpus is None else self.worker_cpus
        options = ClusterOptions(self.address, cpus, self.worker_gpus, self.mixed, self.shared)
        with joined(options) as cluster:
            yield Resources(
                job_timeout=self.job_timeout,
                cluster=cluster,
                gradient_checkpointing=checkpointing,
                log=log,
            )

    def _shard(self, text: str) -> Shard | None:
        """Which part of a grid this machine does; None: all of it. Raises UserError."""
        from benchmark.runs.shared import Shard

        shares = (self.worker_cpus, self.worker_gpus) != (None, None)
        if self.address or self.mixed or self.shared or shares:
            raise UserError(
                "--address, --worker-cpus, --worker-gpus, --mixed and --shared are a cluster's: "
                "add --on ray"
            )
        return Shard.read(text) if text else None


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with each parameter that is a dataclass of options spelled as its fields."""
    hints = get_type_hints(command, include_extras=True)
    bundles: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in bundles:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        types = get_type_hints(bundles[name], include_extras=True)
        parameters += [
            inspect.Parameter(f.name, parameter.kind, default=f.default, annotation=types[f.name])
            for f in fields(bundles[name])
        ]

    @functools.wraps(command)
    def flat(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind)})
            for name, kind in bundles.items()
        }
        command(**given, **made)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def items(text: str) -> list[str]:
    """What commas separate, without blanks; a comma in `name[key=value,key={a=1,b=2}]` does not."""
    return [item for item in (part.strip() for part in separated(text)) if item]


def prompt_choices(given: list[str] | None) -> list[str]:
    """What all `--prompts` say."""
    return [choice for text in given or () for choice in choices_in(text)]


def seed_numbers(text: str) -> list[int]:
    """The whole numbers of `0,1,2`. Raises UserError."""
    from benchmark.runs.selection import seed_number

    try:
        return [seed_number(seed) for seed in items(text)]
    except UserError as error:
        raise UserError(f"--{error}") from error
