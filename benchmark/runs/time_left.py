"""How long tasks take: as those alike took, else by the suite's `[estimate]`.

forecast = Forecast(grid.suite)
forecast.learn_job(record); forecast.seconds(work)
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from benchmark.api import TRAINING
from benchmark.config.registry import load_method
from benchmark.config.suite import Suite
from benchmark.models.diffusion.sampling import passes
from benchmark.runs.agenda import Work
from benchmark.store.records import Job, JobRecord, Prior, PriorRecord, ScoreRecord


class Forecast:
    """Seconds of tasks, from those of the same method, the same prior images, the same metrics."""

    def __init__(self, suite: Suite) -> None:
        self._rates, self._sampler = suite.estimate, suite.sampler.sampler()
        self._capabilities = suite.backbone.load_kind().capabilities(suite.backbone.model)
        self._fits: dict[str, list[float]] = {}  # method -> seconds of each fit
        self._draws: dict[str, list[float]] = {}  # method -> seconds an image
        self._scores: list[float] = []  # seconds an image
        self._priors: list[float] = []  # seconds a pass through the model

    def learn_job(self, record: JobRecord) -> None:
        """Take a finished job's images into account."""
        self._fits.setdefault(record.job.method, []).append(record.phases.fit)
        each = record.phases.draw / max(1, record.drawn)
        self._draws.setdefault(record.job.method, []).append(each)

    def learn_prior(self, record: PriorRecord) -> None:
        """Take finished prior images into account."""
        self._priors.append(record.seconds / self._passes(record.prior))

    def learn_scores(self, seconds: float, images: int) -> None:
        """Take finished scores into account."""
        self._scores.append(seconds / max(1, images))

    def learn_existing(
        self,
        jobs: Iterable[JobRecord],
        scores: Iterable[ScoreRecord],
        priors: Iterable[PriorRecord],
    ) -> None:
        """Take what a run directory holds into account."""
        images = {}
        for record in jobs:
            if record.images:  # else it is to be done again
                self.learn_job(record)
            images[record.job.name] = len(record.images)
        for scored in scores:
            self.learn_scores(scored.seconds, images[scored.name])
        for prior in priors:
            self.learn_prior(prior)

    def total(self, works: Iterable[Work]) -> float | None:
        """Seconds for all of `works`, one after the other; None if one of them is unknown."""
        total = 0.0
        for work in works:
            if (seconds := self.seconds(work)) is None:
                return None
            total += seconds
        return total

    def seconds(self, work: Work) -> float | None:
        """Seconds for `work`; None if nothing says."""
        if isinstance(work.task, Prior):
            return self._prior(work.task)
        fit = self._fit(work.task) if work.fits else 0.0
        image = self._image(work.task) if work.draws else 0.0
        if fit is None or image is None:
            return None
        return fit + work.draws * image + work.scores * (_mean(self._scores) or 0.0)

    def _fit(self, job: Job) -> float | None:
        taken = _mean(self._fits.get(job.method, []))
        if taken is not None or self._rates is None:
            return taken
        if job.fit.backbone is None:
            return 0.0
        if "steps" in job.fit.settings:
            return job.fit.settings["steps"] * self._rates.train_step_seconds
        return None if TRAINING in load_method(job.fit.method).needs else 0.0

    def _image(self, job: Job) -> float | None:
        """Without a backbone, an image costs the method's `steps`, each as one of a training."""
        taken = _mean(self._draws.get(job.method, []))
        if taken is not None or self._rates is None:
            return taken
        if job.fit.backbone is None and "steps" in job.fit.settings:
            return job.fit.settings["steps"] * self._rates.train_step_seconds
        return self._rates.image_seconds

    def _prior(self, prior: Prior) -> float | None:
        taken = _mean(self._priors)
        if taken is None and self._rates is not None:
            taken = self._rates.image_seconds / passes(self._sampler, self._capabilities)
        return None if taken is None else taken * self._passes(prior)

    def _passes(self, prior: Prior) -> int:
        return prior.count * passes(prior.sampler, self._capabilities)


def _mean(seconds: list[float]) -> float | None:
    return fmean(seconds) if seconds else None
