"""What Prompt-to-Prompt edits, what it copies, and what it leaves to the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import PRIOR_PROMPT, Backbone, Edit, Prompt, Request, Sampler, Subject
from benchmark.models.lending.loan import Loan
from methods.controls import UNTUNED
from methods.drawing import draw
from methods.prompt_to_prompt import PROMPT_TO_PROMPT
from tests.hand_tools import HandTools

SNOW = Prompt("a {} in the snow", "recontextualization")
PHOTO = Prompt("a photo of a {}", "recontextualization")
REQUESTS = [
    Request(SNOW, 0, 7),
    Request(PRIOR_PROMPT, 0, 8),
    Request(PHOTO, 0, 9),
    Request(SNOW, 1, 10),
    Request(PRIOR_PROMPT, 1, 11),
]
METHOD = replace(PROMPT_TO_PROMPT, steps=4, cross_replace=0.75, self_replace=0.5)


@pytest.mark.parametrize("backbone", ["sd", "xl"], indirect=True)
def test_an_image_is_edited_once_a_prompt(backbone: Backbone, subject: Subject, tmp_path) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(other)
    two, loan = replace(subject, images=(*subject.images, other)), Loan(backbone)
    method = replace(METHOD, image=2)
    tools = HandTools(method, two)
    found = method.generate({}, two, REQUESTS, backbone, tools)
    assert loan.settle(thorough=True) == [] and loan.whole
    assert tools.counts == {"copies, as an edit is drawn once a prompt": 1}

    plain = UNTUNED.generate({}, two, REQUESTS, backbone, tools)
    torch.testing.assert_close(found[[1, 4]], plain[[1, 4]], atol=1e-4, rtol=0)
    assert torch.equal(found[0], found[3]) and not torch.equal(found[1], found[4])

    [stage], sampler = backbone.stages, Sampler("ddim", 4, backbone.sampler.guidance)
    clean = stage.prepare(torch.full((1, 3, 16, 16), 200 / 255))
    inverted = backbone.invert(clean, "a dog", sampler=sampler)
    texts = ["a dog in the snow", "a photo of a dog"]
    edit = Edit(inverted, texts, 0.75, 0.5)
    expected = draw(backbone, texts, [REQUESTS[0], REQUESTS[2]], beside={"start": edit})
    torch.testing.assert_close(found[[0, 2]], expected, atol=1e-4, rtol=0)
    assert (found[0] - plain[0]).abs().max() > 0.01


def test_copies_are_the_same_however_many_goes_a_job_is_drawn_in(
    backbone: Backbone, subject: Subject
) -> None:
    """Each go counts its own, and they are added up."""
    counted = []
    for goes in ([REQUESTS], [[request] for request in REQUESTS], [REQUESTS[:3], REQUESTS[3:]]):
        tools = HandTools(METHOD, subject)
        for requests in goes:
            METHOD.generate({}, subject, requests, backbone, tools)
        counted.append(tools.counts)
    assert counted == [{"copies, as an edit is drawn once a prompt": 1}] * 3


def test_null_texts_are_a_setting(backbone: Backbone, subject: Subject) -> None:
    tools = HandTools(METHOD, subject)
    without, learned = (
        replace(METHOD, null_text_steps=steps).generate({}, subject, REQUESTS[:1], backbone, tools)
        for steps in (0, 2)
    )
    assert (without - learned).abs().max() > 1e-4


def test_only_the_prior_prompt_inverts_nothing(backbone, subject, monkeypatch) -> None:
    monkeypatch.delattr(type(backbone), "invert")
    tools = HandTools(METHOD, subject)
    assert len(METHOD.generate({}, subject, [REQUESTS[1]], backbone, tools)) == 1
    assert tools.counts == {}


def test_every_text_that_is_read_is_told_before(subject: Subject) -> None:
    texts = METHOD.texts(subject, REQUESTS[2:])
    assert texts == ["a dog", "a photo of a dog", "a dog in the snow", "a dog"]
