"""What each method asks of the backbone (prompts, prior images, noise), and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from benchmark.api import (
    CAPABILITIES,
    PRIOR_PROMPT,
    REAL_PROMPT,
    Method,
    PriorImages,
    Prompt,
    Request,
    Sampler,
    Subject,
    UserError,
)
from benchmark.config.registry import load_method
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
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
from methods.img2img import IMG2IMG
from methods.textual_inversion import TEXTUAL_INVERSION
from tests.hand_tools import HandTools
from tests.tiny_pipeline import save_tiny_pipeline, save_tiny_sd3, save_tiny_xl

TINY = {"identifier": "sks", "steps": 2, "batch_size": 1}
TINY_DREAMBOOTH = TINY | {"prior_images": 2, "prior_steps": 2, "learning_rate": 1e-3}
SAVED = [(save_tiny_pipeline, False), (save_tiny_pipeline, True)]
SAVED += [(save_tiny_xl, True), (save_tiny_sd3, True)]
METHODS = {
    "dreambooth": replace(DREAMBOOTH, **TINY_DREAMBOOTH),
    "text-encoder-too": replace(DREAMBOOTH, **TINY_DREAMBOOTH, train_text_encoder=True),
    "no-prior": replace(NO_PRIOR, **TINY_DREAMBOOTH),
    "wrong-class": replace(WRONG_CLASS, **TINY_DREAMBOOTH),
    "no-class": replace(NO_CLASS, **TINY_DREAMBOOTH),
    "textual-inversion": replace(TEXTUAL_INVERSION, **TINY),
    "img2img": replace(IMG2IMG, strength=0.5),
    "untuned": UNTUNED,
    "real-images": REAL_IMAGES,
}
SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [Request(SNOW, 0, 21), Request(SNOW, 1, 22), Request(PRIOR_PROMPT, 0, 23)]


def job(method: Method, subject: Subject, backbone, requests=REQUESTS, seed: int = 0):
    """Fit and generate, as a job does."""
    tools = HandTools(method, subject, seed)
    return method.generate(method.fit(subject, backbone, tools), subject, requests, backbone, tools)


@pytest.fixture(scope="module")
def directory(request, tmp_path_factory) -> Path:
    save = getattr(request, "param", save_tiny_pipeline)
    return save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(
        str(directory), precision="fp32", device="cpu", sampler=Sampler("own", 2, 4.0)
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
    """What is sampled, in order: the texts of the rows, and the seeds."""
    calls: list[dict] = []
    encode, sample = LatentDiffusion.encode, LatentDiffusion.sample
    known: dict[bytes, str] = {}

    def recording_encode(self, texts, **options):
        condition = encode(self, texts, **options)
        for text, row in zip(texts, condition.embeddings, strict=True):
            known[row.detach().numpy().tobytes()] = text
        return condition

    def recording_sample(self, condition, seeds, **options):
        texts = [known[row.numpy().tobytes()] for row in condition.embeddings]
        blank = known[options["unconditional"].embeddings[0].numpy().tobytes()]
        calls.append(options | {"texts": texts, "blank": blank, "seeds": seeds})
        return sample(self, condition, seeds, **options)

    monkeypatch.setattr(LatentDiffusion, "encode", recording_encode)
    monkeypatch.setattr(LatentDiffusion, "sample", recording_sample)
    return calls


def state(backbone: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in backbone.modules().items()
        for key, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize(("directory", "thorough"), SAVED, indirect=["directory"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_fits_generates_and_is_undone(backbone, directory, dog, name, thorough):
    before, method, loan = state(backbone), METHODS[name], Loan(backbone)
    assert isinstance(method, Method)
    references = [Request(REAL_PROMPT, i, 0) for i in range(2)]
    requests = REQUESTS if method.draws == "prompts" else references
    images = job(method, dog, backbone if method.needs else None, requests)
    assert len(images) == len(requests)
    for image in images:
        assert image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    assert loan.settle(thorough) == [] and loan.whole
    assert all(torch.equal(before[key], tensor) for key, tensor in state(backbone).items())
    fresh = load_backbone(str(directory), precision="fp32", device="cpu", sampler=backbone.sampler)
    images = [b.sample(b.encode(["a dog", "a sks dog"]), [1, 2]) for b in (backbone, fresh)]
    assert torch.equal(*images)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"real-images"}))
def test_images_are_drawn_from_the_weights_and_nothing_else(backbone, directory, dog, name):
    """Kept weights on a pristine backbone draw what the fitted one drew, to the bit."""
    method, tools = METHODS[name], HandTools(METHODS[name], dog)
    weights = method.fit(dog, backbone, tools)
    images = method.generate(weights, dog, REQUESTS, backbone, tools)
    kept = {key: tensor.detach().clone() for key, tensor in weights.items()}
    fresh = load_backbone(str(directory), precision="fp32", device="cpu", sampler=backbone.sampler)
    assert torch.equal(method.generate(kept, dog, REQUESTS, fresh, tools), images)
    if kept and name != "textual-inversion":
        with pytest.raises(ValueError, match="not of this model"):
            method.generate({"other": torch.zeros(1)}, dog, REQUESTS, fresh, tools)


def test_weights_are_the_live_ones_and_what_was_trained(backbone, dog):
    for name, encoder_too in (("no-prior", False), ("text-encoder-too", True)):
        method = METHODS[name]
        weights = method.fit(dog, backbone, HandTools(method, dog))
        live = {p.data_ptr() for m in backbone.modules().values() for p in m.parameters()}
        assert {tensor.data_ptr() for tensor in weights.values()} <= live
        roles = {key.partition(".")[0] for key in weights}
        assert roles == {"denoiser"} | ({"text_encoder"} if encoder_too else set())


def test_only_what_the_protocol_offers_is_touched(backbone, dog):
    """Methods get a backbone that has nothing but the protocol's members."""

    class Bare:
        pass

    members = (
        *("id", "resolution", "device", "precision", "sampler", "stages", "text_encoders"),
        *("modules", "encode", "new_word", "sample"),
    )
    bare = Bare()
    for member in members:
        setattr(bare, member, getattr(backbone, member))
    for number, stage in enumerate(backbone.stages):
        assert number == 0
        only = Bare()
        for member in ("name", "resolution", "denoiser", "prepare", "draw", "loss"):
            setattr(only, member, getattr(stage, member))
        bare.stages = [only]
    for name in ("text-encoder-too", "textual-inversion", "untuned"):
        assert len(job(METHODS[name], dog, bare)) == len(REQUESTS)


