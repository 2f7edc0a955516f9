"""The pocket segmenter: the renderer's true masks, its training, and the shipped weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import max_pool2d

from benchmark.pocket import segmenter
from benchmark.pocket.evaluate import Measurement
from benchmark.pocket.evaluate_segmenter import load_segmenter, segmentation
from benchmark.pocket.model_card import renew_lines
from benchmark.pocket.pretrain import SHIPPED
from benchmark.pocket.segmenter import SEGMENTER_RECIPE, intersection_over_union, pretrain_segmenter
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    plain_scenes,
    render,
    sample_identities,
)


def grown(masks: torch.Tensor) -> torch.Tensor:
    return max_pool2d(masks.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0


def test_a_true_mask_is_what_stays_when_the_background_changes() -> None:
    """By `render` alone: within the mask pictures agree, around it another background shows."""
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(20, generator, kind=torch.arange(20) % len(CLASSES))
    scenes = plain_scenes(identities, generator)
    places = [torch.full((20,), BACKGROUNDS.index(name)) for name in ("snow", "jungle")]
    one, other = (render(identities, replace(scenes, background=place)) for place in places)
    stays = (one - other).abs().amax(dim=1) < 1e-4
    masks = true_masks(identities, scenes)
    assert bool((masks.float().mean(dim=(1, 2)) > 0.05).all())
    assert stays[~grown(~masks)].float().mean() > 0.99  # a seam between two parts may let through
    assert stays[~grown(masks)].float().mean() < 0.01


def test_what_a_subject_wears_is_not_the_subject() -> None:
    generator = torch.Generator().manual_seed(0)
    dogs = sample_identities(8, generator, kind=torch.zeros(8).long())
    bare = plain_scenes(dogs, generator)
    dressed = replace(bare, accessory=torch.full((8,), ACCESSORIES.index("sunglasses")))
    with_it, without = true_masks(dogs, dressed), true_masks(dogs, bare)
    assert not bool((with_it & ~without).any())
    assert bool((without & ~with_it).flatten(1).any(dim=1).all())
    changed = (render(dogs, dressed) - render(dogs, bare)).abs().amax(dim=1) > 1e-4
    assert changed[without & ~with_it].float().mean() > 0.9  # dark glass on dark ink is no change


def test_intersection_over_union_by_hand() -> None:
    found = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]]).bool()
    truth = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]]).bool()
    assert torch.allclose(intersection_over_union(found, truth), torch.tensor([1 / 3, 1.0, 0.0]))


@pytest.mark.more
def test_an_interrupted_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "POOL", 4)
    monkeypatch.setattr(segmenter, "VALIDATED", 2)
    recipe = replace(
        SEGMENTER_RECIPE, steps=4, batch=2, warmup=0, checkpoint_seconds=0.0, validation_steps=4
    )
    pretrain_segmenter(recipe, tmp_path / "whole", tmp_path / "one", "cpu")

    def stop(*_: object) -> torch.Tensor:
        met.append(None)
        if len(met) == 3:
            raise KeyboardInterrupt
        return logits(*_)

    met: list[None] = []
    logits = segmenter.logits
    monkeypatch.setattr(segmenter, "logits", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain_segmenter(recipe, tmp_path / "halted", tmp_path / "two", "cpu")
    pretrain_segmenter(recipe, tmp_path / "halted", tmp_path / "two", "cpu")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    picture = torch.rand(1, 3, 64, 64)
    assert load_segmenter(tmp_path / "two", "cpu").segment(picture, "dog").shape == (1, 64, 64)


@pytest.mark.more
def test_the_shipped_segmenter_reaches_its_goals() -> None:
    rows = segmentation(load_segmenter(SHIPPED / "segmenter", "cpu"), count=120)
    measured = {row.name: row.value for row in rows if row.goal}
    assert len(measured) == 2 and min(measured.values()) >= 0.95
    card = (SHIPPED / "MODEL_CARD.md").read_text()
    assert all(f"| segmenter | {name} |" in card for name in measured)
    assert "`segmenter/diffusion_pytorch_model.safetensors` | 1.3 |" in card


def test_a_parts_lines_of_the_card_are_renewed_and_no_others(tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    card.write_text((SHIPPED / "MODEL_CARD.md").read_text())
    before = card.read_text().splitlines()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/model.safetensors").write_bytes(bytes(2_340_000))
    renew_lines([Measurement("segmenter", "IoU", 0.5, ">= 0.95")], card, {"segmenter": "pocket@1"})
    after = card.read_text().splitlines()
    assert "| segmenter | IoU | 0.500 | >= 0.95 | pocket@1 |" in after
    assert "| `new/model.safetensors` | 2.3 |" in after
    gone = {line for line in before if line.startswith(("| segmenter", "| `"))}
    assert [line for line in before if line not in gone] == [
        line for line in after if line in before and line not in gone
    ]
    with pytest.raises(ValueError, match="other.md is no model card"):
        (tmp_path / "other.md").write_text("# Another\n")
        renew_lines([], tmp_path / "other.md", {})
