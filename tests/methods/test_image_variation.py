"""What image-variation draws from, and what it leaves to the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import PRIOR_PROMPT, Prompt, Request, Sampler, Subject, UserError
from benchmark.config.registry import configure
from benchmark.config.suite import load_suite
from benchmark.models.backbones.stable_unclip import StableUnclip
from benchmark.models.loading import load_backbone
from benchmark.runs.plan import plan
from methods.controls import UNTUNED
from methods.image_variation import VARIATION
from tests.hand_tools import HandTools
from tests.tiny_pipeline import SIGHT, save_tiny_unclip

SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [Request(SNOW, 0, 7), Request(PRIOR_PROMPT, 0, 8), Request(SNOW, 1, 9)]
SAMPLER = Sampler("ddim", 2, 3.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableUnclip:
    directory = save_tiny_unclip(tmp_path_factory.mktemp("models") / "unclip")
    return load_backbone(str(directory), precision="fp32", device="cpu", sampler=SAMPLER)


@pytest.fixture
def two(subject: Subject, tmp_path: Path) -> Subject:
    """With a second image, of one grey."""
    other = tmp_path / "other.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(other)
    return replace(subject, images=(*subject.images, other))


def test_it_is_told_of_the_chosen_image_but_for_the_prior_prompt(
    backbone: StableUnclip, two: Subject
) -> None:
    method = replace(VARIATION, image=2, noise_level=300)
    tools = HandTools(method, two)
    assert method.fit(two, backbone, tools) == {}
    found = method.generate({}, two, REQUESTS, backbone, tools)
    plain = UNTUNED.generate({}, two, REQUESTS, backbone, tools)
    assert (found[1] - plain[1]).abs().max() < 1e-4
    grey = torch.full((3, SIGHT, SIGHT), 200 / 255)
    told = backbone.with_image(backbone.encode(["a dog in the snow"] * 2), grey, 300)
    expected = backbone.sample(told, [7, 9])
    assert (found[[0, 2]] - expected).abs().max() < 1e-4
    assert (found[[0, 2]] - plain[[0, 2]]).abs().max() > 0.01
    first = replace(method, image=1).generate({}, two, REQUESTS, backbone, tools)
    assert (found[0] - first[0]).abs().max() > 0.01


def test_settings_that_there_are_not_are_refused(subject: Subject) -> None:
    for settings, message in (
        ({"noise_level": 1000}, "'noise_level' .* is 1000: it should be at most 999"),
        ({"noise_level": -1}, "'noise_level' .* is -1: it should be at least 0"),
        ({"noise_level": 0.5}, "'noise_level' .* is 0.5"),
        ({"image": 0}, "'image' .* is 0: it should be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            configure("image-variation", VARIATION, settings)


def test_the_pocket_world_has_no_model_for_it() -> None:
    with pytest.raises(UserError, match="'image-variation' needs image-embedding, and .*'pocket'"):
        plan(load_suite("pocket"), ["image-variation"])
