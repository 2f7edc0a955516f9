"""Tiny models of several families, and a subject of one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import Backbone, Sampler, Subject
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import save_tiny_cascade, save_tiny_pipeline, save_tiny_sd3, save_tiny_xl

SAVE = {
    "sd": save_tiny_pipeline,
    "xl": save_tiny_xl,
    "sd3": save_tiny_sd3,
    "if": save_tiny_cascade,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: save(place / name) for name, save in SAVE.items()}


@pytest.fixture
def backbone(models: dict[str, Path], request: pytest.FixtureRequest) -> Backbone:
    name = getattr(request, "param", "sd")
    return load_backbone(
        str(models[name]), precision="fp32", device="cpu", sampler=Sampler("own", 2)
    )


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = tmp_path_factory.mktemp("subject") / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return Subject("dog-biscuit", "dog", True, (path,), "digest")
