"""That weights are looked through once, by their identity, and that rows are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.api import UserError
from benchmark.models import finite
from benchmark.models.finite import check_finite, check_weights
from tests.tiny_pipeline import save_tiny_pipeline


@pytest.fixture
def looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are looked through, of models that count as large, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(finite, "LARGE", 1)
    seen: list[Path] = []
    whole = finite._not_finite

    def recorded(file: Path, prefixes: tuple[str, ...]) -> Iterator[str]:
        seen.append(file)
        return whole(file, prefixes)

    monkeypatch.setattr(finite, "_not_finite", recorded)
    return seen


def test_large_weights_are_looked_through_once_until_they_change(tmp_path, looked):
    directory = save_tiny_pipeline(tmp_path / "tiny")
    check_weights(str(directory))
    assert {file.parent.name for file in looked} == {"unet", "vae", "text_encoder"}
    looked.clear()
    check_weights(str(directory))
    assert not looked
    [path] = (directory / "vae").glob("*.safetensors")
    found = load_file(path)
    found["decoder.conv_in.bias"][0] = torch.inf
    save_file(found, path, {"format": "pt"})
    for _ in range(2):  # what is wrong is not remembered as right
        with pytest.raises(UserError, match="vae.*the tensor decoder.conv_in.bias holds NaN"):
            check_weights(str(directory))


def test_a_trainings_schedule_in_a_single_file_may_be_infinite(tmp_path):
    path = tmp_path / "model.safetensors"
    weights = {"sqrt_recip_alphas_cumprod": torch.tensor([torch.inf])}
    save_file(weights, path)
    check_weights(str(path))
    read = ("first_stage_model.decoder.conv_in.bias", "conditioner.embedders.1.model.ln_final.bias")
    for name in read:
        save_file(weights | {name: torch.tensor([torch.nan])}, path)
        with pytest.raises(UserError, match=f"the tensor {name}"):
            check_weights(str(path))


def test_it_is_said_how_many_images_are_not_finite():
    numbers = torch.zeros(3, 2, 2)
    check_finite("numbers", numbers, "mend them")
    check_finite("numbers", numbers[:0], "mend them")
    numbers[1, 0, 0], numbers[2, 1, 1] = torch.nan, -torch.inf
    with pytest.raises(UserError, match=r"numbers are not finite .* in 2 of 3 images: mend them"):
        check_finite("numbers", numbers, "mend them")
