"""An estimate of the GPU memory that a plan's methods take, made without a GPU, reading no weights.

    for one in gpu_memories(grid, "auto"): ...      # GpuMemory(method, weights, training, ...)

Each method's own `fit` (two steps) and `generate` (one image) run on tensors without numbers, and
what these would take is counted: no method or family has a formula here.
`docs/memory.md` says what the estimate is worth.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.api import SUBJECT_IMAGES, Clean, Method, Stage, Subject, UserError
from benchmark.data.dataset import first_images
from benchmark.runs import assets
from benchmark.runs.box import boxed, in_words
from benchmark.runs.devices import gradient_checkpointing
from benchmark.runs.machine import Switch
from benchmark.runs.plan import Grid
from benchmark.runs.tools import JobTools, Pace
from benchmark.store.records import Job

if TYPE_CHECKING:
    from benchmark.models.memory.live_memory import LiveMemory

GIB = 2**30
#: What no tensor of a job shows, in bytes: CUDA's context and the libraries' workspaces, taken to
#: be 1.3 GiB, and the encoders that score, 0.7 GiB for the paper's protocol in float32.
OVERHEAD = 2 * GIB
#: The allocator keeps blocks that it cannot use again: taken to be so much of what tensors take.
FRAGMENTS = 0.05
#: Settings that save memory where a method has them, in the order in which they are tried.
_SAVING = {"narrow_weights": True, "optimiser": "adamw-8bit", "gradient_accumulation": 4}
_STEPS = 2  #: of a training, or of a sampler: the second finds all that the first has made
_ENCODED = 16  #: prior images that are looked at; the others take as much


@dataclass(frozen=True)
class Way:
    """How a fit is carried out, beside what its plan says."""

    checkpointing: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    resolution: int | None = None  #: in pixels; None: the plan's


@dataclass(frozen=True)
class GpuMemory:
    """What a method takes, in bytes: what tensors take at the worst moment of each phase."""

    method: str
    weights: int  #: of the whole model, as it is loaded
    training: int
    drawing: int  #: one image at a time, which batches are halved down to
    resolution: int | None  #: of the backbone's images, in pixels

    @property
    def left_out(self) -> int:
        """What the tensors do not show."""
        return round(self._most * FRAGMENTS) + OVERHEAD

    @property
    def bytes(self) -> int:
        """The GPU's memory that this takes."""
        return self._most + self.left_out

    @property
    def _most(self) -> int:
        return max(self.weights, self.training, self.drawing)


@dataclass(frozen=True)
class Unknown:
    """In an estimate's place: the method does what tensors without numbers cannot."""

    method: str
    why: str


def gpu_memories(grid: Grid, checkpointing: Switch) -> Iterator[GpuMemory | Unknown]:
    """What each method of `grid` takes that needs a backbone or an asset, as it would run on a GPU.

    Methods of one class that differ in the words alone that they read are looked at once. Raises
    UserError if the model's configurations are not here, or its kind makes none without weights.
    """
    way = Way(gradient_checkpointing(grid.suite.backbone, checkpointing, "cuda"))
    found: dict[str, GpuMemory | Unknown] = {}
    for job in _jobs(grid):
        key = repr(_decisive(grid, job))
        if key not in found:
            try:
                with boxed():
                    found[key] = gpu_memory(grid, job, way)
            except assets.NoHollow as error:
                found[key] = Unknown(job.method, str(error))
            except _beyond_fake_tensors() as error:
                found[key] = Unknown(job.method, f"{error} needs real values")
            except UserError:
                raise
            except Exception as error:  # a method's own code, on tensors that it did not expect
                found[key] = Unknown(job.method, in_words(error))
        yield replace(found[key], method=job.method)


def _beyond_fake_tensors() -> tuple[type[Exception], ...]:
    """What fake tensors raise where a shape or a branch is decided by numbers."""
    from torch._subclasses import fake_tensor

    return (
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.DataDependentOutputException,
        fake_tensor.UnsupportedOperatorException,
    )


