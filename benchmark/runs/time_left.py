"""How long tasks take: as those alike took, else as others did, else by the suite's `[estimate]`.

forecast = Forecast(grid.suite)
forecast.learn_job(record); forecast.seconds(work)

What nothing of its kind tells is scaled from what does: by images in training steps, by passes
through the model, and by how this machine compares with the one that `[estimate]` was measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from benchmark.api import TRAINING
from benchmark.config.registry import load_method
from benchmark.config.suite import Suite
from benchmark.models.diffusion.sampling import passes
from benchmark.runs.agenda import Work
from benchmark.store.records import Job, JobRecord, Prior, PriorRecord, ScoreRecord

#: Passes through the model that an image of a training step costs: forward, and twice that back.
_TRAINED = 3


@dataclass(frozen=True)
class Parts:
    """Seconds of a task's phases; a prior image's are those of `draw`."""

    fit: float = 0.0
    draw: float = 0.0
    score: float = 0.0

    @property
    def total(self) -> float:
        return self.fit + self.draw + self.score


@dataclass(frozen=True)
class _Taken:
    """What was done, in units of its kind: seconds, and those that it takes by the suite."""

    seconds: float
    units: float
    rated: float | None

    @property
    def each(self) -> float:
        return self.seconds / max(1, self.units)


class Forecast:
    """Seconds of tasks, from those of the same method, the same prior images, the same metrics."""

    def __init__(self, suite: Suite) -> None:
        self._rates, self._sampler = suite.estimate, suite.sampler.sampler()
        self._capabilities = suite.backbone.load_kind().capabilities(suite.backbone.model)
        self._fits: dict[str, list[_Taken]] = {}  # by method, each of a job
        self._draws: dict[str, list[_Taken]] = {}  # by method, each of a job's images
        self._priors: list[_Taken] = []
        self._scores: list[float] = []  # seconds an image
        self._paces: dict[str, _Taken] = {}  # by method, a fit as it goes by now

    @property
    def measured(self) -> bool:
        """Whether anything that was done here tells."""
        return bool(self._fits or self._draws or self._priors)

    def learn_job(self, record: JobRecord) -> None:
        """Take a finished job's images into account."""
        job, phases, drawn = record.job, record.phases, max(1, record.drawn)
        fit = _Taken(phases.fit, _units(job) or 0, self._rated_fit(job))
        self._fits.setdefault(job.method, []).append(fit)
        rated = self._rated_image(job)
        image = _Taken(phases.draw, drawn, None if rated is None else rated * drawn)
        self._draws.setdefault(job.method, []).append(image)

    def learn_prior(self, record: PriorRecord) -> None:
        """Take finished prior images into account."""
        prior = record.prior
        rated = self._rated_prior(prior)
        self._priors.append(_Taken(record.seconds, self._passes(prior), rated))

    def learn_scores(self, seconds: float, images: int) -> None:
        """Take finished scores into account."""
        self._scores.append(seconds / max(1, images))

    def learn_pace(self, job: Job, seconds: float) -> None:
        """Take into account that a fit goes at a pace of so many seconds for the whole of it."""
        self._paces[job.method] = _Taken(seconds, _units(job) or 0, self._rated_fit(job))

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
        parts = self.parts(work)
        return None if parts is None else parts.total

    def parts(self, work: Work) -> Parts | None:
        """Seconds for the phases of `work`; None if nothing says."""
        if isinstance(work.task, Prior):
            drawn = self._prior(work.task)
            return None if drawn is None else Parts(draw=drawn)
        fit = self._fit(work.task) if work.fits else 0.0
        image = self._image(work.task) if work.draws else 0.0
        if fit is None or image is None:
            return None
        score = fmean(self._scores) if self._scores else 0.0
        return Parts(fit, work.draws * image, work.scores * score)

    def _fit(self, job: Job) -> float | None:
        if taken := self._fits.get(job.method):
            return fmean(one.seconds for one in taken)
        if job.method in self._paces:
            return self._paces[job.method].seconds
        if (units := _units(job)) is None or not units:
            return units
        if (each := _each(self._all_fits)) is not None:
            return units * each
        if (rated := self._rated_fit(job)) is not None:
            return rated * self._slowness
        passed = _each(self._priors)
        return None if passed is None else units * _TRAINED * passed

    def _image(self, job: Job) -> float | None:
        if taken := self._draws.get(job.method):
            return fmean(one.each for one in taken)
        if (rated := self._rated_image(job)) is not None:
            return rated * self._slowness
        passed = _each(self._priors)
        if passed is not None and job.fit.backbone is not None:
            return passes(self._sampler, self._capabilities) * passed
        return _each(self._all_draws)

    def _prior(self, prior: Prior) -> float | None:
        if (passed := _each(self._priors)) is not None:
            return self._passes(prior) * passed
        rated = self._rated_prior(prior)
        return None if rated is None else rated * self._slowness

    @property
    def _all_fits(self) -> list[_Taken]:
        """Of methods without a finished one, as one goes by now."""
        going = [pace for method, pace in self._paces.items() if method not in self._fits]
        return [*going, *(one for taken in self._fits.values() for one in taken)]

    @property
    def _all_draws(self) -> list[_Taken]:
        return [one for taken in self._draws.values() for one in taken]

    @property
    def _slowness(self) -> float:
        """How many times as long as by the suite's figures it has taken here so far."""
        taken = [one for one in (*self._all_fits, *self._all_draws, *self._priors) if one.rated]
        rated = sum(one.rated or 0.0 for one in taken)
        return sum(one.seconds for one in taken) / rated if rated else 1.0

    def _rated_fit(self, job: Job) -> float | None:
        units = _units(job)
        if self._rates is None or units is None:
            return None
        return units * self._rates.train_step_seconds / self._rates.train_images

    def _rated_image(self, job: Job) -> float | None:
        """Without a backbone, an image costs the method's `steps`, each as one of a training."""
        if self._rates is None:
            return None
        if job.fit.backbone is None and "steps" in job.fit.settings:
            steps: int = job.fit.settings["steps"]
            return steps * self._rates.train_step_seconds / self._rates.train_images
        return self._rates.image_seconds

    def _rated_prior(self, prior: Prior) -> float | None:
        if self._rates is None:
            return None
        own = passes(self._sampler, self._capabilities)
        return self._passes(prior) * self._rates.image_seconds / own

    def _passes(self, prior: Prior) -> int:
        return prior.count * passes(prior.sampler, self._capabilities)


def _each(taken: Iterable[_Taken]) -> float | None:
    """Seconds a unit over all of `taken`; None if there is nothing in it."""
    counted = [one for one in taken if one.units]
    units = sum(one.units for one in counted)
    return sum(one.seconds for one in counted) / units if units else None


def _units(job: Job) -> int | None:
    """The images of all training steps of a fit, prior images among them; None: it does not say."""
    if job.fit.backbone is None:
        return 0
    settings = job.fit.settings
    if "steps" not in settings:
        return None if TRAINING in load_method(job.fit.method).needs else 0
    batch: int = settings["steps"] * settings.get("batch_size", 1)
    return batch * (2 if job.fit.prior is not None else 1)
