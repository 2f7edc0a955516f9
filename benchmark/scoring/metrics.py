"""The metrics: pure arithmetic on arrays, no I/O and no torch.

    from benchmark.scoring.metrics import DINO
    DINO(features)      # {0: 0.71, 1: 0.66, ...}: image index -> score

A metric is an instance of a frozen dataclass; its name is that of its entry point. Each scores one
group of images: those of one method, subject and seed. Averages over groups are `stats`' work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.api import PRIOR, REAL, Request


@dataclass(frozen=True)
class Features:
    """What the encoders saw in one (method, subject, seed) group of n images, m references.

    All embeddings are float32 rows of unit length, so that a dot product is a cosine in [-1, 1].
    """

    requests: Sequence[Request]  #: n requests, in the order of the images
    dino: np.ndarray  #: (n, d)
    clip_image: np.ndarray  #: (n, e)
    clip_text: np.ndarray  #: (n, e), the prompt as captioned; `real` rows are 0, never read
    reference_dino: np.ndarray  #: (m, d)
    reference_clip: np.ndarray  #: (m, e)
    same: np.ndarray  #: (n, m) bool: image i is reference j itself, and the pair never counts
    lpips: np.ndarray  #: (n, n) distances >= 0 where both share the prompt; else NaN, never read
    dinov2: np.ndarray | None = None  #: (n, f), where the protocol has a second DINO
    reference_dinov2: np.ndarray | None = None  #: (m, f)

    def of_kind(self, *, prior: bool, real: bool) -> list[int]:
        """The images a metric is about: the prior prompt's, or else the evaluation prompts'.

        Real images count among the latter if `real`.
        """
        kinds = [request.prompt.kind for request in self.requests]
        if prior:
            return [i for i, kind in enumerate(kinds) if kind == PRIOR]
        return [i for i, kind in enumerate(kinds) if kind != PRIOR and (real or kind != REAL)]


@dataclass(frozen=True)
class SubjectFidelity:
    """Mean cosine of an image's embedding to those of all the subject's real images.

    Paper, section 4.2: the average pairwise cosine similarity of generated and real images. With
    `nearest`, the cosine to the one real image it is most like: a copy of that has nearly 1.
    """

    version: ClassVar[str] = "1"
    description: str
    embedding: str  #: "dino", "dinov2" or "clip"
    prior: bool = False  #: of the prior prompt's images instead of the evaluation prompts'
    nearest: bool = False  #: the largest cosine instead of the mean
    higher_is_better: bool | None = True

    def __call__(self, features: Features) -> dict[int, float]:
        """{image index: cosine in [-1, 1]}. A real image that is the only reference has none.

        Raises ValueError for another image that no reference is left to compare with.
        """
        generated, references = {
            "dino": (features.dino, features.reference_dino),
            "dinov2": (features.dinov2, features.reference_dinov2),
            "clip": (features.clip_image, features.reference_clip),
        }[self.embedding]
        if generated is None or references is None:
            raise ValueError(f"the protocol has no encoder {self.embedding}")
        similarity = generated.astype(np.float64) @ references.astype(np.float64).T  # (n, m)
        scores = {}
        for i in features.of_kind(prior=self.prior, real=True):
            counted = similarity[i][~features.same[i]]
            if not len(counted):
                if features.requests[i].prompt.kind == REAL:
                    continue
                raise ValueError(
                    f"image {i} has no reference image to compare with: all "
                    f"{len(references)} are that image itself"
                )
            scores[i] = float(counted.max() if self.nearest else counted.mean())
        return scores


@dataclass(frozen=True)
class PromptFidelity:
    """Cosine of an image's CLIP embedding to that of its prompt. Raw: a protocol may scale it.

    Paper, section 4.2. What the prompt's text is, the protocol says.
    """

    version: ClassVar[str] = "1"
    description: str
    higher_is_better: bool = True

    def __call__(self, features: Features) -> dict[int, float]:
        """{image index: cosine in [-1, 1]} of the evaluation prompts' images."""
        image = features.clip_image.astype(np.float64)
        text = features.clip_text.astype(np.float64)
        return {i: float(image[i] @ text[i]) for i in features.of_kind(prior=False, real=False)}


@dataclass(frozen=True)
class Diversity:
    """Mean LPIPS distance of an image to the others of the same subject and prompt.

    Paper, section 4.3. Prompts with a single image have no diversity and get no score.
    """

    version: ClassVar[str] = "1"
    description: str
    prior: bool = False  #: of the prior prompt's images instead of the evaluation prompts'
    higher_is_better: bool = True

    def __call__(self, features: Features) -> dict[int, float]:
        """{image index: mean distance >= 0}, only for prompts with two images or more."""
        scores = {}
        for group in self._groups(features):
            for i in group:
                others = [j for j in group if j != i]
                scores[i] = float(features.lpips[i, others].astype(np.float64).mean())
        return dict(sorted(scores.items()))

    def _groups(self, features: Features) -> Iterator[list[int]]:
        indices = features.of_kind(prior=self.prior, real=False)
        for prompt in dict.fromkeys(features.requests[i].prompt for i in indices):
            group = [i for i in indices if features.requests[i].prompt == prompt]
            if len(group) > 1:
                yield group


DINO = SubjectFidelity("subject fidelity: DINO cosine to the real images", embedding="dino")
DINOV2 = SubjectFidelity("subject fidelity: DINOv2 cosine to the real images", embedding="dinov2")
DINO_NEAREST = SubjectFidelity(
    "a sign of copying: DINO cosine to the nearest real image",
    embedding="dino",
    nearest=True,
    higher_is_better=None,
)
CLIP_I = SubjectFidelity("subject fidelity: CLIP cosine to the real images", embedding="clip")
CLIP_T = PromptFidelity("prompt fidelity: CLIP cosine of image and prompt")
PRES = SubjectFidelity(
    "prior preservation: DINO cosine of the prior prompt's images to the subject; lower is better",
    embedding="dino",
    prior=True,
    higher_is_better=False,
)
DIV = Diversity("diversity: LPIPS between images of the same prompt")
PRIOR_DIV = Diversity("diversity of the prior prompt's images, by LPIPS", prior=True)