def test_later_stages_of_a_cascade_are_trained_where_that_is_asked_for(backbone, directory, dog):
    second = load_backbone(str(directory), precision="fp32", device="cpu", resolution=24)
    [first], [upscaler] = backbone.stages, second.stages
    backbone.stages = (first, replace(upscaler, name="upscaler"))
    before = [next(stage.denoiser.parameters()).clone() for stage in backbone.stages]
    alone = replace(METHODS["dreambooth"], steps=3, train_text_encoder=True)
    tools = HandTools(alone, dog)
    assert {key.split(".")[1] for key in alone.fit(dog, backbone, tools)} == {
        *("unet", "text_encoder")
    }
    assert torch.equal(next(upscaler.denoiser.parameters()), before[1])
    assert tools.asked == ["unet"] and tools.steps == [(i, 3) for i in range(1, 4)]
    assert tools.losses[1].keys() == {"instance", "prior"}
    assert alone.needs == {"text-to-image", "training"}
    method = replace(alone, super_resolution_steps=2, super_resolution_learning_rate=1e-9)
    text_encoder = backbone.text_encoders["text_encoder"]
    after_first = text_encoder.get_input_embeddings().weight.clone()
    tools = HandTools(method, dog)
    weights = method.fit(dog, backbone, tools)
    assert {key.split(".")[1] for key in weights} == {"unet", "upscaler", "text_encoder"}
    moved = (next(upscaler.denoiser.parameters()) - before[1]).abs().max()
    assert 0 < moved < 1e-7, "at a rate of its own"
    assert not torch.equal(text_encoder.get_input_embeddings().weight, after_first)
    assert tools.asked == ["unet", "upscaler"]
    assert tools.steps == [(i, 5) for i in range(1, 6)]
    assert tools.losses[1].keys() == {"unet: instance", "unet: prior"}
    assert tools.losses[5].keys() == {"upscaler: instance", "upscaler: prior"}
    assert method.needs == {"text-to-image", "training", "super-resolution"}


def test_settings_of_later_stages_that_nothing_learns_by_are_refused():
    with pytest.raises(UserError, match="super_resolution_noise is set, and nothing learns by it"):
        replace(DREAMBOOTH, super_resolution_noise=0.0)
    with pytest.raises(UserError, match="noun is 'none', so there is none for super_resolution_p"):
        replace(
            DREAMBOOTH,
            noun="none",
            prior_weight=0.0,
            super_resolution_steps=1,
            super_resolution_prompt="noun",
        )


#: Settings of the later stages of a cascade.
LATER = ("steps", "learning_rate", "noise", "prompt")

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
        job(METHODS[name], subject, backbone)
        snow = f"a {phrase} in the snow"
        assert asked[-1]["texts"] == [snow, snow, f"a {subject.class_noun}"]
        assert asked[-1]["blank"] == "" and asked[-1]["seeds"] == [21, 22, 23]
        assert asked[-1].get("sampler") is None


def test_dreambooth_changes_what_is_drawn(backbone, dog):
    untuned = job(UNTUNED, dog, backbone)
    tuned = job(METHODS["dreambooth"], dog, backbone)
    assert (tuned[2] - untuned[2]).abs().max() > 1e-3


def test_textual_inversion_leaves_the_class_prompt_as_it_was(backbone, dog):
    untuned = job(UNTUNED, dog, backbone)
    inverted = job(METHODS["textual-inversion"], dog, backbone)
    assert torch.equal(inverted[2], untuned[2])
    assert not torch.equal(inverted[0], untuned[0])


def test_prior_images_are_of_the_noun_that_is_preserved(dog, teapot):
    sampler = Sampler("ddpm", 2, 1.0)
    for name, nouns in (
        ("dreambooth", ("dog", "teapot")),
        ("text-encoder-too", ("dog", "teapot")),
        ("wrong-class", ("teapot", "dog")),
    ):
        for subject, noun in zip((dog, teapot), nouns, strict=True):
            assert METHODS[name].prior(subject) == PriorImages(noun, 2, sampler)


@pytest.mark.parametrize("name", sorted(METHODS.keys()))
def test_prior_images_are_taken_once_by_those_that_asked(backbone, dog, name):
    method, tools = METHODS[name], HandTools(METHODS[name], dog)
    method.fit(dog, backbone, tools)
    assert tools.asked == ([] if method.prior(dog) is None else ["unet"])
    assert (method.prior(dog) is None) == (
        name in ("no-prior", "no-class", "textual-inversion", "img2img", "untuned", "real-images")
    )


def test_the_text_encoder_is_trained_only_if_asked(backbone, dog):
    for name, moves in (("dreambooth", False), ("text-encoder-too", True)):
        before, method = state(backbone), METHODS[name]
        method.fit(dog, backbone, HandTools(method, dog))
        after = state(backbone)
        moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert moved == {"unet"} | ({"text_encoder"} if moves else set())


def test_real_images_are_the_files_own_pixels(dog):
    assert REAL_IMAGES.draws == "references" and not REAL_IMAGES.needs
    images = job(REAL_IMAGES, dog, None, [Request(REAL_PROMPT, i, 0) for i in (1, 0)])
    for image, path in zip(images, reversed(dog.images), strict=True):
        pixels = np.asarray(Image.open(path))
        assert np.array_equal((image.permute(1, 2, 0) * 255).round().byte().numpy(), pixels)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels / np.float32(255))


def settings(method: Method) -> dict[str, object]:
    return {
        field.name: getattr(method, field.name)
        for field in fields(method)
        if field.name not in ("description", "variant_of")
    }


def test_the_defaults_are_the_papers():
    assert settings(DREAMBOOTH) == {
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
        "gradient_accumulation": None,
        "optimiser": None,
        "training_guidance": None,
        **dict.fromkeys(f"super_resolution_{name}" for name in LATER),
    }
    inversion = settings(TEXTUAL_INVERSION)
    assert (inversion["learning_rate"], inversion["batch_size"]) == (5e-3, 2)


