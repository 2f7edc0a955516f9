"""Which subject of the data set does an image show? Ranks among look-alikes.

Retrieval, as Finer-Personalization-Rank (2512.19026) asks it: a method that draws any dog in place
of this one may have a high DINO, and is still not told from other dogs. No I/O and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from benchmark.api import GALLERY, Batch, Subject, Unscored

Measure = Literal["top-1", "reciprocal rank", "average precision"]
_ONLY = Unscored("the only reference is this image itself")
#: Cosines that differ by less are equal: of the same features they differ in last digits.
_EQUAL = 1e-6


@dataclass(frozen=True)
class LookAlikes:
    """How far up its subject stands among those of the data set, for each image.

    *top-1* and *reciprocal rank* rank subjects by the mean cosine to their references: 1 if the
    right one is the first, else 0; and 1 over its rank. *Average precision* ranks references: the
    mean, over those of the right subject, of the share of right ones among all that are as near or
    nearer. Means over images are the accuracy, MRR and mAP. Of equal cosines, to 1e-6, the right
    one comes last: an encoder that tells nothing apart finds nobody. A real image is not
    compared with itself (`Gallery.same`).
    """

    version: ClassVar[str] = "2"
    about: ClassVar[str] = "look-alikes"
    higher_is_better: ClassVar[bool | None] = True
    label: str
    description: str
    measure: Measure
    encoder: str
    classmates: bool = False  #: only among subjects of the same class noun

    @property
    def needs(self) -> frozenset[str]:
        """Embeddings, of the gallery too."""
        return frozenset({self.encoder, f"{self.encoder}:{GALLERY}"})

    def __call__(self, batch: Batch) -> dict[int, float | Unscored]:
        """{image index: value in [0, 1]} of the evaluation prompts' and real images."""
        own, gallery = batch.subject, batch.gallery(self.encoder)
        pool = np.array([self._in_pool(owner, own) for owner in gallery.owners])
        right = np.array([owner.name == own.name for owner in gallery.owners])
        places = _places(gallery.owners)
        near = batch.embeddings(self.encoder).astype(np.float64)
        near = near @ gallery.embeddings.astype(np.float64).T
        scores: dict[int, float | Unscored] = {}
        for i in batch.of_kind(prior=False, real=True):
            kept = pool & ~gallery.same[i]
            if not (kept & ~right).any():
                scores[i] = Unscored(f"the data set has no other {self._others(own)}")
            elif not (kept & right).any():
                scores[i] = _ONLY
            elif self.measure == "average precision":
                scores[i] = average_precision(near[i][kept], right[kept])
            else:
                rank = subject_rank(near[i][kept], places[kept], places[right][0])
                scores[i] = float(rank == 1) if self.measure == "top-1" else 1 / rank
        return scores

    def _in_pool(self, owner: Subject, own: Subject) -> bool:
        return not self.classmates or owner.class_noun == own.class_noun

    def _others(self, own: Subject) -> str:
        return f"'{own.class_noun}'" if self.classmates else "subject"


def average_precision(near: np.ndarray, right: np.ndarray) -> float:
    """Average precision of `near`, (k,), of which those in `right`, (k,) bool, are relevant."""
    precisions = [right[near >= least - _EQUAL].mean() for least in near[right]]
    return float(np.mean(precisions))


def subject_rank(near: np.ndarray, places: np.ndarray, own: int) -> int:
    """The rank, from 1, of subject `own` by the mean of `near`, (k,); `places`: whose each is."""
    means = [near[places == place].mean() for place in np.unique(places)]
    return int(np.sum(np.array(means) >= near[places == own].mean() - _EQUAL))


def _places(owners: tuple[Subject, ...]) -> np.ndarray:
    """(k,) the number of each one's subject."""
    numbers: Mapping[str, int] = {name: i for i, name in enumerate({o.name: 0 for o in owners})}
    return np.array([numbers[owner.name] for owner in owners])
