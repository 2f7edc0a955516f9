"""What ip-adapter looks at, and what it leaves to the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import (
    IMAGE_ADAPTER,
    PRIOR_PROMPT,
    Backbone,
    ImagePrompt,
    Prompt,
    Request,
    Subject,
)
from methods.controls import UNTUNED
from methods.drawing import draw
from methods.ip_adapter import IP_ADAPTER
from tests.hand_tools import HandTools

SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [Request(SNOW, 0, 7), Request(PRIOR_PROMPT, 0, 8), Request(SNOW, 1, 9)]


class Brightness:
    """An adapter of a 16 x 16 image's mean colour, of no weights: none is drawn with."""

    resolution = 16

    def prompt(self, images: torch.Tensor, scale: float) -> ImagePrompt:
        assert images.shape[1:] == (3, 16, 16)
        colours = images.mean(dim=(2, 3))
        return ImagePrompt({}, colours, torch.zeros_like(colours), scale)


class AdapterTools(HandTools):
    def asset(self, need: str) -> Brightness:
        assert need == IMAGE_ADAPTER
        return Brightness()


@pytest.fixture
def two(subject: Subject, tmp_path) -> Subject:
    other = tmp_path / "other.png"
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(other)
    return replace(subject, images=(*subject.images[:1], other))


@pytest.mark.parametrize("image", [1, 2, "all"])
def test_it_looks_at_the_chosen_images_but_for_the_prior_prompt(
    backbone: Backbone, two: Subject, image: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[ImagePrompt | None] = []
    sample = type(backbone).sample

    def listening(self, condition, seeds, *, image_prompt=None, **others):
        met.append(image_prompt)
        return sample(self, condition, seeds, **others)

    monkeypatch.setattr(type(backbone), "sample", listening)
    method = replace(IP_ADAPTER, image=image, scale=0.7)
    tools = AdapterTools(method, two)
    found = method.generate(method.fit(two, backbone, tools), two, REQUESTS, backbone, tools)
    shown, plain = met
    assert plain is None and shown is not None and shown.scale == 0.7
    colours = tools.images(16).mean(dim=(2, 3))
    wanted = colours if image == "all" else colours[[int(image) - 1]]
    assert torch.equal(shown.embeddings, wanted)
    texts = ["a dog in the snow", "a dog", "a dog in the snow"]
    torch.testing.assert_close(found, draw(backbone, texts, REQUESTS), atol=1e-4, rtol=0)
    expected = UNTUNED.generate({}, two, REQUESTS, backbone, tools)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_it_says_which_images_it_looks_at(two: Subject) -> None:
    assert replace(IP_ADAPTER, image="all").seen(two) == [0, 1]
    assert replace(IP_ADAPTER, image=2).seen(two) == [1]
