"""What a method returns that it should not: the error says whose it is, and what was wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.config.suite import load_suite
from benchmark.runs.job import run_job
from benchmark.runs.plan import plan
from tests import toy
from tests.runs.test_job import quiet, workplace_of

N, SIZE = 8, toy.SIZE
METHOD = "'tests.toy:PAINT'"


def failed(tmp_path: Path) -> str:
    grid = plan(load_suite(str(toy.write_world(tmp_path))), ["tests.toy:PAINT"])
    with pytest.raises((TypeError, ValueError)) as caught:
        run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet)
    return str(caught.value)


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ({"colour": [1.0, 2.0]}, "for 'colour' it returned a value of type list"),
        ({"a": torch.zeros(1), "b": np.zeros(1)}, "for 'b' it returned a value of type ndarray"),
        ({"colour": None}, "for 'colour' it returned None"),
        ({3: torch.zeros(1)}, "one name is 3, a value of type int"),
        (None, "it returned None"),
        ([torch.zeros(1)], "it returned a value of type list"),
    ],
)
def test_a_fit_that_returns_no_tensors_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returned: Any, what: str
) -> None:
    monkeypatch.setattr(toy.Paint, "fit", lambda *_: returned)
    wanted = f"fit of {METHOD} must return a mapping of names to tensors"
    assert failed(tmp_path) == f"{wanted}, and {what}"


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "should be a tensor or a list, not NoneType"),
        ({"a": torch.zeros(3, SIZE, SIZE)}, "should be a tensor or a list, not dict"),
        (["a.png"] * N, "an image is of type str: no tensor and no array"),
        ([Image.new("RGB", (SIZE, SIZE))] * N, "an image is of type Image: no tensor and no array"),
        (torch.zeros(N, SIZE, SIZE, 3), r"should be \(n, 3, height, width\), not \(8, 12, 12, 3\)"),
        ([np.zeros((SIZE, SIZE, 3))] * N, r"float64 \(12, 12, 3\), not uint8 \(h, w, 3\)"),
        (torch.full((N, 3, SIZE, SIZE), 255), "in .0, 1., and they go from 255 to 255"),
        (torch.linspace(-1, 1, N * 3).view(N, 3, 1, 1), "and they go from -1 to 1"),
        (torch.full((N, 3, SIZE, SIZE), torch.nan), "and some are NaN"),
        (torch.zeros(N - 1, 3, SIZE, SIZE), "8 images were asked for, 7 came"),
    ],
)
def test_a_generate_that_returns_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returned: Any, what: str
) -> None:
    monkeypatch.setattr(toy.Paint, "generate", lambda *_: returned)
    said = failed(tmp_path)
    assert said.startswith(f"generate of {METHOD} must return 8 images: ")
    assert re.search(what, said), said
