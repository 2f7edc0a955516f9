"""Scores for images, whoever made them. Nothing here knows of training.

    scoring = scoring_of(load_protocol("pocket"))       # what decides the scores; checks it all
    scorer = load_scorer(load_protocol("pocket"))
    scorer.score(("my-tool", "dog", 0), subject, requests, images)

No torch is imported until a scorer is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from benchmark.api import REAL, Metric, Request, Subject, Unscored, UserError
from benchmark.config.protocol import Protocol
from benchmark.data.images import read_image
from benchmark.scoring.answering import Asking, Memory, Notes
from benchmark.scoring.batch import DeclaredBatch, ImageBatch, need
from benchmark.scoring.chosen_metrics import chosen_metrics, encoders_of, record_of
from benchmark.scoring.encoder_tables import completed, protocol_tables
from benchmark.scoring.features import Encoders, OnDemand
from benchmark.scoring.gallery import References, in_gallery, uses_gallery
from benchmark.scoring.kinds import TEXT_EMBEDDINGS, identify, kind_of
from benchmark.scoring.views import Viewer, identified_views, viewers_of
from benchmark.store.directory import Name
from benchmark.store.records import Score, Scoring

#: A score, if there is one, and what is to be said of it: why there is none, or why it is 0.
Found = tuple[float | None, str]
#: What a `Scoring` says elsewhere, or what decides no score.
_NOT_DECLARED = {"metrics", "encoders", "description", "views", "segmenter"}


def scoring_of(
    protocol: Protocol,
    *,
    metrics: Sequence[str] = (),
    directory: str | None = None,
    identifier: str | None = None,
) -> Scoring:
    """What decides scores under `protocol`, beside the images.

    `metrics`: more of them, installed or module:ATTRIBUTE. `directory`: where the encoders lie
    instead of the caches. `identifier`: stands in captions where the protocol wants it, and is
    forgotten where not. Raises UserError if a metric needs what the protocol does not have, an
    encoder's files are not here, or the identifier is wanting.
    """
    if protocol.names_identifier and not identifier:
        raise UserError(
            f"captions of protocol '{protocol.label}' have the identifier, and none is given: name "
            "it in the suite, or choose another protocol"
        )
    chosen = chosen_metrics(protocol, metrics)
    for metric in chosen.values():
        if check := getattr(metric, "check", None):
            check()
    encoders = identify(protocol_tables(protocol, directory))
    for name, view in identified_views(protocol, directory).items():
        encoders[name]["view"] = view
    return Scoring(
        protocol=protocol.label,
        declaration=protocol.model_dump(mode="json", exclude=_NOT_DECLARED),
        encoders=encoders,
        metrics={name: record_of(name, metric, protocol) for name, metric in chosen.items()},
        identifier=identifier if protocol.names_identifier else None,
    )


def check_texts(
    protocol: Protocol,
    texts: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    directory: str | None = None,
) -> None:
    """Raise UserError for one of `texts` that an encoder which reads captions would cut."""
    asked = {one for m in chosen_metrics(protocol, metrics).values() for one in m.needs}
    for name, table in completed(protocol_tables(protocol, directory)).items():
        check = getattr(kind_of(name, table), "check_texts", None)
        if check is not None and need(name, TEXT_EMBEDDINGS) in asked:
            check(name, table, texts)


def load_scorer(
    protocol: Protocol,
    *,
    metrics: Sequence[str] = (),
    directory: str | None = None,
    identifier: str | None = None,
    device: str = "cpu",
    answers: Memory | None = None,
    insists: bool = False,
) -> Scorer:
    """A scorer by `protocol`, whose encoders are loaded on `device` when a metric first needs them.

    `answers`: where those of judges are kept, else for as long as the scorer; `insists`: what they
    refused is asked again. As `scoring_of` otherwise.
    """
    scoring = scoring_of(protocol, metrics=metrics, directory=directory, identifier=identifier)
    loaded = OnDemand(protocol_tables(protocol, directory), device)
    encoders = Encoders(loaded, Asking(scoring.encoders, answers or Notes(), insists=insists))
    viewers = viewers_of(protocol, directory=directory, device=device)
    return Scorer(protocol, scoring, chosen_metrics(protocol, metrics), encoders, viewers)


@dataclass(frozen=True)
class Scored:
    """The rows of some images, and what judges answered for them."""

    rows: list[Score]
    answers: dict[str, tuple[str, ...]]  #: metric -> keys, sorted; of those that asked a judge
    unanswered: tuple[str, ...]  #: metrics that lack answers which may yet come


@dataclass(frozen=True)
class Scorer:
    """A protocol with its metrics, its encoders, and what shows them images."""

    protocol: Protocol
    scoring: Scoring
    metrics: dict[str, Metric]
    encoders: Encoders
    viewers: Mapping[str, Viewer]
    all_references: References | None = None  #: every subject's, where a metric ranks among them

    def among(self, subjects: Sequence[Subject]) -> Scorer:
        """The same scorer, with the subjects of the data set for metrics that rank among them."""
        if not any(map(uses_gallery, self.metrics.values())):
            return self
        return replace(
            self,
            scoring=in_gallery(self.scoring, self.metrics, subjects),
            all_references=References(subjects, self.protocol, self.encoders, self.viewers),
        )

    def score(
        self,
        name: Name,
        subject: Subject,
        requests: Sequence[Request],
        images: Sequence[np.ndarray],
        *,
        looked_at: Collection[int] | None = None,
        only: Collection[str] | None = None,
    ) -> list[Score]:
        """The rows of `judge`, which takes the same."""
        return self.judge(name, subject, requests, images, looked_at=looked_at, only=only).rows

    def judge(
        self,
        name: Name,
        subject: Subject,
        requests: Sequence[Request],
        images: Sequence[np.ndarray],
        *,
        looked_at: Collection[int] | None = None,
        only: Collection[str] | None = None,
    ) -> Scored:
        """The scores of `images[i]`, uint8 (height, width, 3), made for `requests[i]`.

        `name` is that of the method, subject and seed, and `looked_at` are the subject's images
        that the method looked at, by index (None: all). `only` these metrics are computed, by name:
        their rows are the same bytes as those of all of them. An image has a row for each metric
        that applies to it, on the protocol's scale, or without a value where there is a reason.
        Raises ValueError naming metric, image and job if a metric gives what is no score, and
        UserError if it asks for what it did not declare.
        """
        batch = self._batch(subject, requests, images, looked_at)
        found = {
            metric: self._values(metric, batch, name)
            for metric in self.metrics
            if only is None or metric in only
        }
        rows = [
            self._row(name, request, metric, values[i])
            for i, request in enumerate(requests)
            for metric, values in found.items()
            if i in values
        ]
        asked = batch.consulted
        answers = {metric: tuple(sorted(asked[metric].answers)) for metric in sorted(asked)}
        lacking = tuple(sorted(metric for metric in asked if not asked[metric].complete))
        return Scored(rows, answers, lacking)

    def _row(self, name: Name, request: Request, metric: str, found: Found) -> Score:
        method, subject, seed = name
        value, reason = found
        return Score(
            method=method,
            subject=subject,
            prompt=request.prompt.template,
            prompt_kind=request.prompt.kind,
            sample=request.index,
            seed=seed,
            metric=metric,
            value=value,
            protocol=self.protocol.label,
            reason=reason,
        )

    def _batch(
        self,
        subject: Subject,
        requests: Sequence[Request],
        images: Sequence[np.ndarray],
        looked_at: Collection[int] | None,
    ) -> ImageBatch:
        if len(images) != len(requests):
            raise ValueError(f"{len(requests)} images were asked for, {len(images)} came")
        phrase = self.protocol.phrase(subject.class_noun, self.scoring.identifier)
        return ImageBatch(
            requests=tuple(requests),
            subject=subject,
            images=read_only(images),
            captions=tuple(
                None if request.prompt.kind == REAL else request.prompt.text(phrase)
                for request in requests
            ),
            real_images=read_only([read_image(path) for path in subject.images]),
            counted=self.protocol.reference_indices(subject),
            encoders=self.encoders,
            looked_at=looked_at,
            viewers=self.viewers,
            all_references=self.all_references,
        )

    def _values(self, metric: str, batch: ImageBatch, name: Name) -> dict[int, Found]:
        """What the metric says, on the protocol's scale, and what views did not find."""
        declared = DeclaredBatch(batch, metric, frozenset(self.metrics[metric].needs))
        values: dict[int, Found] = {}
        for i, value in self.metrics[metric](declared).items():
            if i not in range(len(batch.requests)):
                raise ValueError(
                    f"metric '{metric}' scores image {i!r}, and {_label(name)} has "
                    f"{len(batch.requests)} images"
                )
            if isinstance(value, Unscored):
                if not isinstance(value.reason, str) or not value.reason.strip():
                    raise ValueError(
                        f"metric '{metric}' gave no score and no reason for {_told(batch, i, name)}"
                    )
                values[i] = None, value.reason
            else:
                if not isinstance(value, Real) or not math.isfinite(value):
                    raise ValueError(f"metric '{metric}' gave {value} for {_told(batch, i, name)}")
                values[i] = self.protocol.scaled(metric, float(value)), ""
        return values | self._lost(metric, batch, values)

    def _lost(
        self, metric: str, batch: ImageBatch, values: Mapping[int, Found]
    ) -> dict[int, Found]:
        """Those of `values` that a view decides: it did not find the subject.

        In an image, for that one; in a reference, for all: no score is made of what is left.
        """
        lost: dict[int, Found] = {}
        noun = batch.subject.class_noun
        scored = {i: value for i, (value, _) in values.items() if value is not None}
        for encoder in encoders_of(self.metrics[metric]):
            if encoder not in self.viewers:
                continue
            counts = self.viewers[encoder].view.not_found == "zero"
            for i in batch.without_subject(encoder):
                if i in scored:
                    lost[i] = (scored[i] if counts else None), f"no '{noun}' was found"
            without = list(batch.references_without_subject(encoder))
            if uses_gallery(self.metrics[metric]) and self.all_references is not None:
                without += self.all_references.without_subject(encoder)
            for file in without[:1]:
                why = f"in reference {file} no subject was found: draw masks of your own"
                lost |= dict.fromkeys(scored, (None, why))
        return lost


def read_only(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same pixels, which a metric cannot change. Raises ValueError for other than uint8 RGB."""
    views = []
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is {image.dtype} {image.shape}, not uint8 (h, w, 3)")
        views.append(image.view())
        views[-1].flags.writeable = False
    return views


def _label(name: Name) -> str:
    method, subject, seed = name
    return f"{method} / {subject} / seed {seed}"


def _told(batch: ImageBatch, index: int, name: Name) -> str:
    request = batch.requests[index]
    prompt = request.prompt.template or request.prompt.kind
    return f"image {request.index} of '{prompt}' of {_label(name)}"
