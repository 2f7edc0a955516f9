"""The metrics: pure arithmetic on a batch, no I/O and no torch.

    from benchmark.scoring.metrics import DINO
    DINO(batch)      # {0: 0.71, 1: 0.66, ...}: image index -> score

A metric is an instance of a frozen dataclass; its name is that of its entry point, or of its table
in a protocol, which may choose another `encoder`. Each scores the images of one method, subject and
seed. Averages are the results' work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.api import Batch, Unscored
from benchmark.scoring.look_alikes import LookAlikes


@dataclass(frozen=True)
class SubjectFidelity:
    """Mean cosine of an image's embedding to those of all the subject's real images.

    Paper, section 4.2: the average pairwise cosine similarity of generated and real images. With
    `nearest`, the cosine to the one real image it is most like: a copy of that has 1, to rounding.
    With `unseen`, the mean over those that the method has not looked at, if it has at others. Only
    a real image is not compared with itself (`Batch.same`).
    """

    version: ClassVar[str] = "2"
    label: str
    about: str
    description: str
    encoder: str
    prior: bool = False  #: of the prior prompt's images instead of the evaluation prompts'
    nearest: bool = False  #: the largest cosine instead of the mean
    unseen: bool = False  #: of real images that the method has not looked at
    higher_is_better: bool | None = True

    @property
    def needs(self) -> frozenset[str]:
        """Embeddings."""
        return frozenset({self.encoder})

    def __call__(self, batch: Batch) -> dict[int, float | Unscored]:
        """{image index: cosine in [-1, 1]}. A real image that is the only reference has none."""
        generated = batch.embeddings(self.encoder).astype(np.float64)
        references = batch.reference_embeddings(self.encoder).astype(np.float64)
        similarity = generated @ references.T  # (n, m)
        left_out = batch.same  # (n, m)
        if self.unseen:
            if batch.seen.all() or not batch.seen.any():
                return {}
            left_out = left_out | batch.seen
        scores: dict[int, float | Unscored] = {}
        for i in batch.of_kind(prior=self.prior, real=True):
            counted = similarity[i][~left_out[i]]
            if len(counted):
                scores[i] = float(counted.max() if self.nearest else counted.mean())
            else:
                scores[i] = Unscored("the only reference is this image itself")
        return scores


@dataclass(frozen=True)
class PromptFidelity:
    """Cosine of an image's CLIP embedding to that of its prompt. Raw: a protocol may scale it.

    Paper, section 4.2. What the prompt's text is, the protocol says.
    """

    version: ClassVar[str] = "1"
    label: str
    about: str
    description: str
    encoder: str
    higher_is_better: bool | None = True

    @property
    def needs(self) -> frozenset[str]:
        """Embeddings of images and texts."""
        return frozenset({self.encoder, f"{self.encoder}:text_embeddings"})

    def __call__(self, batch: Batch) -> dict[int, float | Unscored]:
        """{image index: cosine in [-1, 1]} of the evaluation prompts' images."""
        image = batch.embeddings(self.encoder).astype(np.float64)
        text = batch.text_embeddings(self.encoder).astype(np.float64)
        return {i: float(image[i] @ text[i]) for i in batch.of_kind(prior=False, real=False)}


@dataclass(frozen=True)
class Diversity:
    """Mean LPIPS distance of an image to the others of the same subject and prompt.

    Paper, section 4.3.
    """

    version: ClassVar[str] = "1"
    label: str
    about: str
    description: str
    encoder: str
    prior: bool = False  #: of the prior prompt's images instead of the evaluation prompts'
    higher_is_better: bool | None = True

    @property
    def needs(self) -> frozenset[str]:
        """Distances."""
        return frozenset({f"{self.encoder}:distances"})

    def __call__(self, batch: Batch) -> dict[int, float | Unscored]:
        """{image index: mean distance >= 0}. The only image of a prompt has none."""
        scores: dict[int, float | Unscored] = {}
        for group in self._groups(batch):
            if len(group) == 1:
                scores[group[0]] = Unscored("it is the only image of its prompt")
                continue
            distances = batch.distances(self.encoder)
            for i in group:
                others = [j for j in group if j != i]
                scores[i] = float(distances[i, others].astype(np.float64).mean())
        return dict(sorted(scores.items()))

    def _groups(self, batch: Batch) -> Iterator[list[int]]:
        indices = batch.of_kind(prior=self.prior, real=False)
        for prompt in dict.fromkeys(batch.requests[i].prompt for i in indices):
            yield [i for i in indices if batch.requests[i].prompt == prompt]


DINO = SubjectFidelity("DINO", "subject fidelity", "DINO cosine to the real images", encoder="dino")
DINOV2 = SubjectFidelity(
    "DINOv2", "subject fidelity", "DINOv2 cosine to the real images", encoder="dinov2"
)
CLIP_I = SubjectFidelity(
    "CLIP-I", "subject fidelity", "CLIP cosine to the real images", encoder="clip"
)
CLIP_T = PromptFidelity(
    "CLIP-T", "prompt fidelity", "CLIP cosine of image and prompt", encoder="clip"
)
PRES = SubjectFidelity(
    "PRES",
    "prior preservation",
    "DINO cosine of the prior prompt's images to the subject's real images; a method that trains "
    "nothing has the untuned model's",
    encoder="dino",
    prior=True,
    higher_is_better=False,
)
DIV = Diversity("DIV", "diversity", "LPIPS between images of the same prompt", encoder="lpips")
PRIOR_DIV = Diversity(
    "prior DIV",
    "prior preservation",
    "LPIPS between the prior prompt's images; low where the class has become one picture, which "
    "PRES need not show",
    encoder="lpips",
    prior=True,
)
DINO_NEAREST = SubjectFidelity(
    "nearest DINO",
    "copying",
    "DINO cosine to the nearest real image: near 1 is a copy",
    encoder="dino",
    nearest=True,
    higher_is_better=None,
)
DINO_UNSEEN = SubjectFidelity(
    "unseen DINO",
    "copying",
    "DINO cosine to the real images that the method did not look at, if it looked at some",
    encoder="dino",
    unseen=True,
    higher_is_better=None,
)
RANK_TOP1 = LookAlikes(
    "top-1", "whether its subject is the nearest by DINO of all in the data set", "top-1", "dino"
)
RANK_MRR = LookAlikes(
    "MRR", "1 over its subject's rank by DINO among all in the data set", "reciprocal rank", "dino"
)
RANK_MAP = LookAlikes(
    "mAP",
    "average precision by DINO of its subject's real images among all in the data set",
    "average precision",
    "dino",
)
CLASSMATES_TOP1 = LookAlikes(
    "classmates top-1",
    "whether its subject is the nearest by DINO of those with its class noun",
    "top-1",
    "dino",
    classmates=True,
)
CLASSMATES_MRR = LookAlikes(
    "classmates MRR",
    "1 over its subject's rank by DINO among those with its class noun",
    "reciprocal rank",
    "dino",
    classmates=True,
)
CLASSMATES_MAP = LookAlikes(
    "classmates mAP",
    "average precision by DINO of its subject's real images among its classmates'",
    "average precision",
    "dino",
    classmates=True,
)
