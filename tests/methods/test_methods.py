"""What each method asks of the backbone (prompts, prior images, noise), and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Method, Prompt, Request, Subject, UserError
from benchmark.config.registry import configure, load_method, settings_of
from benchmark.models.loading import load_backbone
from benchmark.models.sampling import Sampler
from benchmark.models.stable_diffusion import Backbone
from methods.ablations import (
    IDENTIFIER_COMMON_WORD,
    IDENTIFIER_RANDOM_STRING,
    IDENTIFIER_SKS,
    NO_CLASS,
    NO_PRIOR,
    WRONG_CLASS,
)
from methods.controls import REAL_IMAGES, UNTUNED
from methods.dreambooth import DREAMBOOTH
from methods.textual_inversion import TEXTUAL_INVERSION
from tests.tiny_pipeline import save_tiny_pipeline

TINY = {"identifier": "sks", "steps": 2, "batch_size": 1}
TINY_DREAMBOOTH = TINY | {"prior_images": 2, "prior_steps": 2, "learning_rate": 1e-3}
METHODS = {
    "dreambooth": configure("dreambooth", DREAMBOOTH, TINY_DREAMBOOTH),
    "text-encoder-too": replace(DREAMBOOTH, **TINY_DREAMBOOTH, train_text_encoder=True),
    "no-prior": configure("no-prior", NO_PRIOR, TINY_DREAMBOOTH),
    "wrong-class": configure("wrong-class", WRONG_CLASS, TINY_DREAMBOOTH),
    "no-class": configure("no-class", NO_CLASS, TINY_DREAMBOOTH),
    "textual-inversion": configure("textual-inversion", TEXTUAL_INVERSION, TINY),
    "untuned": UNTUNED,
    "real-images": REAL_IMAGES,
}
SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [Request(SNOW, 0, 21), Request(SNOW, 1, 22), Request(PRIOR_PROMPT, 0, 23)]


def quiet(done: int, total: int, *, losses: object = None) -> None:
    """Nobody is told."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def backbone(directory: Path, tmp_path: Path) -> Backbone:
    return load_backbone(
        str(directory),
        precision="fp32",
        device="cpu",
        sampler=Sampler("ddim", 2, 4.0),
        prior_directory=tmp_path / "prior",
    )


