"""What each metric of a studio makes of pictures: arrays with a row for each subject.

    known = meet(studio, 200)
    right, wrong = scores_apart(studio, known, others_of(known.identities, studio.generator))
    right["dino"], wrong["classmate"]["dino"]      # (200,), (200,)

NaN where a metric's view finds no subject, and no score is made of that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from benchmark.pocket.calibration_arithmetic import ranked
from benchmark.pocket.calibration_scenes import (
    AMOUNTS,
    CLASSMATE,
    LOOK_ALIKES,
    MATCHED,
    OF_PROMPTS,
    OTHER_CLASS,
    another,
)
from benchmark.pocket.calibration_studio import Seen, Studio, Subjects
from benchmark.pocket.world import CLASSES, Identities, classmates, morph, sample_identities

STREAM = "calibrate"  #: of random draws: whatever is calibrated, a seed has its subjects


def meet(studio: Studio, subjects: int) -> Subjects:
    """Fresh subjects, the classes taking turns, and their real images."""
    kind = torch.arange(subjects) % len(CLASSES)
    identities = sample_identities(subjects, studio.generator, kind=kind)
    references = studio.photograph_references(identities)
    references.pop(OF_PROMPTS, None)
    return Subjects(identities, references)


def others_of(identities: Identities, generator: torch.Generator) -> dict[str, Identities]:
    """For each subject one of its class and colours, one of its class, and one of another class."""
    kinds = another(identities.kind, len(CLASSES), generator)
    return {
        MATCHED: classmates(identities, generator, same_colours=True),
        CLASSMATE: classmates(identities, generator, same_colours=False),
        OTHER_CLASS: sample_identities(len(identities), generator, kind=kinds),
    }


def scores_apart(
    studio: Studio, subjects: Subjects, others: Mapping[str, Identities]
) -> tuple[Seen, dict[str, Seen]]:
    """{metric: (n,)} of a new picture of each subject, and by name of a picture of each other."""
    right = subjects.scores(studio.photograph(subjects.identities))
    wrong = {name: subjects.scores(studio.photograph(other)) for name, other in others.items()}
    return right, wrong


def scores_along(studio: Studio, subjects: Subjects, *, same_colours: bool) -> Seen:
    """{metric: (n, AMOUNTS)} of subjects that turn into classmates, each picture in a new scene."""
    identities = subjects.identities
    ends = classmates(identities, studio.generator, same_colours=same_colours)
    steps = []
    for amount in AMOUNTS:
        between = morph(identities, ends, torch.full((len(ends),), amount))
        steps.append(subjects.scores(studio.photograph(between)))
    return {
        metric: np.stack([step[metric] for step in steps], axis=1) for metric in subjects.references
    }


def ranks_among_mates(studio: Studio, subjects: Subjects, seen: Seen) -> Seen:
    """{metric: (n, 3)}: `ranked` of each of `seen`, among LOOK_ALIKES colour-matched classmates."""
    galleries = {metric: [own] for metric, own in subjects.references.items()}
    for _ in range(LOOK_ALIKES):
        others = classmates(subjects.identities, studio.generator, same_colours=True)
        photographs = studio.photograph_references(others)
        for metric, gallery in galleries.items():
            gallery.append(photographs[metric])
    ranks = {}
    for metric, gallery in galleries.items():
        small = np.stack(gallery, axis=1)
        near = [
            np.einsum("d,spd->sp", row, mates)
            for row, mates in zip(seen[metric], small, strict=True)
        ]
        ranks[metric] = np.array([ranked(cosines_of, 0) for cosines_of in near])
    return ranks


def ranks_among_all(subjects: Subjects, seen: Seen) -> Seen:
    """{metric: (n, 3)}: `ranked` of each of `seen`, among all the subjects."""
    ranks = {}
    for metric, own in subjects.references.items():
        near = np.einsum("nd,spd->nsp", seen[metric], own)
        ranks[metric] = np.array([ranked(cosines_of, i) for i, cosines_of in enumerate(near)])
    return ranks


def drops(subjects: Subjects, before: Seen, after: Seen) -> Seen:
    """{metric: (n,)}: 1 minus the cosine between a picture and its changed copy."""
    return {metric: 1 - cosines(before[metric], after[metric]) for metric in subjects.references}


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, d), (n, d) -> (n,) for rows of unit length."""
    return (a * b).sum(axis=1)
