"""Calibration's eyes: pictures drawn, and seen as each metric sees them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmark.data.images import as_pixels
from benchmark.pocket.calibration_scenes import MASKED, OF_PROMPTS
from benchmark.pocket.individuals import IMAGES_PER_SUBJECT
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import CLASSES, Identities, Scenes, plain_scenes, render
from benchmark.scoring import views
from benchmark.scoring.features import Encoders

RUN = 512  #: pictures drawn and encoded at a time: many, since the renderer is slow at few
#: Metric -> what its encoder sees in n pictures: (n, d), rows of unit length. Where its view finds
#: no subject, a row is 0 or NaN, as the view counts it.
Seen = dict[str, np.ndarray]


@dataclass(frozen=True)
class Studio:
    """Draws pictures and looks at them as each metric does."""

    encoders: Encoders
    looks: Mapping[str, str]  #: metric -> the encoder that it looks through
    generator: torch.Generator
    progress: Callable[[int], None]  #: told of how many more pictures were seen
    #: Metrics that see the subject alone, on black, by its true mask.
    by_truth: Collection[str] = tuple(MASKED)
    #: Of encoders that have a view, and all by one segmenter: as a run's scorer has them.
    viewers: Mapping[str, views.Viewer] = field(default_factory=dict)
    #: Encoder -> for each time that pictures were seen: in which its view found no subject, (n,).
    lost: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def see(self, identities: Identities, scenes: Scenes) -> Seen:
        """What each metric sees of each subject in its scene."""
        eyes = {
            metric: (encoder, metric in self.by_truth) for metric, encoder in self.looks.items()
        }
        parts: dict[tuple[str, bool], list[np.ndarray]] = {eye: [] for eye in eyes.values()}
        found: dict[str, list[np.ndarray]] = {encoder: [] for encoder in self.viewers}
        for rows in torch.arange(len(identities)).split(RUN):
            pictures = as_pixels(render(identities[rows], scenes[rows]))
            alone = masked(pictures, identities[rows], scenes[rows])
            shown = viewed(self.viewers, pictures, identities[rows])
            for encoder, in_view in shown.items():
                found[encoder].append(in_view.found)
            for (encoder, is_masked), seen in parts.items():
                if encoder in shown:
                    seen.append(self._in_view(encoder, shown[encoder]))
                else:
                    seen.append(self.encoders.embeddings(encoder, alone if is_masked else pictures))
            self.progress(len(rows))
        for encoder, each in found.items():
            self.lost.setdefault(encoder, []).append(~np.concatenate(each))
        return {metric: wide(parts[eye]) for metric, eye in eyes.items()}

    def photograph(self, identities: Identities) -> Seen:
        """The same in new scenes of ordinary photographs, as a subject's real images have them."""
        return self.see(identities, plain_scenes(identities, self.generator))

    def photograph_references(self, identities: Identities) -> Seen:
        """The same of each subject's real images: (n, r, d).

        NaN in all of a subject's where a view finds none in one: no score is made of what is left.
        """
        rows = torch.arange(len(identities)).repeat_interleave(IMAGES_PER_SUBJECT)
        seen = self.photograph(identities[rows])
        references = {}
        for metric, found in seen.items():
            found = found.reshape(len(identities), IMAGES_PER_SUBJECT, -1)
            found[~found.any(axis=2)] = np.nan
            references[metric] = found
        return references

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) what the metric that reads prompts makes of the texts."""
        return wide([self.encoders.text_embeddings(self.looks[OF_PROMPTS], texts)])

    def _in_view(self, encoder: str, shown: views.Seen) -> np.ndarray:
        rows = self.encoders.embeddings(encoder, shown.images).copy()
        counts = self.viewers[encoder].view.not_found == "zero"
        rows[~shown.found] = 0 if counts else np.nan
        return rows


@dataclass(frozen=True)
class Subjects:
    """n subjects, and what each metric that compares subjects sees in their r real images."""

    identities: Identities
    references: Seen  #: (n, r, d)

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


def viewed(
    viewers: Mapping[str, views.Viewer], pictures: Sequence[np.ndarray], identities: Identities
) -> dict[str, views.Seen]:
    """Encoder -> `pictures` as its view shows them. Each is searched once, for all views."""
    if not viewers:
        return {}
    finder = next(iter(viewers.values())).finder
    nouns = [CLASSES[kind] for kind in identities.kind.tolist()]
    masks = [finder.mask(picture, noun) for picture, noun in zip(pictures, nouns, strict=True)]
    shown: dict[str, views.Seen] = {}
    for viewer in {viewer.name: viewer for viewer in viewers.values()}.values():
        each = [
            viewer.see([picture], noun, [mask])
            for picture, noun, mask in zip(pictures, nouns, masks, strict=True)
        ]
        seen = views.Seen(
            [one.images[0] for one in each], np.concatenate([one.found for one in each])
        )
        shown |= {encoder: seen for encoder, own in viewers.items() if own.name == viewer.name}
    return shown


def wide(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Features one under the other, in float64, as the metrics reckon."""
    return np.concatenate(parts).astype(np.float64)
