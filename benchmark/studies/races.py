"""The same work done the suite's way and by the bare modules, to be timed by turns.

race = sampling_race(backbone, subject, requests)
sum(part.seconds() for part in race.bare) / race.ours()     # 1 where nothing is lost
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmark.api import PRIOR_PROMPT, Backbone, Method, Request, Subject, UserError
from benchmark.config.method_checks import settings_of
from benchmark.config.registry import configure
from benchmark.config.suite import Suite
from benchmark.models.lending.loan import Loan
from benchmark.models.precision import autocast
from benchmark.runs.tools import JobTools, Pace
from benchmark.scoring.scorer import load_scorer
from benchmark.studies.bare_modules import Call, recorded
from benchmark.studies.flops import count_flops, now

WARM_STEPS, STEPS = 2, 10  #: training steps before the clock starts, and under it
IMAGES = 8  #: that one measurement samples, and that stand in for prior images

Seconds = Callable[[], float]  #: does a fixed amount of work and says what it took


@dataclass(frozen=True)
class Part:
    """What bare modules do, on tensors that lie ready."""

    what: str
    images: int | None  #: that it is done for; None: it cannot be seen
    flops: int
    times: int  #: that it is done in one measurement
    seconds: Seconds  #: of all these times


@dataclass(frozen=True)
class Race:
    """The same amount of work, done the suite's way and by the bare modules, part by part."""

    what: str
    unit: str
    amount: int  #: units of work in one measurement
    ours: Seconds
    bare: Sequence[Part]


def _timed(device: torch.device, work: Callable[[], object]) -> Seconds:
    def seconds() -> float:
        start = now(device)
        work()
        return now(device) - start

    return seconds


def training_race(name: str, method: Method, backbone: Backbone, subject: Subject) -> Race:
    """Steps of the suite's method, prior preservation included."""
    loan, device = Loan(backbone), backbone.device

    def ours() -> float:
        times = {}

        def listen(done: int, _steps: int) -> None:
            if done in (WARM_STEPS, WARM_STEPS + STEPS):
                times[done] = now(device)

        try:
            _fit(name, method, backbone, subject, WARM_STEPS + STEPS, listen)
        finally:
            loan.settle(thorough=False)
        return times[WARM_STEPS + STEPS] - times[WARM_STEPS]

    def bare() -> float:
        try:
            step = _bare_step(name, method, backbone, subject)
            for _ in range(WARM_STEPS):
                step()
            return _timed(device, lambda: [step() for _ in range(STEPS)])()
        finally:
            loan.settle(thorough=False)

    try:
        step = _bare_step(name, method, backbone, subject)
        denoisers = [stage.denoiser for stage in backbone.stages]
        with recorded(denoisers) as calls:
            flops = count_flops(step)
    finally:
        loan.settle(thorough=False)
    part = Part("training step", _images(calls, denoisers), flops, STEPS, bare)
    return Race(f"training {name}", "steps", STEPS, ours, [part])


def _images(calls: Sequence[Call], denoisers: Sequence[nn.Module]) -> int | None:
    """The rows that `denoisers` were given in all; None if only parts of them were called."""
    if not calls or not all(call.module in denoisers for call in calls):
        return None
    return sum(call.rows for call in calls)


def _fit(
    name: str,
    method: Method,
    backbone: Backbone,
    subject: Subject,
    steps: int,
    listen: Callable[[int, int], None],
) -> None:
    """Train for `steps`, with noise for prior images."""
    method = configure(name, method, {"steps": steps})
    prepared = {}
    if method.prior(subject) is not None:
        prepared = {
            stage.name: stage.prepare(torch.rand(IMAGES, 3, stage.resolution, stage.resolution))
            for stage in backbone.stages
        }
    method.fit(subject, backbone, JobTools(0, subject, Pace(listen), prepared))


def _bare_step(
    name: str, method: Method, backbone: Backbone, subject: Subject
) -> Callable[[], None]:
    """One forward, backward and optimiser step, clipping included, on tensors that lie ready."""
    modules = [*(stage.denoiser for stage in backbone.stages), *backbone.text_encoders.values()]
    with recorded(modules, when=torch.is_grad_enabled) as calls:
        trained = _trained_while(
            modules, lambda listen: _fit(name, method, backbone, subject, 1, listen)
        )
    if not trained:
        raise UserError(f"method '{name}' trains no module of the backbone: choose another one")
    parameters = [p for module in trained for p in module.train().requires_grad_(True).parameters()]
    optimiser = torch.optim.AdamW(parameters, fused=True)
    max_norm = settings_of(method).get("max_grad_norm")

    def step() -> None:
        with autocast(backbone.device, backbone.precision):
            given = [call.tensor() for call in calls]
        sum(tensor.float().square().mean() for tensor in given).backward()  # type: ignore[union-attr]
        if max_norm:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _trained_while(
    modules: Sequence[nn.Module], fit: Callable[[Callable[[int, int], None]], None]
) -> list[nn.Module]:
    """Those of `modules` that want gradients at a step of `fit`."""
    found: list[nn.Module] = []

    def listen(_done: int, _steps: int) -> None:
        found[:] = [m for m in modules if any(p.requires_grad for p in m.parameters())]

    fit(listen)
    return found


def sampling_race(backbone: Backbone, subject: Subject, requests: Sequence[Request]) -> Race:
    """A batch of images by the suite's sampler; bare: its denoising passes, and one decoding."""
    texts = [requests[i % len(requests)].prompt.text(subject.class_noun) for i in range(IMAGES)]
    seeds = list(range(IMAGES))

    @torch.no_grad()
    def ours() -> None:
        condition = backbone.encode(["", *texts])
        backbone.sample(condition[1:], seeds, unconditional=condition[:1])

    with torch.no_grad():
        condition = backbone.encode(["", *texts])
        with recorded(backbone.modules().values()) as calls:
            backbone.sample(condition[1:], seeds, unconditional=condition[:1])

    @torch.no_grad()
    def again(calls: Sequence[Call]) -> None:
        with autocast(backbone.device, backbone.precision):
            for call in calls:
                given = call.tensor()
        given.cpu()

    device = backbone.device
    bare = _parts("sampling", _by_module(calls, backbone.modules()), IMAGES, device, again)
    return Race("sampling", "images", IMAGES, _timed(device, ours), bare)


def _by_module(calls: Sequence[Call], modules: Mapping[str, nn.Module]) -> dict[str, list[Call]]:
    """The calls of each of `modules` that was called, in the order of the first ones."""
    names = {part: name for name, module in modules.items() for part in module.modules()}
    grouped: dict[str, list[Call]] = {}
    for call in calls:
        grouped.setdefault(names[call.module], []).append(call)
    return grouped


def _parts(
    what: str,
    grouped: Mapping[str, Sequence[Call]],
    images: int,
    device: torch.device,
    again: Callable[[Sequence[Call]], None],
) -> list[Part]:
    """A part for each of `grouped`, done by `again`; a single one is called `what`."""
    parts = []
    for name, calls in grouped.items():
        work = partial(again, calls)
        name = name if len(grouped) > 1 else what
        parts.append(Part(name, images, count_flops(work), 1, _timed(device, work)))
    return parts


def scoring_race(
    suite: Suite, backbone: Backbone, subject: Subject, requests: Sequence[Request]
) -> Race:
    """All scores of one job; bare: the encoders' forward passes over its generated images.

    Texts and references are encoded once for all jobs of a subject, and so before the clock starts.
    """
    scorer = load_scorer(
        suite.protocol,
        directory=suite.encoders,
        identifier=suite.backbone.identifier,
        device=backbone.device.type,
    ).among(suite.data.load().subjects)
    asked = suite.evaluation
    repeated = [
        Request(request.prompt, index, 0)
        for request in requests
        for index in range(asked.images_per_prompt)
    ]
    repeated += [Request(PRIOR_PROMPT, i, 0) for i in range(asked.prior_prompt_images)]
    random = np.random.default_rng(0)
    shape = (len(repeated), backbone.resolution, backbone.resolution, 3)

    def score() -> None:
        images = list(random.integers(0, 256, shape, np.uint8))  # never seen: nothing is cached
        scorer.score(("speed", subject.name, 0), subject, repeated, images)

    score()
    models = {
        name: nn.ModuleList(part for part in vars(encoder).values() if isinstance(part, nn.Module))
        for name, encoder in scorer.encoders.loaded.items()
    }
    with recorded(models.values()) as calls:
        score()

    @torch.inference_mode()
    def again(calls: Sequence[Call]) -> None:
        for call in calls:
            call()

    device = backbone.device
    bare = _parts("scoring", _by_module(calls, models), len(repeated), device, again)
    return Race("scoring", "images", len(repeated), _timed(device, score), bare)
