"""The individuals of the pocket world: the known ones, and the subjects that nobody has met.

    python -c "from benchmark.pocket.individuals import named; print(named()[0][:5])"

*Known* individuals have names and are drawn often in pretraining. *Development* subjects are for
choosing settings, *test* subjects for the numbers that are reported; pretraining draws neither.
The images of both are `datasets/pocket`; `python -m benchmark draw-subjects DIR` draws them anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image

from benchmark.pocket.captions import (
    accessory_phrase,
    individual_names,
)
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUND_PHRASES,
    CLASSES,
    LIVE,
    Identities,
    plain_scenes,
    render,
    sample_identities,
)

NAMED_COUNT = 200
NAMED_SEED = 11
IMAGES_PER_SUBJECT = 5


@dataclass(frozen=True)
class Cohort:
    """Subjects that are drawn together, one a class noun; another cohort moves none of them."""

    split: str
    seed: int
    name: str  #: of a subject, with {} for its class noun
    nouns: tuple[str, ...]

    def draw(self) -> Identities:
        """The identities, in the order of `nouns`."""
        kind = torch.tensor([CLASSES.index(noun) for noun in self.nouns])
        generator = torch.Generator().manual_seed(self.seed)
        return sample_identities(len(self.nouns), generator, kind=kind)


_DEVELOPMENT_NOUNS = ("dog", "cat", "rabbit", "teapot", "boot", "robot")
#: The seeds 19 and 59 are the first after 13 with which no two classmates look alike
#: (DECISIONS.md).
COHORTS = (
    Cohort("development", 12, "dev-{}", _DEVELOPMENT_NOUNS),
    Cohort("test", 13, "{}", CLASSES),
    Cohort("test", 19, "{}2", CLASSES),
    Cohort("test", 59, "{}3", CLASSES),
)


def named() -> tuple[tuple[str, ...], Identities]:
    """The known individuals: (names, identities), the classes taking turns."""
    kind = torch.arange(NAMED_COUNT) % len(CLASSES)
    generator = torch.Generator().manual_seed(NAMED_SEED)
    return individual_names(NAMED_COUNT), sample_identities(NAMED_COUNT, generator, kind=kind)


def subjects(split: str) -> tuple[tuple[str, ...], Identities]:
    """The subjects of "development" or "test": (folder names, identities), cohort by cohort."""
    cohorts = [cohort for cohort in COHORTS if cohort.split == split]
    names = tuple(cohort.name.format(noun) for cohort in cohorts for noun in cohort.nouns)
    return names, Identities.cat([cohort.draw() for cohort in cohorts])


def evaluation_prompts() -> dict[str, dict[str, list[str]]]:
    """DreamBench's three prompt groups, in words that the pocket world knows."""
    places = [f"a {{}} {phrase}" for phrase in BACKGROUND_PHRASES.values() if phrase]
    properties = [f"a {word} {{}}" for word in ("red", "purple", "green", "shiny")]
    accessories = [f"a {{}} {accessory_phrase(a)}" for a in ACCESSORIES[1:]]
    return {
        "live": {
            "recontextualization": places[:6],
            "accessory": accessories[:4],
            "property": properties,
        },
        "object": {"recontextualization": places, "property": properties},
    }


def write_dataset(directory: Path) -> None:
    """Draw both splits anew into `directory`, in DreamBench's layout: a folder of images per
    subject, `manifest.toml` with their SHA-256, `prompts.toml`."""
    tables: dict[str, dict[str, Any]] = {}
    for cohort in COHORTS:
        tables |= _write_cohort(directory, cohort)
    # Classmates stand together: dog, dog2, dog3.
    ordered = sorted(
        tables.items(), key=lambda one: (one[1]["split"], CLASSES.index(one[1]["class_noun"]))
    )
    manifest = {"name": "pocket", "subjects": dict(ordered)}
    (directory / "manifest.toml").write_text(tomli_w.dumps(manifest))
    (directory / "prompts.toml").write_text(tomli_w.dumps(evaluation_prompts()))


def _write_cohort(directory: Path, cohort: Cohort) -> dict[str, dict[str, Any]]:
    """Draw a cohort's images. Returns its tables of the manifest, by subject."""
    identities = cohort.draw()
    rows = torch.arange(len(identities)).repeat_interleave(IMAGES_PER_SUBJECT)
    repeated = identities[rows]
    scenes = plain_scenes(repeated, torch.Generator().manual_seed(1000 + cohort.seed))
    pictures = render(repeated, scenes).permute(0, 2, 3, 1).mul(255).round().byte().numpy()
    tables = {}
    for i, noun in enumerate(cohort.nouns):
        name = cohort.name.format(noun)
        own = pictures[i * IMAGES_PER_SUBJECT : (i + 1) * IMAGES_PER_SUBJECT]
        tables[name] = {
            "class_noun": noun,
            "live": noun in LIVE,
            "split": cohort.split,
            "files": _write_images(directory / name, own),
        }
    return tables


def _write_images(folder: Path, pictures: np.ndarray) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for i, picture in enumerate(pictures):
        path = folder / f"{i:02}.png"
        Image.fromarray(picture).save(path, optimize=True)
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests
