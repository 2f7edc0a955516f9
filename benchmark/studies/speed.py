"""How near training, sampling and scoring come to the bare modules: `python -m benchmark speed`.

"Bare" is nothing but forward, backward and optimiser step of the same modules on tensors that lie
ready: no prompts, no drawing of images and noise, no scheduler, no preprocessing, no cache. Both
are measured in one process and by turns, so that a busy machine slows them alike.

    print(speed_table(measure(load_suite("pocket"))))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.api import PRIOR_PROMPT, Request, Subject
from benchmark.config import registry as plugins
from benchmark.models.sampling import Sampler
from benchmark.report.markdown import markdown_table

if TYPE_CHECKING:
    from benchmark.config.suite import Suite
    from benchmark.models.stable_diffusion import Backbone

PRECISIONS = ("fp32", "bf16")
GOAL = 0.95  #: of the bare modules' speed
WARM_STEPS, STEPS = 3, 20  #: training steps before the clock starts, and under it
IMAGES = 8  #: that one measurement samples

Seconds = Callable[[], float]  #: does a fixed amount of work and says what it took


@dataclass(frozen=True)
class Race:
    """The same amount of work, done the suite's way and by the bare modules."""

    what: str
    unit: str
    amount: int  #: units of work in one measurement
    ours: Seconds
    bare: Seconds


def measure(suite: Suite, *, device: str = "auto", repetitions: int = 5) -> pd.DataFrame:
    """Columns what, precision, unit, ours, bare (units a second, medians) and ratio.

    `ratio` is the median over the repetitions of ours / bare, each taken from two neighbouring
    measurements. On a CPU one thread is used, as by a run's workers. Scoring is always in fp32.
    Raises UserError if an encoder of the protocol is missing.
    """
    from benchmark.data.dataset import verify
    from benchmark.models.identity import identify

    identify(suite.encoder_tables())  # what is missing is named before anything is measured
    dataset = suite.data.load()
    subject = dataset.subjects[0]
    verify(dataset, [subject])
    requests = [Request(p, 0, i) for i, p in enumerate(dataset.prompts_for(subject))]
    rows = []
    for precision in PRECISIONS:
        backbone = plugins.load("backbones", suite.backbone.kind)(
            suite.backbone.model,
            **suite.backbone.options() | {"precision": precision},
            device=device,
            sampler=Sampler(**suite.sampler.model_dump()),
        )
        with _one_thread(backbone):
            races = [_training(suite, backbone, subject), _sampling(backbone, subject, requests)]
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
def _one_thread(backbone: Backbone) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    if backbone.device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _now(backbone: Backbone) -> float:
    import torch

    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter()


def _timed(backbone: Backbone, work: Callable[[], object]) -> Seconds:
    def seconds() -> float:
        start = _now(backbone)
        work()
        return _now(backbone) - start

    return seconds


def _training(suite: Suite, backbone: Backbone, subject: Subject) -> Race:
    """Steps of the suite's DreamBooth, prior preservation included."""
    short = {"steps": WARM_STEPS + STEPS, "prior_images": IMAGES, "prior_steps": 2}
    method = plugins.configure("dreambooth", suite.method("dreambooth"), short)
    settings = plugins.settings_of(method)

    def ours() -> float:
        times = {}

        def progress(done: int, _steps: int, *, losses: object = None) -> None:
            if done in (WARM_STEPS, WARM_STEPS + STEPS):
                times[done] = _now(backbone)

        try:
            method.fit(subject, backbone, seed=0, progress=progress)
        finally:
            backbone.restore()
        return times[WARM_STEPS + STEPS] - times[WARM_STEPS]

    def bare() -> float:
        step = _bare_step(backbone, settings)
        try:
            for _ in range(WARM_STEPS):
                step()
            return _timed(backbone, lambda: [step() for _ in range(STEPS)])()
        finally:
            backbone.restore()

    return Race("training DreamBooth", "steps", STEPS, ours, bare)


