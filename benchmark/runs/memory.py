"""An estimate of the GPU memory that a plan's methods take, made without a GPU and without weights.

    print_gpu_memory(grid, "auto")

Each method's own `fit` (two steps) and `generate` (one image) run on tensors without numbers, and
what these would take is counted: no method, setting or family has a formula here.
`docs/memory.md` says what the estimate is worth.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from benchmark.api import (
    SUBJECT_IMAGES,
    Clean,
    Method,
    Stage,
    Subject,
    UserError,
)
from benchmark.data.dataset import first_images
from benchmark.runs.devices import gradient_checkpointing
from benchmark.runs.machine import Choice
from benchmark.runs.plan import Grid
from benchmark.store.records import Job

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.models.live_memory import LiveMemory

#: GPUs that an estimate is held against, in GiB.
SIZES = (12, 16, 24, 48, 80)
#: What no tensor of a job shows, in bytes: CUDA's context and the libraries' workspaces (about
#: 1 GiB), and the encoders that score (0.7 GB for the paper's protocol in float32).
OVERHEAD = 2 * 2**30
#: The allocator keeps blocks that it cannot use again: so much more than tensors take.
FRAGMENTS = 0.05
#: Settings that save memory where a method has them, in the order in which they cost least.
_SAVING = {"optimiser": "adamw-8bit", "gradient_accumulation": 4}
_STEPS = 2  #: of a training: the second finds all that the first has made
_ENCODED = 16  #: prior images that are looked at; the others take as much


@dataclass(frozen=True)
class Way:
    """How a fit is carried out, beside what its method says."""

    checkpointing: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    resolution: int | None = None


@dataclass(frozen=True)
class Need:
    """What a method takes, in bytes at the worst moment."""

    method: str
    weights: int  #: of the whole model, as it is loaded
    training: int
    drawing: int  #: one image at a time, which batches are halved down to

    @property
    def left_out(self) -> int:
        """What the tensors do not show."""
        return round(max(self.weights, self.training, self.drawing) * FRAGMENTS) + OVERHEAD

    @property
    def bytes(self) -> int:
        """The GPU's memory that this takes."""
        return max(self.weights, self.training, self.drawing) + self.left_out


@dataclass
class _Tools:
    """A job's tools, where neither images nor prior images are there."""

    seed: int
    subject: Subject
    prepared: Mapping[str, Clean]

    def images(self, resolution: int) -> Tensor:
        import torch

        return torch.rand(len(self.subject.images), 3, resolution, resolution)

    def prior(self, stage: Stage) -> Clean:
        shared = self.prepared[stage.name]
        return shared[list(range(len(shared)))]

    def progress(self, done: int, steps: int, /, *, losses: Any = None) -> None:
        """Nobody listens."""


def needs(grid: Grid, checkpointing: Choice) -> Iterator[Need]:
    """What each method of `grid` takes that needs a backbone, as it would run on a GPU.

    Methods of one class whose settings differ in names alone are looked at once. Raises UserError
    if the model's configurations are not here, or its kind makes none without weights.
    """
    way = Way(_checkpointing(grid, checkpointing))
    found: dict[str, Need] = {}
    for job in _jobs(grid):
        key = repr(_decisive(grid, job))
        if key not in found:
            found[key] = need(grid, job, way)
        yield replace(found[key], method=job.method)


def remedies(grid: Grid, before: Need, checkpointing: Choice) -> Iterator[tuple[str, Need]]:
    """What to switch on so that a method takes less than `before`, each with those before it.

    Only what its backbone and its settings know and have not got already, and what helps.
    """
    [job] = [job for job in _jobs(grid) if job.method == before.method]
    for words, way in _ways(grid, job, Way(_checkpointing(grid, checkpointing))):
        after = need(grid, job, way)
        if after.bytes < before.bytes:
            before = after
            yield words, after


def _ways(grid: Grid, job: Job, way: Way) -> Iterator[tuple[str, Way]]:
    settings = grid.suite.settings(job.method)
    if not way.checkpointing and hasattr(grid.suite.backbone.load_kind(), "gradient_checkpointing"):
        way = replace(way, checkpointing=True)
        yield "--gradient-checkpointing on", way
    for name, value in _SAVING.items():
        if name in settings and settings[name] is None:
            way = replace(way, settings={**way.settings, name: value})
            yield f"{name} = {value}", way
    for side in _smaller(grid):
        way = replace(way, resolution=side)
        yield f"resolution = {side}", way


def _checkpointing(grid: Grid, choice: Choice) -> bool:
    return gradient_checkpointing(grid.suite.backbone, choice, "cuda")


def need(grid: Grid, job: Job, way: Way) -> Need:
    """What a job takes if it is carried out so. Raises UserError as `needs`."""
    from benchmark.models.live_memory import LiveMemory, no_numbers

    method = _short(grid.suite.method(job.method), way.settings)
    subject = _subject(grid, job)
    memory = LiveMemory()
    with no_numbers(memory):
        backbone = _hollow(grid, way)
        weights = _begin(memory)
        _set_aside_by(memory, backbone)
        prepared = {stage.name: _prior(method, subject, stage) for stage in backbone.stages}
        tools: Any = _Tools(job.seed, subject, {k: v for k, v in prepared.items() if v is not None})
        learned = method.fit(subject, backbone, tools)
        training = memory.peak
        _begin(memory)
        method.generate(learned, subject, job.requests[:1], backbone, tools)
        return Need(job.method, weights, training, memory.peak)