@pytest.fixture(scope="module")
def dog(tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("dog-biscuit")
    random = np.random.default_rng(0)
    paths = (folder / "00.png", folder / "01.png")
    for path, size in zip(paths, [(16, 16), (20, 31)], strict=True):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return Subject("dog-biscuit", "dog", True, paths, "digest")


@pytest.fixture
def teapot(dog: Subject) -> Subject:
    return replace(dog, name="teapot-blue", class_noun="teapot", live=False)


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What is sampled and encoded, in order."""
    calls: list[dict] = []
    sample = Backbone.sample

    def recording(self, texts, noise_seeds, **options):
        calls.append({"texts": list(texts), "noise_seeds": list(noise_seeds)} | options)
        return sample(self, texts, noise_seeds, **options)

    monkeypatch.setattr(Backbone, "sample", recording)
    return calls


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name in ("unet", "vae", "text_encoder")
        for key, tensor in getattr(backbone, name).state_dict().items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_method_fits_generates_and_is_undone(backbone, directory, dog, name):
    before, method = state(backbone), METHODS[name]
    assert isinstance(method, Method)
    generate = method.fit(dog, backbone, seed=0, progress=quiet)
    requests = REQUESTS if method.prompted else [Request(REAL_PROMPT, i, 0) for i in range(2)]
    images = generate(requests)
    assert len(images) == len(requests)
    for image in images:
        assert image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    backbone.restore()
    assert all(torch.equal(before[key], tensor) for key, tensor in state(backbone).items())
    fresh = load_backbone(str(directory), precision="fp32", device="cpu", sampler=backbone.sampler)
    texts, seeds = ["a dog", "a sks dog"], [1, 2]
    assert torch.equal(backbone.sample(texts, seeds), fresh.sample(texts, seeds))


PHRASES = {
    "dreambooth": ("sks dog", "sks teapot"),
    "text-encoder-too": ("sks dog", "sks teapot"),
    "no-prior": ("sks dog", "sks teapot"),
    "wrong-class": ("sks teapot", "sks dog"),
    "no-class": ("sks", "sks"),
    "textual-inversion": ("sks", "sks"),
    "untuned": ("dog", "teapot"),
}


@pytest.mark.parametrize("name", PHRASES)
def test_prompts_carry_the_methods_phrase_and_the_prior_prompt_none(
    backbone, dog, teapot, asked, name
):
    for subject, phrase in zip((dog, teapot), PHRASES[name], strict=True):
        generate = METHODS[name].fit(subject, backbone, seed=0, progress=quiet)
        generate(REQUESTS)
        backbone.restore()
        snow = f"a {phrase} in the snow"
        assert asked[-1]["texts"] == [snow, snow, f"a {subject.class_noun}"]
        assert asked[-1]["noise_seeds"] == [21, 22, 23]
        assert asked[-1].get("sampler") is None


def test_dreambooth_changes_what_is_drawn(backbone, dog):
    untuned = UNTUNED.fit(dog, backbone, seed=0, progress=quiet)(REQUESTS)
    tuned = METHODS["dreambooth"].fit(dog, backbone, seed=0, progress=quiet)(REQUESTS)
    assert (tuned[2] - untuned[2]).abs().max() > 1e-3


def test_textual_inversion_leaves_the_class_prompt_as_it_was(backbone, dog):
    untuned = UNTUNED.fit(dog, backbone, seed=0, progress=quiet)(REQUESTS)
    inverted = METHODS["textual-inversion"].fit(dog, backbone, seed=0, progress=quiet)(REQUESTS)
    assert torch.equal(inverted[2], untuned[2])
    assert not torch.equal(inverted[0], untuned[0])


def test_prior_images_are_drawn_once_for_all_methods_and_subjects(backbone, dog, asked):
    methods = [
        METHODS["dreambooth"],
        METHODS["text-encoder-too"],
        replace(METHODS["dreambooth"], learning_rate=1e-4, identifier="ohwx", prior_weight=0.3),
    ]
    for method in methods:
        for subject in (dog, replace(dog, name="dog-other")):
            method.fit(subject, backbone, seed=0, progress=quiet)
            backbone.restore()
    assert len(asked) == 1
    assert asked[0]["texts"] == ["a dog", "a dog"]
    assert asked[0]["sampler"] == Sampler("ddpm", 2, 1.0)
    assert len(list(backbone.prior_directory.glob("*.safetensors"))) == 1
    methods[0].fit(dog, backbone, seed=1, progress=quiet)
    assert len(asked) == 2 and asked[1]["noise_seeds"] != asked[0]["noise_seeds"]


def test_the_wrong_nouns_prior_is_preserved(backbone, dog, asked):
    METHODS["wrong-class"].fit(dog, backbone, seed=0, progress=quiet)
    assert asked[0]["texts"] == ["a teapot", "a teapot"]


@pytest.mark.parametrize("name", ["no-prior", "no-class", "textual-inversion", "untuned"])
def test_methods_without_prior_term_never_touch_prior_images(backbone, dog, monkeypatch, name):
    monkeypatch.setattr(Backbone, "prior_images", None)
    monkeypatch.setattr(Backbone, "prior_moments", None)
    METHODS[name].fit(dog, backbone, seed=0, progress=quiet)
    assert not backbone.prior_directory.exists()


def test_the_text_encoder_is_trained_only_if_asked(backbone, dog):
    for name, moves in (("dreambooth", False), ("text-encoder-too", True)):
        before = state(backbone)
        METHODS[name].fit(dog, backbone, seed=0, progress=quiet)
        after = state(backbone)
        backbone.restore()
        moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert moved == {"unet"} | ({"text_encoder"} if moves else set())


def test_real_images_are_the_files_own_pixels(backbone, dog):
    assert not REAL_IMAGES.prompted
    generate = REAL_IMAGES.fit(dog, backbone, seed=0, progress=quiet)
    images = generate([Request(REAL_PROMPT, i, 0) for i in (1, 0)])
    for image, path in zip(images, reversed(dog.images), strict=True):
        pixels = np.asarray(Image.open(path))
        assert np.array_equal((image.permute(1, 2, 0) * 255).round().byte().numpy(), pixels)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels / np.float32(255))


def test_the_defaults_are_the_papers():
    assert settings_of(DREAMBOOTH) == {
        "identifier": None,
        "steps": 1000,
        "learning_rate": 5e-6,
        "weight_decay": 1e-2,
        "max_grad_norm": 1.0,
        "batch_size": 1,
        "train_text_encoder": False,
        "prior_weight": 1.0,
        "prior_images": 1000,
        "prior_scheduler": "ddpm",
        "prior_steps": 250,
        "prior_guidance": 1.0,
        "noun": "correct",
        "wrong_noun_live": "teapot",
        "wrong_noun_object": "dog",
    }
    inversion = settings_of(TEXTUAL_INVERSION)
    assert (inversion["learning_rate"], inversion["batch_size"]) == (5e-3, 2)


def test_ablations_differ_from_dreambooth_in_their_setting_alone():
    whole = settings_of(DREAMBOOTH)
    for method, changed in (
        (NO_PRIOR, {"prior_weight": 0.0}),
        (WRONG_CLASS, {"noun": "wrong"}),
        (NO_CLASS, {"noun": "none", "prior_weight": 0.0}),
        (IDENTIFIER_SKS, {"identifier": "sks"}),
        (IDENTIFIER_COMMON_WORD, {"identifier": "special"}),
        (IDENTIFIER_RANDOM_STRING, {"identifier": "xxy5syt00"}),
    ):
        assert settings_of(method) == whole | changed
        assert method.description != DREAMBOOTH.description


@pytest.mark.parametrize(
    "name",
    [
        "dreambooth",
        "dreambooth-no-prior",
        "dreambooth-wrong-class",
        "dreambooth-no-class",
        "identifier-sks",
        "identifier-common-word",
        "identifier-random-string",
        "textual-inversion",
        "untuned",
        "real-images",
    ],
)
def test_methods_are_found_by_entry_point(name):
    assert load_method(name).description


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noun": "rare"}, "noun is 'rare'; known: correct, wrong, none"),
        ({"noun": "none"}, "set prior_weight to 0, not 1.0"),
        ({"prior_scheduler": "lms"}, "unknown scheduler 'lms'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        configure("dreambooth", DREAMBOOTH, settings)


def test_identifiers_that_cannot_work_are_refused(backbone, dog):
    for method in (METHODS["dreambooth"], METHODS["textual-inversion"]):
        missing = replace(method, identifier=None)
        with pytest.raises(UserError, match="'identifier' is missing"):
            missing.fit(dog, backbone, seed=0, progress=quiet)
        unknown = replace(method, identifier="s1")
        with pytest.raises(UserError, match="no tokens for"):
            unknown.fit(dog, backbone, seed=0, progress=quiet)
    long = replace(METHODS["textual-inversion"], identifier="zwx")
    with pytest.raises(UserError, match="'zwx' is 3 tokens .* single token"):
        long.fit(dog, backbone, seed=0, progress=quiet)


def test_listing_methods_loads_no_torch():
    code = (
        "import sys, methods.dreambooth, methods.ablations, methods.textual_inversion,"
        " methods.controls; heavy = {'torch', 'diffusers', 'transformers', 'numpy'};"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