def _bare_step(backbone: Backbone, settings: dict[str, Any]) -> Callable[[], None]:
    """One forward, backward and optimiser step, clipping included, on tensors that lie ready."""
    import torch

    batch = settings["batch_size"] * (2 if settings["prior_weight"] else 1)
    unet, text_encoder, device = backbone.unet, backbone.text_encoder, backbone.device
    size, length = unet.config.sample_size, backbone.tokenizer.model_max_length
    latents = torch.randn(batch, unet.config.in_channels, size, size, device=device)
    timesteps = torch.randint(1000, (batch,), device=device)
    ids = torch.ones(batch, length, dtype=torch.long, device=device)
    conditions = backbone.encode_prompts(["a"] * batch)
    trained = [unet, text_encoder] if settings["train_text_encoder"] else [unet]
    parameters = [p for module in trained for p in module.train().requires_grad_(True).parameters()]
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)

    def step() -> None:
        with backbone.autocast():
            given = text_encoder(ids)[0] if len(trained) == 2 else conditions
            predicted = unet(latents, timesteps, given, return_dict=False)[0]
        predicted.float().square().mean().backward()
        if settings["max_grad_norm"]:
            torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _sampling(backbone: Backbone, subject: Subject, requests: Sequence[Request]) -> Race:
    """A batch of images by the suite's sampler; bare: its U-Net passes and one decoding."""
    import torch

    texts = [requests[i % len(requests)].prompt.text(subject.class_noun) for i in range(IMAGES)]
    scheduler = backbone.sampler.build(backbone.noise_scheduler.config)
    scheduler.set_timesteps(backbone.sampler.steps)
    timesteps = scheduler.timesteps.to(backbone.device)
    rows = IMAGES * (2 if backbone.sampler.guidance > 1 else 1)
    size = backbone.unet.config.sample_size
    shape = (rows, backbone.unet.config.in_channels, size, size)
    latents = torch.randn(shape, device=backbone.device)
    conditions = backbone.encode_prompts([texts[i % IMAGES] for i in range(rows)]).detach()

    @torch.no_grad()
    def bare() -> None:
        with backbone.autocast():
            for timestep in timesteps:
                backbone.unet(latents, timestep, conditions, return_dict=False)
            backbone.vae.decode(latents[:IMAGES], return_dict=False)[0].cpu()

    seeds = list(range(IMAGES))
    ours = _timed(backbone, lambda: backbone.sample(texts, seeds, batch=IMAGES))
    return Race("sampling", "images", IMAGES, ours, _timed(backbone, bare))


def _scoring(
    suite: Suite, backbone: Backbone, subject: Subject, requests: Sequence[Request]
) -> Race:
    """All scores of one job; bare: the encoders' forward passes over its generated images.

    Texts and references are encoded once for all jobs of a subject, and so before the clock starts.
    """
    import numpy as np
    import torch

    from benchmark.data.dataset import read_image
    from benchmark.runs.plan import load_metrics
    from benchmark.scoring.encoders import BATCH
    from benchmark.scoring.features import features, load_encoders

    encoders = load_encoders(suite.encoder_tables(), device=backbone.device)
    metrics = load_metrics(suite.protocol)
    references = [read_image(path) for path in subject.images]
    repeated = [
        Request(request.prompt, index, 0)
        for request in requests
        for index in range(suite.evaluation.images_per_prompt)
    ]
    repeated += [Request(PRIOR_PROMPT, i, 0) for i in range(suite.evaluation.prior_prompt_images)]
    random = np.random.default_rng(0)
    shape = (len(repeated), backbone.resolution, backbone.resolution, 3)

    def ours() -> float:
        images = list(random.integers(0, 256, shape, np.uint8))  # never seen: nothing is cached

        def score() -> None:
            group = features(
                encoders, repeated, images, references, phrase=suite.caption_phrase(subject)
            )
            for metric in metrics.values():
                metric(group)

        return _timed(backbone, score)()

    pixels = list(random.integers(0, 256, shape, np.uint8))
    passes = [
        (_forward(name, model), model.preprocessing(pixels).to(backbone.device).split(BATCH))
        for name, model in encoders.models.items()
    ]

    @torch.inference_mode()
    def bare() -> None:
        for forward, ready in passes:
            for batch in ready:
                forward(batch)

    return Race("scoring", "images", len(repeated), ours, _timed(backbone, bare))


def _forward(name: str, model: Any) -> Callable[[Any], object]:
    """What an encoder does to a preprocessed batch of images."""
    if name == "clip":
        return model.model.encode_image
    return model.bare if name == "lpips" else model.model
