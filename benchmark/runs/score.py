"""Scores of images that lie in a run directory, whoever made them: no model is trained or sampled.

examiner = Examiner(Assessment.of(suite), directory)
examiner.score(record)      # -> scores/<protocol>/<method>/<subject>-s<seed>.csv and its record
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import BaseModel

from benchmark.api import Subject, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.suite import DataChoice, Suite
from benchmark.data.images import read_image
from benchmark.data.manifest import read_toml
from benchmark.store.directory import RunDirectory, score_rows
from benchmark.store.files import sha256
from benchmark.store.provenance import provenance
from benchmark.store.records import (
    ImageRecord,
    JobRecord,
    Score,
    ScoreRecord,
    Scoring,
    images_digest,
)

if TYPE_CHECKING:
    import numpy as np

    from benchmark.scoring.scorer import Scorer


@dataclass(frozen=True)
class Assessment:
    """Everything that scoring needs beside the images."""

    data: DataChoice
    identifier: str  #: the suite's, for captions that have it
    protocol: Protocol
    metrics: tuple[str, ...] = ()  #: beside the protocol's own
    encoders: str | None = None  #: where the protocol's encoders lie; else in the caches

    @classmethod
    def of(cls, suite: Suite, metrics: tuple[str, ...] = ()) -> Assessment:
        """As `suite` says."""
        identifier = suite.backbone.identifier
        return cls(suite.data, identifier, suite.protocol, metrics, suite.encoders)

    @classmethod
    def read(cls, suite: Path) -> Assessment:
        """As a run's suite.toml says. Raises UserError."""
        found = read_toml(suite, _ScoredSuite)
        identifier = found.backbone.identifier
        return cls(found.data, identifier, found.protocol, encoders=found.encoders)

    @functools.cached_property
    def scoring(self) -> Scoring:
        """What decides the scores. Raises UserError if they cannot be made."""
        from benchmark.scoring.scorer import scoring_of

        return scoring_of(self.protocol, metrics=self.metrics, directory=self.encoders)


class _Identifier(BaseModel):
    identifier: str


class _ScoredSuite(BaseModel):
    """What scoring reads of a suite: that of images from elsewhere has no more."""

    data: DataChoice
    backbone: _Identifier
    protocol: Protocol
    encoders: str | None = None


@dataclass
class Examiner:
    """Scores jobs; loads the encoders at first use and keeps them."""

    assessment: Assessment
    directory: RunDirectory

    @functools.cached_property
    def subjects(self) -> dict[str, Subject]:
        return {subject.name: subject for subject in self.assessment.data.load().subjects}

    @functools.cached_property
    def scorer(self) -> Scorer:
        from benchmark.models.precision import resolve_device
        from benchmark.scoring.scorer import load_scorer

        return load_scorer(
            self.assessment.protocol,
            metrics=self.assessment.metrics,
            directory=self.assessment.encoders,
            device=resolve_device("auto"),
        )

    def score(self, record: JobRecord) -> list[Score]:
        """Score all images of a job anew, and write scores and record. Raises UserError."""
        started = time.perf_counter()
        job = record.job
        subject = self._subject(record)
        images = [self._pixels(path, image) for path, image in record.images.items()]
        scores = self.scorer.score(
            job.name,
            subject,
            [image.request for image in record.images.values()],
            images,
            identifier=self.assessment.identifier,
        )
        text = score_rows(scores)
        scored = ScoreRecord(
            *job.name,
            scoring=self.scorer.scoring,
            images=images_digest(record.images),
            references=subject.digest,
            seconds=time.perf_counter() - started,
            rows=sha256(text.encode()),
            provenance=provenance() | device_provenance(),
        )
        self.directory.write_scores(scored, text)
        return scores

    def _subject(self, record: JobRecord) -> Subject:
        job = record.job
        subject = self.subjects.get(job.subject)
        if subject is None or subject.digest != job.references_digest:
            raise UserError(
                f"the images of subject '{job.subject}' in data set '{self.assessment.data.dataset}"
                f"' are not those that {self.directory.path} was made with: bring them back, or "
                "name a copy of them with --data DIR"
            )
        return subject

    def _pixels(self, relative: str, image: ImageRecord) -> np.ndarray:
        path = self.directory.path / relative
        if not path.is_file() or sha256(path.read_bytes()) != image.sha256:
            raise UserError(
                f"{path} is missing or was changed since it was drawn: remove its job's record in "
                f"{self.directory.path / 'jobs'}, and run again"
            )
        return read_image(path)


def means_of(scores: list[Score]) -> dict[str, float]:
    """metric -> the mean of a job's scores, of those that there are."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if score.value is not None:
            values.setdefault(score.metric, []).append(score.value)
    return {metric: fmean(found) for metric, found in values.items()}


def device_provenance() -> dict[str, object]:
    """On what the numbers were computed."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
    }


def one_thread() -> None:
    """On a CPU one thread, so that a sum's last digits do not depend on the number of cores."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
