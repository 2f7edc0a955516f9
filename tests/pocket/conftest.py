"""What tests of the pocket world share."""

import pytest

from benchmark.pocket import calibration_studio as studio_module
from tests.pocket.truth import draw_truth, without_background


@pytest.fixture
def toy(monkeypatch):
    """Pictures that are the truth in numbers."""
    monkeypatch.setattr(studio_module, "render", draw_truth)
    monkeypatch.setattr(studio_module, "as_pixels", lambda pictures: pictures)
    monkeypatch.setattr(studio_module, "masked", lambda pictures, *_: without_background(pictures))
