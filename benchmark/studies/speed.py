"""How near training, sampling and scoring come to the bare modules: `python -m benchmark speed`.

"Bare" is nothing but the same calls of the same modules (forward, and in training backward and
optimiser step) on tensors that lie ready: no prompts, no drawing of images and noise, no scheduler,
no preprocessing, no cache. Both are measured in one process and by turns, so that a busy machine
slows them alike.

    print(speed_table(measure(load_suite("pocket"))))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.api import PRIOR_PROMPT, Backbone, Method, Request, Subject, UserError
from benchmark.config.registry import configure, settings_of
from benchmark.report.markdown import markdown_table

if TYPE_CHECKING:
    import torch

    from benchmark.config.suite import Suite

PRECISIONS = ("fp32", "bf16")
GOAL = 0.95  #: of the bare modules' speed
WARM_STEPS, STEPS = 3, 20  #: training steps before the clock starts, and under it
IMAGES = 8  #: that one measurement samples, and that stand in for prior images

Seconds = Callable[[], float]  #: does a fixed amount of work and says what it took


@dataclass(frozen=True)
class Race:
    """The same amount of work, done the suite's way and by the bare modules."""

    what: str
    unit: str
    amount: int  #: units of work in one measurement
    ours: Seconds
    bare: Seconds


def measure(
    suite: Suite, method: str = "", *, device: str = "auto", repetitions: int = 5
) -> pd.DataFrame:
    """Columns what, precision, unit, ours, bare (units a second, medians) and ratio.

    `ratio` is the median over the repetitions of ours / bare, each taken from two neighbouring
    measurements. `method` is trained, by default the first that the suite has settings for. On a
    CPU one thread is used, as by a run's workers. Scoring is always in fp32. Raises UserError if
    an encoder of the protocol is missing, or the method trains no module of the backbone.
    """
    from benchmark.data.dataset import verify
    from benchmark.models.precision import resolve_device
    from benchmark.scoring.scorer import scoring_of

    name = method or next(iter(suite.methods))
    trained = suite.method(name)
    scoring_of(suite.protocol, directory=suite.encoders)  # what is missing is named at once
    dataset = suite.data.load()
    subject = dataset.subjects[0]
    verify(dataset, [subject])
    requests = [Request(p, 0, i) for i, p in enumerate(dataset.prompts_for(subject))]
    rows = []
    for precision in PRECISIONS:
        backbone = suite.backbone.load_kind().load(
            suite.backbone.model,
            sampler=suite.sampler.sampler(),
            precision=precision,
            device=resolve_device(device),
            resolution=suite.backbone.resolution,
        )
        with _one_thread(backbone.device):
            races = [
                _training(name, trained, backbone, subject),
                _sampling(backbone, subject, requests),
            ]
            if precision == PRECISIONS[0]:
                races.append(_scoring(suite, backbone, subject, requests))
            rows += [_row(race, precision, repetitions) for race in races]
    return pd.DataFrame(rows)


def speed_table(measured: pd.DataFrame) -> str:
    """What `measure` found, as a Markdown table."""
    rows = [
        [
            f"{row.what}, {row.precision}",
            f"{row.ours:.2f} {row.unit}/s",
            f"{row.bare:.2f} {row.unit}/s",
            f"{row.ratio:.3f}",
            "reached" if row.ratio >= GOAL else "missed",
        ]
        for row in measured.itertuples()
    ]
    return markdown_table(["", "ours", "bare modules", "ratio", f"goal {GOAL}"], rows)


def _row(race: Race, precision: str, repetitions: int) -> dict[str, object]:
    race.ours(), race.bare()
    times = [(race.ours(), race.bare()) for _ in range(repetitions)]
    return {
        "what": race.what,
        "precision": precision,
        "unit": race.unit,
        "ours": race.amount / median(ours for ours, _ in times),
        "bare": race.amount / median(bare for _, bare in times),
        "ratio": median(bare / ours for ours, bare in times),
    }


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _now(device: torch.device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _timed(device: torch.device, work: Callable[[], object]) -> Seconds:
    def seconds() -> float:
        start = _now(device)
        work()
        return _now(device) - start

    return seconds


def _training(name: str, method: Method, backbone: Backbone, subject: Subject) -> Race:
    """Steps of the suite's method, prior preservation included."""
    from benchmark.models.loan import Loan

    loan, device = Loan(backbone), backbone.device

    def ours() -> float:
        times = {}

        def listen(done: int, _steps: int) -> None:
            if done in (WARM_STEPS, WARM_STEPS + STEPS):
                times[done] = _now(device)

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

    return Race(f"training {name}", "steps", STEPS, ours, bare)


def _fit(
    name: str,
    method: Method,
    backbone: Backbone,
    subject: Subject,
    steps: int,
    listen: Callable[[int, int], None],
) -> None:
    """Train for `steps`, with noise for prior images."""
    import torch

    from benchmark.runs.tools import JobTools, Pace

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
    import torch

    from benchmark.models.precision import autocast
    from benchmark.studies.bare_modules import recorded

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
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _trained_while(
    modules: Sequence[torch.nn.Module], fit: Callable[[Callable[[int, int], None]], None]
) -> list[torch.nn.Module]:
    """Those of `modules` that want gradients at a step of `fit`."""
    found: list[torch.nn.Module] = []

    def listen(_done: int, _steps: int) -> None:
        found[:] = [m for m in modules if any(p.requires_grad for p in m.parameters())]

    fit(listen)
    return found


def _sampling(backbone: Backbone, subject: Subject, requests: Sequence[Request]) -> Race:
    """A batch of images by the suite's sampler; bare: its denoising passes and one decoding."""
    import torch

    from benchmark.models.precision import autocast
    from benchmark.studies.bare_modules import recorded

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
    def bare() -> None:
        with autocast(backbone.device, backbone.precision):
            for call in calls:
                given = call.tensor()
        given.cpu()

    device = backbone.device
    return Race("sampling", "images", IMAGES, _timed(device, ours), _timed(device, bare))


def _scoring(
    suite: Suite, backbone: Backbone, subject: Subject, requests: Sequence[Request]
) -> Race:
    """All scores of one job; bare: the encoders' forward passes over its generated images.

    Texts and references are encoded once for all jobs of a subject, and so before the clock starts.
    """
    import numpy as np
    import torch

    from benchmark.scoring.scorer import load_scorer
    from benchmark.studies.bare_modules import recorded

    scorer = load_scorer(suite.protocol, directory=suite.encoders, device=backbone.device.type)
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
        scorer.score(
            ("speed", subject.name, 0),
            subject,
            repeated,
            images,
            identifier=suite.backbone.identifier,
        )

    score()
    models = [
        part
        for encoder in scorer.encoders.loaded.values()
        for part in vars(encoder).values()
        if isinstance(part, torch.nn.Module)
    ]
    with recorded(models) as calls:
        score()

    @torch.inference_mode()
    def bare() -> None:
        for call in calls:
            call()

    device = backbone.device
    return Race("scoring", "images", len(repeated), _timed(device, score), _timed(device, bare))
