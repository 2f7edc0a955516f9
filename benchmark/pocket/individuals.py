"""The individuals of the pocket world: the known ones, and the subjects that nobody has met.

    python -c "from benchmark.pocket.individuals import named; print(named()[0][:5])"

*Known* individuals have names and are drawn often in pretraining. *Development* subjects are for
choosing settings, *test* subjects for the numbers that are reported; pretraining draws neither.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

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
#: Seeds of the three populations; each is drawn from its own generator.
NAMED_SEED, DEVELOPMENT_SEED, TEST_SEED = 11, 12, 13
IMAGES_PER_SUBJECT = 5

DEVELOPMENT = ("dog", "cat", "rabbit", "teapot", "boot", "robot")
TEST = CLASSES


def named() -> tuple[tuple[str, ...], Identities]:
    """The known individuals: (names, identities), the classes taking turns."""
    kind = torch.arange(NAMED_COUNT) % len(CLASSES)
    generator = torch.Generator().manual_seed(NAMED_SEED)
    return individual_names(NAMED_COUNT), sample_identities(NAMED_COUNT, generator, kind=kind)


def subjects(split: str) -> tuple[tuple[str, ...], Identities]:
    """The subjects of "development" or "test": (folder names, identities), one a class noun."""
    nouns, seed = {
        "development": (DEVELOPMENT, DEVELOPMENT_SEED),
        "test": (TEST, TEST_SEED),
    }[split]
    kind = torch.tensor([CLASSES.index(n) for n in nouns])
    generator = torch.Generator().manual_seed(seed)
    mark = {"development": "dev-", "test": ""}[split]
    return tuple(mark + n for n in nouns), sample_identities(len(nouns), generator, kind=kind)


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
    tables = {}
    for split in ("development", "test"):
        names, identities = subjects(split)
        repeated = Identities.cat(
            [identities[i : i + 1] for i in range(len(names)) for _ in range(IMAGES_PER_SUBJECT)]
        )
        seed = DEVELOPMENT_SEED if split == "development" else TEST_SEED
        scenes = plain_scenes(repeated, torch.Generator().manual_seed(1000 + seed))
        pictures = render(repeated, scenes).permute(0, 2, 3, 1).mul(255).round().byte().numpy()
        for i, name in enumerate(names):
            noun = CLASSES[int(identities.kind[i])]
            files = _write_images(
                directory / name, pictures[i * IMAGES_PER_SUBJECT : (i + 1) * IMAGES_PER_SUBJECT]
            )
            tables[name] = {
                "class_noun": noun,
                "live": noun in LIVE,
                "split": split,
                "files": files,
            }
    manifest = {"name": "pocket", "subjects": tables}
    (directory / "manifest.toml").write_text(tomli_w.dumps(manifest))
    (directory / "prompts.toml").write_text(tomli_w.dumps(evaluation_prompts()))


def _write_images(folder: Path, pictures: np.ndarray) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for i, picture in enumerate(pictures):
        path = folder / f"{i:02}.png"
        Image.fromarray(picture).save(path, optimize=True)
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests
