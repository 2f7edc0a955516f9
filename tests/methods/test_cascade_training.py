"""DreamBooth on both stages of a cascade, against steps written out plainly (tests/reference)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from benchmark.api import Prompt, Request, Sampler, Subject
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
from methods.dreambooth import DreamBooth
from methods.textual_inversion import TextualInversion
from methods.training import Loss, seeded
from tests.hand_tools import HandTools
from tests.reference import cascade_finetuning as reference
from tests.tiny_pipeline import save_tiny_cascade

TINY = DreamBooth(
    identifier="sks",
    steps=2,
    learning_rate=1e-3,
    batch_size=2,
    prior_weight=0.7,
    prior_images=3,
    prior_steps=2,
    super_resolution_steps=2,
    super_resolution_learning_rate=5e-4,
    super_resolution_noise=0.01,
    super_resolution_prompt="noun",
)
#: Of the noise that the setting asks for.
LEVEL = 10
SIDES = {"base": 8, "super_resolution": 16}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_cascade(tmp_path_factory.mktemp("models") / "cascade")


@pytest.fixture
def backbone(directory: Path):
    sampler = Sampler("ddpm", 2, 4.0)
    return load_backbone(str(directory), sampler=sampler, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    random = np.random.default_rng(0)
    paths = tuple(folder / f"{i}.png" for i in range(3))
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return Subject("dog-biscuit", "dog", True, paths, "digest")


def drawn(images: torch.Tensor, stage: str, prompt: str, generator) -> reference.Given:
    """What a step learns from `images`, in [0, 1]: the numbers in the order that is promised."""
    chosen = images[torch.randint(len(images), (2,), generator=generator)]
    timesteps = torch.randint(1000, (2,), generator=generator)
    noise = torch.randn(chosen.shape, generator=generator)
    given = reference.Given(chosen * 2 - 1, noise, timesteps, [prompt] * 2)
    if stage == "super_resolution":
        small = interpolate(chosen, (8, 8), mode="bicubic", antialias=True).clamp(0, 1)
        given.small, given.level = small * 2 - 1, LEVEL
        given.small_noise = torch.randn(chosen.shape, generator=generator)
    return given


def prior_images(side: int) -> torch.Tensor:
    noise = torch.randint(256, (3, 3, side, side), generator=torch.Generator().manual_seed(0))
    return noise.float() / 255


def test_both_stages_learn_by_the_papers_loss(backbone, directory, subject, monkeypatch):
    losses: list[float] = []
    weighted = Loss.weighted

    def recording(self, terms):
        total = weighted(self, terms)
        losses.append(total.item())
        return total

    monkeypatch.setattr(Loss, "weighted", recording)
    tools = HandTools(TINY, subject)
    frozen = {k: v.clone() for k, v in backbone.reader.encoder.state_dict().items()}
    weights = TINY.fit(subject, backbone, tools)
    assert all(torch.equal(v, frozen[k]) for k, v in backbone.reader.encoder.state_dict().items())
    assert tools.losses.keys() == {1, 2, 3, 4}
    settings = {
        "base": (TINY.learning_rate, "a sks dog"),
        "super_resolution": (TINY.super_resolution_learning_rate, "a dog"),
    }
    for number, (stage, (rate, prompt)) in enumerate(settings.items()):
        generators = [seeded(0, subject.name, name) for name in ("instance", "prior")]
        images = tools.images(SIDES[stage]), prior_images(SIDES[stage])
        expected = reference.dreambooth_steps(
            directory,
            stage,
            [
                [
                    drawn(images[0], stage, prompt, generators[0]),
                    drawn(images[1], stage, "a dog", generators[1]),
                ]
                for _ in range(2)
            ],
            prior_weight=TINY.prior_weight,
            learning_rate=rate,
            weight_decay=TINY.weight_decay,
            max_grad_norm=TINY.max_grad_norm,
        )
        np.testing.assert_allclose(losses[2 * number :][:2], expected.losses, rtol=1e-5, atol=1e-5)
        compared = total = 0
        for name, weight in expected.weights.items():
            found = weights[f"denoiser.{stage}.{name}"]
            sure = expected.smallest[name] > 3e-5
            torch.testing.assert_close(found[sure], weight[sure], atol=1e-5, rtol=0)
            assert (found - weight).abs().max() <= 4.1 * rate
            compared, total = compared + int(sure.sum()), total + sure.numel()
        assert compared > 0.5 * total


FIRST_ALONE = replace(
    TINY, **{name: None for name in vars(TINY) if name.startswith("super_resolution")}
)


@pytest.mark.parametrize(
    ("method", "learned"),
    [
        (TINY, {"denoiser.base", "denoiser.super_resolution"}),
        (FIRST_ALONE, {"denoiser.base"}),
        (TextualInversion(identifier="sks", steps=2), {"text_encoder"}),
    ],
)
def test_kept_weights_draw_what_the_trained_model_drew(
    backbone, directory, subject, method, learned
):
    requests = [Request(Prompt("a {} in the snow", "recontextualization"), 0, 5)]
    tools, loan = HandTools(method, subject), Loan(backbone)
    weights = method.fit(subject, backbone, tools)
    assert {".".join(name.split(".")[:2]) for name in weights} == learned
    kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
    images = method.generate(weights, subject, requests, backbone, tools)
    assert images.shape == (1, 3, 16, 16)
    assert loan.settle(thorough=True) == []
    assert torch.equal(method.generate(kept, subject, requests, backbone, tools), images)
    assert loan.settle(thorough=True) == []
    untuned = backbone.sample(backbone.encode(["a sks dog in the snow"]), [5])
    assert not torch.equal(untuned, images)