def print_gpu_memory(grid: Grid, checkpointing: Choice) -> None:
    """Say what each method takes on a GPU, and what would make the largest fit on smaller ones."""
    print("GPU memory  an estimate, each method tried on tensors without numbers (docs/memory.md)")
    most: Need | None = None
    for one in needs(grid, checkpointing):
        parts = f"weights {_gib(one.weights)}, training {_gib(one.training)}"
        parts += f", drawing {_gib(one.drawing)}, and {_gib(one.left_out)} that no tensor shows"
        print(f"            {one.method}: {_gib(one.bytes)} GiB ({parts})", flush=True)
        most = one if most is None or one.bytes > most.bytes else most
    if most is None:
        print("            no method needs a backbone")
        return
    found, switched = [("as it is", most.bytes)], list[str]()
    if most.bytes > SIZES[0] * 2**30:
        for words, after in remedies(grid, most, checkpointing):
            switched.append(words)
            found.append((", ".join(switched), after.bytes))
    for size in SIZES:
        fitting = [(words, bytes_) for words, bytes_ in found if bytes_ <= size * 2**30]
        words = f"{fitting[0][0]} ({_gib(fitting[0][1])})" if fitting else "no"
        print(f"  {size:>3} GiB   {most.method}: {words}", flush=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def _hollow(grid: Grid, way: Way) -> Any:
    choice = grid.suite.backbone
    kind: Any = choice.load_kind()
    if not hasattr(kind, "hollow"):
        raise UserError(f"backbone kind '{choice.kind}' makes no model without its weights")
    sampler = grid.suite.sampler.sampler()
    return kind.hollow(
        choice.model,
        sampler=replace(
            sampler,
            steps=min(_STEPS, sampler.steps),
            super_resolution_steps=sampler.super_resolution_steps and _STEPS,
        ),
        precision="fp32" if choice.precision == "fp32" else "bf16",  # fp16 takes as much
        resolution=way.resolution or choice.resolution,
        gradient_checkpointing=way.checkpointing,
    )


def _begin(memory: LiveMemory) -> int:
    """Begin a phase; what lives on from the one before it."""
    gc.collect()
    memory.begin()
    return memory.now


def _set_aside_by(memory: LiveMemory, backbone: Any) -> None:
    """Let the backbone tell `memory` of what it sets aside, since it finds itself on a CPU."""
    from benchmark.models.aside import unused

    if hasattr(backbone, "set_aside"):
        backbone.set_aside = lambda used=None: memory.without(
            unused(backbone.modules(), used, backbone.text_encoders)
        )


def _prior(method: Method, subject: Subject, stage: Stage) -> Clean | None:
    """The prior images that `method` asks for, as a worker has them prepared."""
    import torch

    asked = method.prior(subject)
    if asked is None:
        return None
    side = stage.resolution
    some = stage.prepare(torch.rand(min(asked.count, _ENCODED), 3, side, side))
    return some[[0] * asked.count]


def _short(method: Any, settings: Mapping[str, Any]) -> Method:
    """`method` with these settings, and with two steps wherever it has more."""
    steps = {
        one.name: min(_STEPS, value)
        for one in fields(method)
        if one.name.split("_")[-1] == "steps"
        and isinstance(value := getattr(method, one.name), int)
    }
    short: Method = replace(method, **steps, **settings)
    return short


def _jobs(grid: Grid) -> list[Job]:
    """One of each method that needs a backbone."""
    found = {job.method: job for job in reversed(grid.jobs) if job.fit.backbone is not None}
    return [found[name] for name in grid.methods if name in found]


def _subject(grid: Grid, job: Job) -> Subject:
    [subject] = [one for one in grid.suite.data.load().subjects if one.name == job.subject]
    return first_images(subject, job.fit.settings.get(SUBJECT_IMAGES, len(subject.images)))


def _decisive(grid: Grid, job: Job) -> list[Any]:
    """What of a job decides how much memory it takes: not what things are called."""
    method = grid.suite.method(job.method)
    return [type(method), len(job.requests) > 0, method.prior(_subject(grid, job)) is None] + [
        (name, value)
        for name, value in sorted(job.fit.settings.items())
        if name == "optimiser" or not isinstance(value, str)
    ]


def _smaller(grid: Grid) -> Sequence[int]:
    """Three quarters and a half of the images' height and width, where the model draws these."""
    choice = grid.suite.backbone
    kind: Any = choice.load_kind()
    if not hasattr(kind, "check_resolution"):
        return []
    whole = choice.resolution or _hollow_resolution(grid)
    found = []
    for side in (whole * 3 // 4, whole // 2):
        try:
            kind.check_resolution(choice.model, side)
        except UserError:
            continue
        found.append(side)
    return found


def _hollow_resolution(grid: Grid) -> int:
    from benchmark.models.live_memory import LiveMemory, no_numbers

    with no_numbers(LiveMemory()):
        return int(_hollow(grid, Way(False)).resolution)
