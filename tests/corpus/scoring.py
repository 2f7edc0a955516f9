"""Odd images and texts under the scorer, and what is named twice when a run is planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.api import REAL_PROMPT, Prompt, Request, Subject, Unscored
from benchmark.config.protocol import load_protocol
from benchmark.config.suite import Suite, load_suite
from benchmark.models.kinds import DIFFUSERS
from benchmark.runs.plan import plan
from benchmark.scoring.batch import ImageBatch
from benchmark.scoring.encoders import ClipEncoder, Preprocessing
from benchmark.scoring.features import Encoders
from benchmark.scoring.metrics import DINO, DINO_NEAREST
from benchmark.scoring.scorer import check_texts
from benchmark.studies.outside_images import OutsideImages, collect
from tests import toy
from tests.corpus.case import OWN, Case, refused
from tests.corpus.data import litter
from tests.scoring.colours import Colours

# Copies ----------------------------------------------------------------------------------------

SNOW = Prompt("a {} in the snow", "recontextualization")
RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.integers(0, 256, (6, 5, 3), np.uint8) for _ in range(2))


@dataclass(frozen=True)
class Scene:
    """Images for one prompt, and the photographs of a subject."""

    prompt: Prompt
    images: list[np.ndarray]
    real: list[np.ndarray] = field(default_factory=lambda: [FIRST, SECOND])

    @property
    def batch(self) -> ImageBatch:
        paths = tuple(Path(f"{i}.png") for i in range(len(self.real)))
        return ImageBatch(
            requests=[Request(self.prompt, i, 0) for i in range(len(self.images))],
            subject=Subject("dog", "dog", True, paths, "digest"),
            images=self.images,
            captions=[None] * len(self.images),
            real_images=self.real,
            counted=range(len(self.real)),
            encoders=Encoders({"dino": Colours()}),
        )


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    first, second = Colours().embeddings([one, other]).astype(np.float64)
    return float(first @ second)


def near(expected: float) -> Any:
    return lambda found: abs(found - expected) < 1e-6


def copy_counts(scene: Scene) -> None:
    """Of a generated copy of the first photograph."""
    cosines = [cosine(scene.images[0], real) for real in scene.real]
    assert near(1.0)(DINO_NEAREST(scene.batch)[0])
    assert near(float(np.mean(cosines)))(DINO(scene.batch)[0])
    assert near(1.0)(max(cosines))


def real_images_score(*expected: float | None) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        found = DINO(scene.batch)
        assert set(found) == set(range(len(expected)))
        for i, value in enumerate(expected):
            if value is None:
                assert found[i] == Unscored("the only reference is this image itself")
            else:
                assert near(value)(found[i])

    return check


COPIES = (
    Case(
        "a copy of a reference among generated images",
        "https://github.com/VectorSpaceLab/OmniGen/issues/87",
        lambda _: Scene(SNOW, [FIRST]),
        copy_counts,
    ),
    Case(
        "a copy of a subject's only photograph",
        OWN,
        lambda _: Scene(SNOW, [FIRST], [FIRST]),
        copy_counts,
    ),
    Case(
        "a subject's only photograph",
        OWN,
        lambda _: Scene(REAL_PROMPT, [FIRST], [FIRST]),
        real_images_score(None),
    ),
    Case(
        "a real image compared with the others",
        "https://github.com/XavierXiao/Dreambooth-Stable-Diffusion/issues/166",
        lambda _: Scene(REAL_PROMPT, [FIRST, SECOND]),
        real_images_score(*[cosine(FIRST, SECOND)] * 2),
    ),
    Case(
        "a photograph that a subject has twice",
        OWN,
        lambda _: Scene(REAL_PROMPT, [FIRST, FIRST, SECOND], [FIRST, FIRST.copy(), SECOND]),
        real_images_score(*[cosine(FIRST, SECOND)] * 3),
    ),
    Case(
        "a subject of one photograph in two files",
        OWN,
        lambda _: Scene(REAL_PROMPT, [FIRST, FIRST], [FIRST, FIRST.copy()]),
        real_images_score(None, None),
    ),
)

# Texts that are too long -----------------------------------------------------------------------

FITS = "a dog " * 11  #: 24 tokens with both marks, which the pocket models read
LONG = "a dog " * 11 + "cat"


def scored(text: str) -> None:
    check_texts(load_protocol("pocket"), [text])


def drawn(text: str) -> None:
    DIFFUSERS.check_texts("pocket", [text])


def encoded(text: str) -> object:
    """The encoder itself refuses, where nobody asked before."""
    import open_clip
    import torch

    preprocessing = Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    model = torch.nn.Identity()
    return ClipEncoder(model, tokenizer, preprocessing, torch.device("cpu")).text_embeddings([text])


def accepted(text: str) -> None:
    scored(text)
    drawn(text)


def templates(*texts: str) -> Callable[[Path], Suite]:
    """The pocket suite, in which Textual Inversion learns from these."""

    def make(_: Path) -> Suite:
        suite = load_suite("pocket")
        methods = suite.methods | {"textual-inversion": {"templates": list(texts)}}
        return suite.model_copy(update={"methods": methods})

    return make


def planned(suite: Suite) -> object:
    return plan(suite, ["textual-inversion"], subjects=["dog"])


def with_identifier(word: str) -> object:
    suite = load_suite("pocket")
    backbone = suite.backbone.model_copy(update={"identifier": word})
    suite = suite.model_copy(update={"backbone": backbone})
    return plan(suite, ["dreambooth"], subjects=["dog"])


TEXTS = (
    Case("a text that just fits", OWN, lambda _: FITS, accepted),
    Case(
        "a caption longer than the encoder reads",
        "https://github.com/Lightning-AI/torchmetrics/issues/2883",
        lambda _: LONG,
        refused(scored, "encoders.clip", LONG, "longer than the 24 tokens", "shorten"),
    ),
    Case(
        "a caption longer than CLIP reads",
        "https://github.com/openai/CLIP/issues/212",
        lambda _: "a dog " * 40,
        refused(encoded, "longer than the 77 tokens"),
    ),
    Case(
        "a prompt longer than the backbone reads",
        "https://github.com/openvinotoolkit/stable-diffusion-webui/issues/25",
        lambda _: LONG,
        refused(drawn, LONG, "25 tokens, but 'pocket' reads 24: shorten it"),
    ),
    Case(
        "a template without a place for the word",
        "https://github.com/AUTOMATIC1111/stable-diffusion-webui/pull/4688",
        templates("a photo of a dog"),
        refused(planned, "'templates'", "'textual-inversion'", "needs {} once"),
    ),
    Case(
        "a template with another tool's placeholder",
        "https://github.com/invoke-ai/InvokeAI/issues/369",
        templates("a photo of a {}", "a photo of a *"),
        refused(planned, "'a photo of a *'", "needs {} once"),
    ),
    Case(
        "a template with two places",
        "https://github.com/huggingface/diffusers/pull/266",
        templates("a {} with {}"),
        refused(planned, "needs {} once"),
    ),
    Case(
        "a template with a number in its place",
        OWN,
        templates("a {0}"),
        refused(planned, "'a {0}'", "needs {} once"),
    ),
    Case(
        "a word to be learned that is several tokens",
        "https://github.com/rinongal/textual_inversion/issues/18",
        lambda _: "xyzzy",
        refused(
            lambda word: DIFFUSERS.check_words("pocket", [word]),
            "'xyzzy' is 5 tokens of 'pocket'",
            "choose a word",
        ),
    ),
    Case(
        "an identifier that the class noun has too",
        OWN,
        lambda _: "dog",
        refused(with_identifier, "class_noun 'dog'", "holds the identifier 'dog'", "another"),
    ),
)

# Images of other tools -------------------------------------------------------------------------


@dataclass(frozen=True)
class Brought:
    """Images, and the suite that they are scored by."""

    images: Path
    suite: Suite


def brought(folder: Path, name: str = "0.png") -> Brought:
    suite = load_suite(str(toy.write_world(folder)))
    place = folder / "made" / "dog-red" / "prior"
    place.mkdir(parents=True)
    Image.fromarray(FIRST).save(place / name, "PNG")
    return Brought(folder / "made", suite)


def found(made: Brought) -> OutsideImages:
    return collect(made.images, made.suite, method="mine")


def one_image(made: Brought) -> None:
    work = found(made)
    assert work.unmatched == ()
    assert [len(job.requests) for job in work.jobs] == [1]


def littered(folder: Path) -> Brought:
    made = brought(folder)
    for place in (made.images, made.images / "dog-red", made.images / "dog-red/prior"):
        litter(place)
    return made


def table(*lines: str, encoding: str = "utf-8") -> Callable[[Path], Brought]:
    def make(folder: Path) -> Brought:
        made = brought(folder)
        text = "\r\n".join(line.replace("IMAGE", "made/dog-red/prior/0.png") for line in lines)
        (folder / "all.csv").write_bytes((text + "\r\n").encode(encoding))
        return replace(made, images=folder / "all.csv")

    return make


HEAD = "file,subject,prompt"
IMAGES = (
    Case(
        "what systems leave among images to score",
        "https://github.com/d8ahazard/sd_dreambooth_extension/issues/44",
        littered,
        one_image,
    ),
    Case(
        "a suffix in upper case among images to score",
        "https://github.com/replicate/lora-training/issues/9",
        lambda folder: brought(folder, "0.PNG"),
        one_image,
    ),
    Case(
        "a CSV with a byte order mark, as Excel writes it",
        "https://github.com/pandas-dev/pandas/issues/4793",
        table(HEAD, "IMAGE,dog-red,prior", encoding="utf-8-sig"),
        one_image,
    ),
    Case(
        "a CSV with blanks at the ends",
        OWN,
        table(HEAD, " IMAGE ,dog-red , prior "),
        one_image,
    ),
    Case(
        "a CSV in UTF-16, as Excel's Unicode text",
        "https://github.com/d8ahazard/sd_dreambooth_extension/issues/515",
        table(HEAD, "IMAGE,dog-red,prior", encoding="utf-16"),
        refused(found, "all.csv", "it is UTF-16 text: save it as UTF-8"),
    ),
    Case(
        "a CSV in a Windows code page",
        "https://github.com/MNeMoNiCuZ/joy-caption-batch/issues/1",
        table(HEAD, "IMAGE,dog-red,a dog\u2019s portrait", encoding="cp1252"),
        refused(found, "all.csv", "byte 0x92 in line 2 is no UTF-8"),
    ),
    Case(
        "an image twice in a CSV",
        "https://github.com/Scalsol/mega.pytorch/issues/23",
        table(HEAD, "IMAGE,dog-red,prior", "IMAGE,dog-red,prior"),
        refused(found, "all.csv: lines 2 and 3 both name", "take one of them away"),
    ),
    Case(
        "a column twice in a CSV",
        OWN,
        table(f"{HEAD},subject", "IMAGE,dog-red,prior,dog-blue"),
        refused(found, "column 'subject' is there twice"),
    ),
)

# What is named twice ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    suite: Suite
    methods: list[str]


def asked(*methods: str) -> Callable[[Path], Asked]:
    return lambda folder: Asked(load_suite(str(toy.write_world(folder))), list(methods))


def grid(made: Asked) -> Any:
    twice = {"subjects": ["dog-red", "dog-red"], "prompts": ["1", "1"], "seeds": [3, 3]}
    return plan(made.suite, made.methods, **twice)


def once(made: Asked) -> None:
    (job,) = grid(made).jobs
    assert (job.subject, len(job.prompts), job.seed) == ("dog-red", 1, 3)


TWICE = (
    Case("all twice on the command line", OWN, asked("tests.toy:PAINT", "tests.toy:PAINT"), once),
    Case(
        "a variant's settings in two orders",
        OWN,
        asked("tests.toy:PAINT[steps=2,tint=0.5]", "tests.toy:PAINT[tint=0.5,steps=2]"),
        refused(grid, "are one method: name it once"),
    ),
    Case(
        "a variant's number in two spellings",
        OWN,
        asked("tests.toy:PAINT[tint=1]", "tests.toy:PAINT[tint=1.0]"),
        refused(grid, "'tests.toy:PAINT[tint=1]' and 'tests.toy:PAINT[tint=1.0]' are one method"),
    ),
)

CASES: tuple[Case, ...] = (*COPIES, *TEXTS, *IMAGES, *TWICE)
