"""The references of all subjects of a data set, for metrics that ask which of them an image shows.

gallery = References(subjects, protocol, encoders, viewers)
gallery.seen_by("dino")     # (k, d), every subject's in turn; gallery.owners: (k,)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from benchmark.api import GALLERY, Metric, Subject
from benchmark.config.protocol import Protocol
from benchmark.data.images import read_image
from benchmark.data.masks import masks_digest, read_mask
from benchmark.scoring.features import Encoders
from benchmark.scoring.views import Viewer
from benchmark.store.records import Scoring, digest


def uses_gallery(metric: Metric) -> bool:
    """Whether `metric` ranks among the subjects of the data set."""
    return any(need.endswith(f":{GALLERY}") for need in metric.needs)


def in_gallery(
    scoring: Scoring, metrics: Mapping[str, Metric], subjects: Sequence[Subject]
) -> Scoring:
    """`scoring`, in which metrics that rank among `subjects` say among which."""
    those: list[list[str | None]] = [[s.name, s.class_noun, s.digest] for s in subjects]
    if scoring.uses_masks:
        those = [[*one, masks_digest(s)] for one, s in zip(those, subjects, strict=True)]
    records = {
        name: replace(record, gallery=digest(those)) if uses_gallery(metrics[name]) else record
        for name, record in scoring.metrics.items()
    }
    return replace(scoring, metrics=records)


@dataclass(frozen=True)
class References:
    """Every subject's references; each subject's are read and encoded once an encoder."""

    subjects: Sequence[Subject]
    protocol: Protocol
    encoders: Encoders
    viewers: Mapping[str, Viewer]
    _rows: dict[str, np.ndarray] = field(default_factory=dict)
    _lost: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def owners(self) -> list[Subject]:
        """(k,) whose reference each one is."""
        return [s for s in self.subjects for _ in self.protocol.reference_indices(s)]

    def seen_by(self, encoder: str) -> np.ndarray:
        """(k, d) float32 of unit length."""
        self._encode(encoder)
        return self._rows[encoder]

    def without_subject(self, encoder: str) -> Collection[str]:
        """`<subject>/<file>` of each reference in which the encoder's view finds no subject."""
        self._encode(encoder)
        return self._lost[encoder]

    def _encode(self, encoder: str) -> None:
        if encoder in self._rows:
            return
        rows, lost = [], []
        for subject in self.subjects:
            images = [read_image(path) for path in subject.images]
            counted = self.protocol.reference_indices(subject)
            if encoder in self.viewers:
                masks = [read_mask(path) for path in subject.masks] or None
                seen = self.viewers[encoder].see_references(images, subject.class_noun, masks)
                images = seen.images
                lost += [
                    f"{subject.name}/{subject.images[i].name}" for i in counted if not seen.found[i]
                ]
            # As a batch asks for its own subject's: the same numbers to the last digit.
            rows.append(self.encoders.remembered_embeddings(encoder, images)[counted])
        self._rows[encoder], self._lost[encoder] = np.concatenate(rows), lost
        self._rows[encoder].flags.writeable = False