def test_settings_stand_in_the_order_that_reports_and_errors_tell_them_in():
    first = ["identifier", "steps", "learning_rate", "weight_decay"]
    last = ["training_guidance", "gradient_accumulation", "optimiser"]
    assert [*settings(TEXTUAL_INVERSION)] == [*first, "batch_size", "templates", *last]
    assert [*settings(DREAMBOOTH)] == [
        *(*first, "max_grad_norm", "batch_size", "train_text_encoder"),
        *(f"prior_{name}" for name in ("weight", "images", "scheduler", "steps", "guidance")),
        *("noun", "wrong_noun_live", "wrong_noun_object", *last),
        *(f"super_resolution_{name}" for name in LATER),
    ]


def test_ablations_differ_from_dreambooth_in_their_setting_alone():
    whole = settings(DREAMBOOTH)
    for method, changed in (
        (NO_PRIOR, {"prior_weight": 0.0}),
        (WRONG_CLASS, {"noun": "wrong"}),
        (NO_CLASS, {"noun": "none", "prior_weight": 0.0}),
        (IDENTIFIER_SKS, {"identifier": "sks"}),
        (IDENTIFIER_COMMON_WORD, {"identifier": "special"}),
        (IDENTIFIER_RANDOM_STRING, {"identifier": "xxy5syt00"}),
    ):
        assert settings(method) == whole | changed
        assert method.description != DREAMBOOTH.description
        assert method.variant_of == "dreambooth" and method.role == DREAMBOOTH.role == "method"
    assert DREAMBOOTH.variant_of is None


def test_the_controls_are_bounds():
    assert UNTUNED.role == "lower bound" and REAL_IMAGES.role == "upper bound"
    assert UNTUNED.draws == "prompts"
    assert UNTUNED.variant_of is None and REAL_IMAGES.variant_of is None


@pytest.mark.parametrize("name", METHODS)
def test_methods_need_what_the_built_in_backbone_has(name):
    assert METHODS[name].needs <= set(CAPABILITIES)


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
    ("method", "wrong"),
    [
        (DREAMBOOTH, {"noun": "rare"}),
        (DREAMBOOTH, {"steps": 0}),
        (DREAMBOOTH, {"steps": 1.5}),
        (DREAMBOOTH, {"learning_rate": 0.0}),
        (DREAMBOOTH, {"weight_decay": -0.1}),
        (DREAMBOOTH, {"max_grad_norm": -1.0}),
        (DREAMBOOTH, {"batch_size": 0}),
        (DREAMBOOTH, {"prior_weight": -1.0}),
        (DREAMBOOTH, {"prior_images": 0}),
        (DREAMBOOTH, {"prior_steps": 0}),
        (DREAMBOOTH, {"identifier": ""}),
        (DREAMBOOTH, {"gradient_accumulation": 0}),
        (DREAMBOOTH, {"optimiser": "sgd"}),
        (DREAMBOOTH, {"train_text_encoder": 1}),
        (TEXTUAL_INVERSION, {"steps": 0}),
        (TEXTUAL_INVERSION, {"learning_rate": -1.0}),
        (TEXTUAL_INVERSION, {"batch_size": 0}),
        (TEXTUAL_INVERSION, {"identifier": ""}),
        (TEXTUAL_INVERSION, {"templates": []}),
    ],
)
def test_settings_declare_their_ranges(method, wrong):
    adapter = TypeAdapter(type(method))
    plain = adapter.dump_python(method)
    assert adapter.validate_json(json.dumps(plain), strict=True) == method
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        adapter.validate_json(json.dumps(plain | wrong), strict=True)


def test_settings_that_contradict_each_other_are_refused_at_once(dog):
    with pytest.raises(UserError, match="set prior_weight to 0, not 1.0"):
        replace(DREAMBOOTH, noun="none")


def test_identifiers_that_cannot_work_are_refused(backbone, dog):
    for method in (METHODS["dreambooth"], METHODS["textual-inversion"]):
        with pytest.raises(UserError, match="'identifier' is missing"):
            job(replace(method, identifier=None), dog, backbone)
        with pytest.raises(UserError, match="no tokens for"):
            job(replace(method, identifier="s1"), dog, backbone)
    with pytest.raises(UserError, match="'zwx' is 3 tokens .* single token"):
        job(replace(METHODS["textual-inversion"], identifier="zwx"), dog, backbone)


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
