"""Calibration's eyes: pictures drawn, and seen as each metric sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmark.data.images import as_pixels
from benchmark.pocket.calibration_scenes import MASKED, OF_PROMPTS
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import Identities, Scenes, plain_scenes, render
from benchmark.scoring.features import Encoders

RUN = 512  #: pictures drawn and encoded at a time: many, since the renderer is slow at few
#: Metric -> what its encoder sees in n pictures: (n, d), rows of unit length.
Seen = dict[str, np.ndarray]


@dataclass(frozen=True)
class Studio:
    """Draws pictures and looks at them as each metric does."""

    encoders: Encoders
    looks: Mapping[str, str]  #: metric -> the encoder that it looks through
    generator: torch.Generator
    progress: Callable[[int], None]  #: told of how many more pictures were seen

    def see(self, identities: Identities, scenes: Scenes) -> Seen:
        """What each metric sees of each subject in its scene."""
        eyes = {metric: (encoder, metric in MASKED) for metric, encoder in self.looks.items()}
        parts: dict[tuple[str, bool], list[np.ndarray]] = {eye: [] for eye in eyes.values()}
        for rows in torch.arange(len(identities)).split(RUN):
            pictures = as_pixels(render(identities[rows], scenes[rows]))
            alone = masked(pictures, identities[rows], scenes[rows])
            for (encoder, is_masked), seen in parts.items():
                seen.append(self.encoders.embeddings(encoder, alone if is_masked else pictures))
            self.progress(len(rows))
        return {metric: wide(parts[eye]) for metric, eye in eyes.items()}

    def photograph(self, identities: Identities) -> Seen:
        """The same in new scenes of ordinary photographs, as a subject's real images have them."""
        return self.see(identities, plain_scenes(identities, self.generator))

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) what the metric that reads prompts makes of the texts."""
        return wide([self.encoders.text_embeddings(self.looks[OF_PROMPTS], texts)])


@dataclass(frozen=True)
class Subjects:
    """n subjects, and what each metric of OF_SUBJECTS sees in their r real images: (n, r, d)."""

    identities: Identities
    references: Seen

    def scores(self, seen: Seen) -> Seen:
        """{metric: (n,)} of a picture for each subject: the mean cosine to its real images."""
        return {
            metric: (seen[metric][:, None] * references).sum(axis=2).mean(axis=1)
            for metric, references in self.references.items()
        }


def masked(
    pictures: Sequence[np.ndarray], identities: Identities, scenes: Scenes
) -> list[np.ndarray]:
    """The subjects of `pictures` alone, on black, by their true masks."""
    masks = true_masks(identities, scenes).numpy()
    return [picture * mask[..., None] for picture, mask in zip(pictures, masks, strict=True)]


def wide(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Features one under the other, in float64, as the metrics reckon."""
    return np.concatenate(parts).astype(np.float64)
