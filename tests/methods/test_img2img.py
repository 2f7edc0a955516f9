"""What img2img draws from, and what it leaves to the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from benchmark.api import PRIOR_PROMPT, Backbone, Prompt, Request, Start, Subject
from methods.controls import UNTUNED
from methods.drawing import draw
from methods.img2img import IMG2IMG
from tests.hand_tools import HandTools

SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [Request(SNOW, 0, 7), Request(PRIOR_PROMPT, 0, 8), Request(SNOW, 1, 9)]


def test_it_begins_with_the_chosen_image_but_for_the_prior_prompt(
    backbone: Backbone, subject: Subject, tmp_path
) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(other)
    two = replace(subject, images=(*subject.images, other))
    method = replace(IMG2IMG, image=2, strength=0.5)
    tools = HandTools(method, two)
    found = method.generate({}, two, REQUESTS, backbone, tools)
    plain = UNTUNED.generate({}, two, REQUESTS, backbone, tools)
    torch.testing.assert_close(found[1], plain[1], atol=1e-4, rtol=0)
    [stage] = backbone.stages
    grey = torch.full((2, 3, 16, 16), 200 / 255)
    texts = ["a dog in the snow"] * 2
    expected = draw(
        backbone,
        texts,
        [REQUESTS[0], REQUESTS[2]],
        beside={"start": Start(stage.prepare(grey), 0.5)},
    )
    torch.testing.assert_close(found[[0, 2]], expected, atol=1e-4, rtol=0)
    assert (found[[0, 2]] - plain[[0, 2]]).abs().max() > 0.01
