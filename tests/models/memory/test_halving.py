"""Memory that runs out: batches are halved, results are those of the smaller batch throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import Sampler, UserError
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.loading import load_backbone
from benchmark.models.memory import halving
from benchmark.models.memory.halving import BatchSize, batches_taken, out_of_memory
from tests.tiny_pipeline import save_tiny_flux, save_tiny_pipeline, save_tiny_sd3, save_tiny_xl

FAMILIES = [save_tiny_pipeline, save_tiny_xl, save_tiny_sd3, save_tiny_flux]
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which memory never ran out."""
    monkeypatch.setattr(halving, "_sizes", {})
    monkeypatch.setattr(halving, "_taken", {})
    monkeypatch.setattr(halving, "_free_memory", lambda: None)  # a second, after many imports


def holding(most: int, tried: list[int], error: Exception | None = None) -> Callable[[int], str]:
    def compute(size: int) -> str:
        tried.append(size)
        if size > most:
            raise error or torch.OutOfMemoryError(CUDA)
        return f"by {size}"

    return compute


def test_a_batch_is_halved_until_it_fits_and_stays_so() -> None:
    batch, tried = BatchSize("sampling", 16, "take less"), []
    assert batch.halved(100, holding(16, tried)) == "by 16" and not batches_taken()
    assert batch.halved(100, holding(5, tried)) == "by 4"
    assert tried == [16, 16, 8, 4]
    assert batches_taken() == {"sampling": 4} and not batches_taken()
    assert batch.halved(100, holding(16, tried)) == "by 4" and tried[4:] == [4]
    assert batches_taken() == {"sampling": 4}
    assert BatchSize("decoding", 2, "").halved(100, holding(16, tried)) == "by 2"
    assert not batches_taken()


def test_sizes_that_hold_all_rows_are_not_tried_twice() -> None:
    tried: list[int] = []
    assert BatchSize("a", 32, "").halved(5, holding(2, tried)) == "by 2"
    assert tried == [32, 4, 2]
    tried.clear()
    with pytest.raises(UserError):
        BatchSize("b", 32, "", least=2).halved(2, holding(1, tried))
    assert tried == [32, 2]


def test_what_one_is_too_much_for_is_said_with_the_way_out() -> None:
    said = rf"^out of memory in sampling: take less \(OutOfMemoryError: {CUDA}\)$"
    with pytest.raises(UserError, match=said):
        BatchSize("sampling", 16, "take less").halved(100, holding(0, []))
    assert not batches_taken()


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_a_lack_of_memory_halves(error: Exception, short: bool) -> None:
    assert out_of_memory(error) == short
    tried: list[int] = []
    if short:
        assert BatchSize("a", 4, "").halved(9, holding(1, tried, error)) == "by 1"
    else:
        with pytest.raises(type(error), match=str(error)):
            BatchSize("a", 4, "").halved(9, holding(1, tried, error))
        assert tried == [4]


def test_what_was_computed_is_let_go_before_it_is_tried_again() -> None:
    alive: list[int] = []

    class Large:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def compute(size: int) -> int:
        assert not alive
        large = [Large() for _ in range(size)]
        if size > 1:
            raise torch.OutOfMemoryError(CUDA)
        return len(large)

    assert BatchSize("a", 4, "").halved(9, compute) == 1


# A backbone ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LatentDiffusion:
    folder: Path = request.param(tmp_path_factory.mktemp("tiny"))
    return load_backbone(
        str(folder), precision="fp32", device="cpu", sampler=Sampler("own", 2), resolution=16
    )


def refuse(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, most: int) -> list[int]:
    """`owner.name` takes at most so many rows; the sizes that it took."""
    whole, took = getattr(owner, name), []

    def call(*others: Any, **options: Any) -> Any:
        batch: Tensor = (*others, *options.values())[0]
        if len(batch) > most:
            raise torch.OutOfMemoryError(CUDA)
        took.append(len(batch))
        return whole(*others, **options)

    monkeypatch.setattr(owner, name, call)
    return took


def images(backbone: LatentDiffusion) -> Tensor:
    return backbone.sample(backbone.encode(["a dog"] * 7), range(7))


def test_images_are_those_of_the_smaller_batch_from_the_start(
    backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.models.backbones.latent_stage.BATCH", 2)
        expected = images(backbone)
    with monkeypatch.context() as patch:
        # Guided, each image is two rows; told its guidance, one.
        rows = 2 if backbone.calls.guided(backbone.sampler) else 1
        took = refuse(patch, backbone.stages[0].denoiser, "forward", 2 * rows)
        assert torch.equal(images(backbone), expected)
        assert took == [size * rows for size in (2, 2, 2, 2, 2, 2, 1, 1)]
    assert batches_taken() == {"sampling": 2}
    with monkeypatch.context() as patch:
        took = refuse(patch, backbone.stages[0].denoiser, "forward", 100)
        assert torch.equal(images(backbone), expected) and max(took) == 2 * rows


def test_the_vae_takes_fewer_images_at_once_too(
    backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, (stage,) = torch.rand(7, 3, 16, 16), backbone.stages
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.models.backbones.latent_stage.VAE_PIXELS", 3 * 16 * 16)
        expected, prepared = images(backbone), stage.prepare(pixels)
    refuse(monkeypatch, stage.vae, "encode", 3)
    refuse(monkeypatch, stage.vae, "decode", 3)
    monkeypatch.setattr("benchmark.models.backbones.latent_stage.VAE_PIXELS", 6 * 16 * 16)
    assert torch.equal(images(backbone), expected)
    assert torch.equal(stage.prepare(pixels).mean, prepared.mean)
    assert batches_taken() == {"encoding": 3, "decoding": 3}


def test_an_image_that_does_not_fit_is_said_and_the_backbone_stays_whole(
    backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = backbone.pipeline.scheduler
    rows = 2 if backbone.calls.guided(backbone.sampler) else 1
    with monkeypatch.context() as patch:
        refuse(patch, backbone.stages[0].denoiser, "forward", rows - 1)
        said = r"memory in sampling: lower \[backbone\] resolution, or set its precision to bf16"
        with pytest.raises(UserError, match=said):
            images(backbone)
    assert backbone.pipeline.scheduler is scheduler
    assert not backbone.stages[0].denoiser._forward_hooks
