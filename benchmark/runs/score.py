"""Scores of images that lie in a run directory, whoever made them: no model is trained or sampled.

examiner = Examiner(Assessment.of(suite), directory, "cpu")
examiner.score(record)      # -> scores/<protocol>/<method>/<subject>-s<seed>.csv and its record
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from benchmark.api import Metric, Request, Subject, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.source import source_of
from benchmark.config.suite import DataChoice, Suite
from benchmark.data.dataset import verify
from benchmark.data.images import read_image
from benchmark.data.manifest import read_toml
from benchmark.data.masks import masks_digest
from benchmark.runs.box import boxed
from benchmark.runs.unscored import partial, refused, to_score
from benchmark.store.directory import RunDirectory, score_rows
from benchmark.store.files import sha256
from benchmark.store.provenance import provenance, sources_in
from benchmark.store.records import (
    ImageRecord,
    Job,
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
    #: The suite's tables, by role: none that an image was made with may score it.
    assets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, suite: Suite, metrics: tuple[str, ...] = ()) -> Assessment:
        """As `suite` says."""
        identifier = suite.backbone.identifier
        return cls(suite.data, identifier, suite.protocol, metrics, suite.encoders, suite.assets)

    @classmethod
    def read(cls, suite: Path) -> Assessment:
        """As a run's suite.toml says. Raises UserError."""
        found = read_toml(suite, _ScoredSuite)
        identifier = found.backbone.identifier
        return cls(
            found.data,
            identifier,
            found.protocol,
            encoders=found.encoders,
            assets=found.assets,
        )

    @functools.cached_property
    def scoring(self) -> Scoring:
        """What decides the scores. Raises UserError if they cannot be made."""
        from benchmark.scoring.gallery import in_gallery
        from benchmark.scoring.scorer import scoring_of

        scoring = scoring_of(
            self.protocol,
            metrics=self.metrics,
            directory=self.encoders,
            identifier=self.identifier,
        )
        subjects = self.data.load().subjects if self.uses_gallery else ()
        return in_gallery(scoring, self._chosen, subjects)

    @functools.cached_property
    def _chosen(self) -> Mapping[str, Metric]:
        from benchmark.scoring.chosen_metrics import chosen_metrics

        return chosen_metrics(self.protocol, self.metrics)

    @property
    def uses_gallery(self) -> bool:
        """Whether a metric ranks among all subjects of the data set."""
        from benchmark.scoring.gallery import uses_gallery

        return any(map(uses_gallery, self._chosen.values()))

    def check_gallery(self) -> None:
        """Refuse a data set whose images, of any subject, are missing or others than its own.

        Only if a metric ranks among its subjects. Raises UserError.
        """
        if self.uses_gallery:
            verify(self.data.load())


class _Identifier(BaseModel):
    identifier: str


class _ScoredSuite(BaseModel):
    """What scoring reads of a suite: that of images from elsewhere has no more."""

    data: DataChoice
    backbone: _Identifier
    protocol: Protocol
    encoders: str | None = None
    assets: dict[str, dict[str, Any]] = {}


@dataclass
class Examiner:
    """Scores jobs on one device; loads the encoders at first use and keeps them."""

    assessment: Assessment
    directory: RunDirectory
    device: str  #: as resolved: "cpu", "cuda"
    insists: bool = False  #: judges are asked again what they refused

    @functools.cached_property
    def subjects(self) -> dict[str, Subject]:
        return {subject.name: subject for subject in self.assessment.data.load().subjects}

    @functools.cached_property
    def scorer(self) -> Scorer:
        from benchmark.scoring.scorer import load_scorer

        scorer = load_scorer(
            self.assessment.protocol,
            metrics=self.assessment.metrics,
            directory=self.assessment.encoders,
            identifier=self.assessment.identifier,
            device=self.device,
            answers=self.directory,
            insists=self.insists,
        )
        return scorer.among(list(self.subjects.values()))

    def lacking(self, record: JobRecord) -> set[str]:
        """The metrics that a job is to be scored by."""
        scoring = self.assessment.scoring
        scored = self.directory.score_record(scoring.protocol, record.job.name)
        found = to_score(record, scored, scoring)
        if self.insists and scored is not None:
            found |= refused(scored, self.directory) & {*scoring.metrics}
        return found

    def score(self, record: JobRecord) -> list[Score]:
        """The scores of a job: those that are missing are computed, and written with the others.

        Raises UserError if its images, or its subject, are not what they were.
        """
        started = time.perf_counter()
        job, scoring = record.job, self.scorer.scoring
        subject = self.subject(job)
        before = self.directory.score_record(scoring.protocol, job.name)
        lacking = self.lacking(record)
        requests = [image.request for image in record.images.values()]
        images = [self._pixels(path, image) for path, image in record.images.items()]
        with boxed():
            found = self.scorer.judge(
                job.name, subject, requests, images, looked_at=job.seen, only=lacking
            )
        scores = [_without(score, job.unscored) for score in found.rows]
        metrics, sources = dict(scoring.metrics), metric_sources(scoring)
        answers, unanswered = found.answers, {*found.unanswered}
        kept: list[Score] = []
        if before is not None:
            metrics = before.scoring.metrics | metrics
            rows = self.directory.read_scores(scoring.protocol, job.name)
            kept = [row for row in rows if row.metric not in lacking]
            answers = {m: k for m, k in before.answers.items() if m not in lacking} | answers
            unanswered |= {*before.unanswered} - lacking
            sources = {m: sources[m] for m in sources.keys() & lacking} | {
                m: text for m, text in sources_in(before.provenance).items() if m not in lacking
            }
        scored = ScoreRecord(
            *job.name,
            scoring=replace(scoring, metrics={name: metrics[name] for name in sorted(metrics)}),
            images=images_digest(record.images),
            references=subject.digest,
            seconds=time.perf_counter() - started + (before.seconds if before else 0.0),
            rows="",
            provenance=provenance(sources) | device_provenance(),
            partial=partial(record, before, scoring),
            masks=masks_digest(subject) if scoring.uses_masks else None,
            answers={metric: answers[metric] for metric in sorted(answers)},
            unanswered=tuple(sorted(unanswered)),
        )
        scores = _in_order([*kept, *scores], requests)
        self.directory.write_scores(scored, score_rows(scores))
        return scores

    def subject(self, job: Job) -> Subject:
        """The subject of `job`, with the images that it was planned with. Raises UserError."""
        subject = self.subjects.get(job.subject)
        dataset, path = self.assessment.data.dataset, self.directory.path
        if subject is None or subject.digest != job.references_digest:
            raise UserError(
                f"the images of subject '{job.subject}' in data set '{dataset}' are not those "
                f"that {path} was made with: bring them back, or name a copy of them with "
                "--data DIR"
            )
        for what in ("class_noun", "live"):
            now, was = getattr(subject, what), getattr(job.fit, what)
            if now != was:
                raise UserError(
                    f"subject '{job.subject}' in data set '{dataset}' has {what} {now!r}, and "
                    f"{path} was made with {was!r}: change it back, or run again into another "
                    "--out"
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


def _without(score: Score, unscored: Mapping[str, str]) -> Score:
    """`score`, or of a prompt kind that the method leaves out, the reason alone."""
    reason = unscored.get(score.prompt_kind)
    return score if reason is None else replace(score, value=None, reason=reason)


def _in_order(scores: Sequence[Score], requests: Sequence[Request]) -> list[Score]:
    """`scores` by image, then by metric. Those of images that are gone are left out."""
    place = {(r.prompt.template, r.prompt.kind, r.index): i for i, r in enumerate(requests)}
    found = [
        (place[image], score.metric, score)
        for score in scores
        if (image := (score.prompt, score.prompt_kind, score.sample)) in place
    ]
    return [score for _, _, score in sorted(found, key=lambda one: one[:2])]


def metric_sources(scoring: Scoring) -> dict[str, str]:
    """metric -> a digest of its text, of those from outside."""
    found = {name: source_of("metrics", metric.metric) for name, metric in scoring.metrics.items()}
    return {name: source.digest for name, source in found.items() if source}


def means_of(scores: list[Score]) -> dict[str, float]:
    """metric -> the mean of a job's scores, of those that there are."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if score.value is not None:
            values.setdefault(score.metric, []).append(score.value)
    return {metric: fmean(found) for metric, found in values.items()}


def device_provenance() -> dict[str, object]:
    """On what the numbers were computed; in which batches, if memory did not do for the usual."""
    import torch

    from benchmark.models.memory.halving import batches_taken

    cuda, batches = torch.cuda.is_available(), batches_taken()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        **({"batches": batches} if batches else {}),
    }


def one_thread() -> None:
    """On a CPU one thread, so that a sum's last digits do not depend on the number of cores."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
