"""The pocket guide and the pocket IP-Adapter: their trainings, and the shipped weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from benchmark.config.suite import load_suite
from benchmark.models.assets.image_adapters import IP_ADAPTER
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from benchmark.pocket import evaluate_image_prompt, guide, image_prompt
from benchmark.pocket.evaluate_image_prompt import guidance, likeness, load_guide
from benchmark.pocket.guide import GUIDE_RECIPE, pretrain_guide
from benchmark.pocket.image_prompt import (
    ADAPTER_RECIPE,
    WEIGHTS,
    Adapter,
    pretrain_ip_adapter,
    prompted,
    read_frozen,
    see,
)
from benchmark.pocket.pretrain import SHIPPED, metric_encoders
from benchmark.pocket.world import render, sample_identities, sample_scenes

FROZEN = SHIPPED / "generator", SHIPPED / "guide"


def halted(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, train: Callable[[str], None]
) -> None:
    """Train "whole" at once, and "halted" in two goes: at its third call `name` stops the first."""
    train("whole")
    met: list[None] = []
    real = getattr(module, name)

    def stop(*given: Any, **more: Any) -> Any:
        met.append(None)
        if len(met) == 4:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(module, name, stop)
    with pytest.raises(KeyboardInterrupt):
        train("halted")
    train("halted")


@pytest.mark.more
def test_an_interrupted_guide_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide, "POOL", 4)
    recipe = replace(GUIDE_RECIPE, steps=4, batch=4, warmup=0, checkpoint_seconds=0.0)
    halted(
        monkeypatch,
        guide,
        "contrast",
        lambda name: pretrain_guide(recipe, tmp_path / "work" / name, tmp_path / name, "cpu"),
    )
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "halted"))
    assert one == two
    clip, tokenizer = load_guide(tmp_path / "whole")
    assert clip.config.projection_dim == guide.WIDTH and len(tokenizer("a dog").input_ids) == 4


@pytest.mark.more
def test_an_interrupted_adapter_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_prompt, "POOL", 4)
    monkeypatch.setattr(image_prompt, "VALIDATED", 2)
    recipe = replace(
        ADAPTER_RECIPE, steps=4, batch=2, warmup=0, checkpoint_seconds=0.0, validation_steps=2
    )
    halted(
        monkeypatch,
        image_prompt,
        "prompted",
        lambda name: pretrain_ip_adapter(
            recipe, tmp_path / "work" / name, FROZEN, tmp_path / name, "cpu"
        ),
    )
    one, two = (load_file(tmp_path / n / WEIGHTS) for n in ("whole", "halted"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    shapes = {name: tuple(tensor.shape) for name, tensor in one.items()}
    DIFFUSERS.check_adapter("pocket", shapes)


def test_what_is_new_is_trained_alone_and_begins_as_the_texts_keys() -> None:
    frozen = read_frozen(*FROZEN, "cpu")
    adapter = Adapter(frozen.unet, frozen.encoder.config.projection_dim)
    names = {name for name, p in frozen.unet.named_parameters() if p.requires_grad}
    assert all("_ip." in name or "encoder_hid_proj" in name for name in names)
    generator = torch.Generator().manual_seed(0)
    batch = prompted(frozen, see(frozen, 2, generator, "cpu"), generator, "cpu", drop=False)
    batch.errors(frozen).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())
    text = next(p for n, p in frozen.unet.named_parameters() if "attn2.to_k.weight" in n)
    assert torch.equal(adapter.weights()["ip_adapter.1.to_k_ip.weight"], text)


def test_a_twentieth_each_is_without_text_without_image_and_without_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = read_frozen(*FROZEN, "cpu")
    generator = torch.Generator().manual_seed(1)
    few = see(frozen, 4, generator, "cpu")
    seen = few[torch.arange(2000) % 4]
    told: list[str] = []
    encode = frozen.backbone.encode

    def listening(texts: list[str]) -> Any:
        told.extend(texts)
        return encode([""])[[0] * len(texts)]

    monkeypatch.setattr(frozen.backbone, "encode", listening)
    images = prompted(frozen, seen, generator, "cpu", drop=True).condition.images
    no_image = (images == 0).flatten(1).all(dim=1)
    no_text = torch.tensor([not text for text in told])
    for dropped in (no_text & ~no_image, no_image & ~no_text, no_text & no_image):
        assert 0.03 < dropped.float().mean() < 0.07


def test_what_the_guide_is_asked_is_what_the_renderer_was_told() -> None:
    identities = sample_identities(3, torch.Generator().manual_seed(0))
    scenes = sample_scenes(identities, torch.Generator().manual_seed(1))
    shown = guide.Shown(render(identities, scenes), identities, scenes)
    right = torch.zeros(3, sum(guide.CHOICES) + guide.NUMBERS)
    start = 0
    for size, truth in zip(guide.CHOICES, shown.choices, strict=True):
        assert int(truth.min()) >= 0 and int(truth.max()) < size
        right[torch.arange(3), start + truth] = 40.0
        start += size
    right[:, start:] = shown.numbers
    assert guide.wrong(right, shown).item() < 1e-6
    right[0, start] += 1.0
    assert guide.wrong(right, shown).item() == pytest.approx(10 / (3 * 17), rel=1e-4)


@pytest.mark.more
def test_the_shipped_guide_reaches_its_goal() -> None:
    [of_class, *_] = guidance(SHIPPED / "guide", count=200)
    assert of_class.value >= 0.85
    assert "| guide | class right on renders |" in (SHIPPED / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_the_shipped_adapter_makes_images_like_the_subject(monkeypatch) -> None:
    monkeypatch.setattr(evaluate_image_prompt, "SCALES", (1.0,))
    suite = load_suite("pocket")
    backbone = load_backbone("pocket", device="cpu", sampler=suite.sampler.sampler())
    rows = {
        row.name: row.value for row in likeness(backbone, SHIPPED, metric_encoders(suite), places=1)
    }
    assert rows["DINO at scale 1"] > rows["DINO without it"] + 0.1
    card = (SHIPPED / "MODEL_CARD.md").read_text()
    assert all(f"| ip-adapter | {name} |" in card for name in rows)


def test_other_tools_load_both() -> None:
    table = load_suite("pocket").assets["image-prompt"]
    assert [path.parent.name for path in IP_ADAPTER.files(table)] == [
        "ip-adapter",
        "guide",
        "guide",
    ]
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED / "generator")
    pipeline.load_ip_adapter(
        str(SHIPPED),
        subfolder="ip-adapter",
        weight_name=WEIGHTS,
        image_encoder_folder="./guide",
        low_cpu_mem_usage=False,
    )
    assert pipeline.image_encoder.config.image_size == 64
