"""One job of a plan: fit, generate, score, and write what came out.

workplace = Workplace(suite, RunDirectory(Path("runs/trial")))
record = run_job(job, workplace, progress=lambda done, steps: None)
"""

from __future__ import annotations

import functools
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import REAL, SUBJECT_IMAGES, Metric, Request, Subject
from benchmark.config import registry as plugins
from benchmark.config.suite import Suite
from benchmark.data.dataset import first_images, read_image
from benchmark.models.sampling import Sampler
from benchmark.runs.plan import load_metrics
from benchmark.store.directory import RunDirectory, provenance
from benchmark.store.records import Job, JobRecord, Score

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.models.stable_diffusion import Backbone
    from benchmark.scoring.features import Encoders

#: Called with (steps done, steps in all) as a fit goes on.
StepListener = Callable[[int, int], None]

_LOSSES = 40  #: at most so many points of a term's losses are kept


@dataclass
class Workplace:
    """What a worker loads once, at first use, and keeps between its jobs."""

    suite: Suite
    directory: RunDirectory

    @functools.cached_property
    def subjects(self) -> dict[str, Subject]:
        return {subject.name: subject for subject in self.suite.data.load().subjects}

    @functools.cached_property
    def backbone(self) -> Backbone:
        load = plugins.load("backbones", self.suite.backbone.kind)
        return load(
            self.suite.backbone.model,
            **self.suite.backbone.options(),
            device="auto",
            sampler=Sampler(**self.suite.sampler.model_dump()),
            prior_directory=self.directory.path / "prior",
        )

    @functools.cached_property
    def encoders(self) -> Encoders:
        import torch

        from benchmark.scoring.features import load_encoders

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_encoders(self.suite.encoder_tables(), device=device)

    @functools.cached_property
    def metrics(self) -> dict[str, Metric]:
        return load_metrics(self.suite.protocol)


@dataclass
class Pace:
    """Passes a fit's steps on, measures them from the end of the first one, and keeps its losses.

    So neither what goes before them (the prior images, the VAE) counts in the pace, nor what only
    the first step has to do.
    """

    listen: StepListener
    _seen: list[tuple[int, float]] = field(default_factory=list)  # the first and the last step
    _told: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def __call__(self, done: int, steps: int, *, losses: Mapping[str, float] | None = None) -> None:
        self._seen[1:] = [(done, time.perf_counter())]
        for term, loss in (losses or {}).items():
            if math.isfinite(loss):
                self._told.setdefault(term, []).append((done, float(loss)))
        self.listen(done, steps)

    @property
    def steps_per_second(self) -> float | None:
        """None if there were fewer than two steps."""
        if len(self._seen) < 2:
            return None
        (first, start), (last, end) = self._seen
        return (last - first) / (end - start) if end > start else None

    @property
    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """As a record has them: to 4 digits, and of a term told more often, means of several."""
        kept = {}
        for term, told in self._told.items():
            size = math.ceil(len(told) / _LOSSES)
            parts = [told[i : i + size] for i in range(0, len(told), size)]
            means = [(part[-1][0], fmean(loss for _, loss in part)) for part in parts]
            kept[term] = [(step, float(f"{mean:.4g}")) for step, mean in means]
        return kept


def run_job(job: Job, workplace: Workplace, *, progress: StepListener) -> JobRecord:
    """Fit, generate, score, and write the job's files, its record last.

    Raises whatever the method raises; the backbone's pristine weights are put back in any case.
    """
    method = workplace.suite.method(job.method)
    subject = workplace.subjects[job.subject]
    backbone, _ = workplace.backbone, workplace.encoders  # load both before the clock starts
    requests = job.requests(prompted=method.prompted, references=len(subject.images))
    _start_alike(job.seed)
    pace = Pace(progress)
    times = [time.perf_counter()]
    try:
        learned = first_images(subject, job.settings.get(SUBJECT_IMAGES, len(subject.images)))
        generate = method.fit(learned, backbone, seed=job.seed, progress=pace)
        times.append(time.perf_counter())
        images = pixels(generate(requests))
        times.append(time.perf_counter())
    finally:
        backbone.restore()
    times.append(time.perf_counter())
    scores = score(job, subject, requests, images, workplace)
    times.append(time.perf_counter())
    paths = [workplace.directory.image_path(job, request) for request in requests]
    record = JobRecord(
        key=job.key,
        job=asdict(job),
        provenance=provenance()
        | _device_provenance(backbone)
        | {"metrics": {name: metric.version for name, metric in workplace.metrics.items()}},
        train_seconds=times[1] - times[0],
        sample_seconds=times[2] - times[1],
        score_seconds=times[4] - times[3],
        peak_memory_mb=_peak_memory_mb(),
        images=len(images),
        files={path: _text(r, subject) for path, r in zip(paths, requests, strict=True)},
        steps_per_second=pace.steps_per_second,
        losses=pace.losses,
    )
    workplace.directory.write_job(record, job, dict(zip(paths, images, strict=True)), scores)
    return record


def pixels(images: Sequence[Tensor] | Tensor) -> list[np.ndarray]:
    """n images, (3, h, w) in [0, 1], as (h, w, 3) uint8: a batch, or a list of different sizes.

    What is scored is what is kept. Raises ValueError for other shapes and values, NaN included.
    """
    from benchmark.scoring.encoders import as_pixels

    return [as_pixels(image[None])[0] for image in images]


def score(
    job: Job,
    subject: Subject,
    requests: Sequence[Request],
    images: Sequence[np.ndarray],
    workplace: Workplace,
) -> list[Score]:
    """One score per image, (h, w, 3) uint8, and metric that applies to it, as the protocol scales.

    Raises ValueError if a metric returns a number that is not finite.
    """
    from benchmark.scoring.features import features

    suite, metrics = workplace.suite, workplace.metrics
    group = features(
        workplace.encoders,
        requests,
        images,
        [read_image(path) for path in subject.images],
        phrase=suite.caption_phrase(subject),
        counted=suite.protocol.reference_indices(subject),
    )
    values = {name: metric(group) for name, metric in metrics.items()}
    scores = []
    for i, request in enumerate(requests):
        for name in metrics:
            if i not in values[name]:
                continue
            value = suite.protocol.scaled(name, float(values[name][i]))
            if not math.isfinite(value):
                raise ValueError(f"metric '{name}' gave {value} for image {i} of {job.label}")
            scores.append(
                Score(
                    method=job.method,
                    subject=job.subject,
                    prompt=request.prompt.template,
                    prompt_kind=request.prompt.kind,
                    sample=request.index,
                    seed=job.seed,
                    metric=name,
                    value=value,
                    protocol=job.protocol,
                )
            )
    return scores


def _text(request: Request, subject: Subject) -> str:
    if request.prompt.kind == REAL:
        return subject.images[request.index].name
    return request.prompt.text(subject.class_noun)


def _start_alike(seed: int) -> None:
    """Make the job independent of what ran before it in this process."""
    import torch

    # Methods should have generators of their own; one that has not still repeats itself.
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux: the process's peak (getrusage) begins anew
        Path("/proc/self/clear_refs").write_text("5")


def _device_provenance(backbone: Backbone) -> dict[str, Any]:
    import torch

    cuda = backbone.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(backbone.device) if cuda else "cpu",
        "precision": backbone.precision,
        "threads": torch.get_num_threads(),
    }


def _peak_memory_mb() -> float:
    """Since the job began: of the device on CUDA, else of the process.

    Of the process since it began where that cannot be told (off Linux).
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