def remedies(
    grid: Grid, before: GpuMemory, checkpointing: Switch
) -> Iterator[tuple[str, GpuMemory]]:
    """What to switch on so that a method takes less than `before`, each with those before it.

    Only what its backbone and its settings know and have not got already, and what helps.
    """
    [job] = [job for job in _jobs(grid) if job.method == before.method]
    way = Way(gradient_checkpointing(grid.suite.backbone, checkpointing, "cuda"))
    for words, change in _changes(grid, job, before.resolution, way):
        changed = replace(way, **change)
        after = gpu_memory(grid, job, changed)
        if after.bytes < before.bytes:
            before, way = after, changed
            yield words, after


def _changes(
    grid: Grid, job: Job, side: int | None, way: Way
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The remedies in their order, as changes of what `way` has become with those before."""
    if side is None:  # all are a training's on a backbone
        return
    kind: Any = grid.suite.backbone.load_kind()
    if not way.checkpointing and hasattr(kind, "gradient_checkpointing"):
        yield "--gradient-checkpointing on", {"checkpointing": True}
    settings, known = dict[str, Any](), grid.suite.settings(job.method)
    for name, value in _SAVING.items():
        if name in known and known[name] is None:
            settings = {**settings, name: value}
            yield f"{name} = {value}", {"settings": settings}
    if hasattr(kind, "check_resolution"):
        try:
            kind.check_resolution(grid.suite.backbone.model, side // 2)
        except UserError:
            return
        yield f"resolution = {side // 2}", {"resolution": side // 2}


def gpu_memory(grid: Grid, job: Job, way: Way) -> GpuMemory:
    """What a job takes if it is carried out so. Raises UserError as `gpu_memories`."""
    from benchmark.models.memory.live_memory import LiveMemory, no_numbers

    method, subject = _short(grid.suite.method(job.method), way.settings), _subject(grid, job)
    memory = LiveMemory()
    with no_numbers(memory):
        backbone = _hollow(grid, way) if job.fit.backbone else None
        weights = _begin(memory)
        _set_aside_by(memory, backbone)
        stages = backbone.stages if backbone else ()
        asked = {stage.name: _prior(method, subject, stage) for stage in stages}
        prior = {name: clean for name, clean in asked.items() if clean is not None}
        pace = Pace(lambda done, steps: None)
        tools = JobTools(job.seed, subject, pace, prior, assets.hollow(grid.suite, job.fit))
        learned = method.fit(subject, backbone, tools)
        training = memory.peak
        _begin(memory)
        method.generate(learned, subject, job.requests[:1], backbone, tools)
        resolution = backbone.resolution if backbone else None
        return GpuMemory(job.method, weights, training, memory.peak, resolution)


def _hollow(grid: Grid, way: Way) -> Any:
    choice = grid.suite.backbone
    kind: Any = choice.load_kind()
    if not hasattr(kind, "hollow"):
        raise UserError(
            f"backbone kind '{choice.kind}' makes no model without its weights, so there is no "
            "estimate of GPU memory: leave --gpu-memory out"
        )
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
    from benchmark.models.memory.aside import put_aside

    if hasattr(backbone, "set_aside"):
        backbone.set_aside = partial(put_aside, backbone, elsewhere=memory.without)


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
    """The first of each method that needs a backbone, or an asset."""
    found = {j.method: j for j in reversed(grid.jobs) if j.fit.backbone or j.fit.assets}
    return [found[name] for name in grid.methods if name in found]


def _subject(grid: Grid, job: Job) -> Subject:
    [subject] = [one for one in grid.suite.data.load().subjects if one.name == job.subject]
    return first_images(subject, job.fit.settings.get(SUBJECT_IMAGES, len(subject.images)))


def _decisive(grid: Grid, job: Job) -> Sequence[Any]:
    """What of a job decides how much memory it takes: not the words that stand in its texts."""
    method, subject = grid.suite.method(job.method), _subject(grid, job)
    read: Sequence[str] = getattr(method, "texts", lambda *_: [])(subject, job.requests)
    words = {word for text in read for word in text.split()}
    settings = {k: v for k, v in sorted(job.fit.settings.items()) if v not in list(words)}
    return type(method), method.prior(subject) is None, settings
