"""Pretraining the pocket segmenter: which pixels of a picture show a class noun.

The truth is the renderer's own. The noun goes in as one of the U-Net's classes; of some pictures
another noun is asked for, of which there is then nothing to be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmark.api import Segmenter
from benchmark.models.assets.noun_unet import NounUNetSegmenter, logits
from benchmark.models.assets.segmenters import NOUNS
from benchmark.pocket.pictures import SCENE_RATES, distort, rolling
from benchmark.pocket.training import (
    Recipe,
    inner_matrices,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import CLASSES, Batch, render, sample_identities, sample_scenes

SEGMENTER_RECIPE = Recipe(
    steps=6000, batch=16, learning_rate=2e-3, cooldown=0.5, weight_decay=0.0, validation_steps=500
)
SIDE = 2  #: pixels of a block that the U-Net reads as one
#: Pictures that are drawn together, and how often one is met on average.
POOL, MEETINGS = 2048, 8
#: Share of pictures of which another noun is asked for.
ABSENT = 0.2
VALIDATED = 512
#: What stands next to pixels and to the noun.
ENDS = ("conv_in", "conv_out", "class_embedding", "time_embedding")


def build_segmenter() -> UNet2DModel:
    """The U-Net with random weights."""
    return UNet2DModel(
        sample_size=64 // SIDE,
        in_channels=3 * SIDE**2,
        out_channels=SIDE**2,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=8,
        num_class_embeds=len(CLASSES),
        add_attention=False,
    )


@dataclass(frozen=True)
class Masked(Batch):
    """n pictures and what is to be found on them."""

    pictures: Tensor  #: (n, 3, 64, 64) in [0, 1]
    kind: Tensor  #: (n,) index into CLASSES: what they show
    masks: Tensor  #: (n, 64, 64) bool: where


def draw_masked(count: int, generator: torch.Generator, device: str) -> Masked:
    """`count` pictures of strangers in any scenes, with the true masks."""
    identities = sample_identities(count, generator).to(device)
    scenes = sample_scenes(identities, generator, **SCENE_RATES)
    return Masked(render(identities, scenes), identities.kind, true_masks(identities, scenes))


def pretrain_segmenter(recipe: Recipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) the segmenter in `directory`; write it to `output`."""
    torch.manual_seed(4)
    unet = build_segmenter().to(device)

    def pool(index: int) -> Masked:
        return draw_masked(POOL, step_generator("segmenter pool", index), device)

    masked = rolling(pool, POOL, MEETINGS, recipe.batch)
    fresh = draw_masked(VALIDATED, step_generator("segmenter validation", 0), device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("segmenter", step)
        some = masked(step, generator)
        mirrored = torch.rand(recipe.batch, generator=generator) < 0.5
        pictures = distort(_mirrored(some.pictures, mirrored), generator)
        asked, present = asked_for(some.kind, generator)
        truth = _mirrored(some.masks, mirrored) & present[:, None, None]
        with quick_autocast(device):
            found = logits(unet, pictures, asked)
        return binary_cross_entropy_with_logits(found, truth.float())

    def validate(averaged: UNet2DModel) -> dict[str, float]:
        found = find(NounUNetSegmenter(averaged, CLASSES), fresh.pictures, fresh.kind)
        return {"iou": intersection_over_union(found, fresh.masks.cpu()).mean().item()}

    inner = inner_matrices(unet, *ENDS)
    trained = train_part("segmenter", unet, loss_at, recipe, directory, validate, inner)
    save_segmenter(trained, output)


def _mirrored(images: Tensor, which: Tensor) -> Tensor:
    turned = which.view(-1, *[1] * (images.ndim - 1)).to(images.device)
    return torch.where(turned, images.flip(-1), images)


def asked_for(kind: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(n,) nouns to look for on pictures of `kind`, and (n,) bool: whether it is what they show."""
    absent = (torch.rand(len(kind), generator=generator) < ABSENT).to(kind.device)
    shift = torch.randint(1, len(CLASSES), (len(kind),), generator=generator).to(kind.device)
    return torch.where(absent, (kind + shift) % len(CLASSES), kind), ~absent


def intersection_over_union(found: Tensor, truth: Tensor) -> Tensor:
    """(n,) of masks (n, h, w); 1 where both are empty."""
    both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def find(segmenter: Segmenter, pictures: Tensor, kinds: Tensor) -> Tensor:
    """(n, 64, 64) bool on the CPU: where each picture shows the noun of its kind (n,)."""
    found = torch.zeros(len(pictures), *pictures.shape[2:], dtype=torch.bool)
    for kind, noun in enumerate(CLASSES):
        rows = torch.nonzero(kinds == kind).flatten()
        if len(rows):
            found[rows.cpu()] = segmenter.segment(pictures[rows], noun)
    return found


def save_segmenter(unet: UNet2DModel, directory: Path) -> None:
    """Write `benchmark.models.assets.noun_unet`'s folder, weights as fp16 safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    unet.to("cpu", torch.float16).save_pretrained(directory, safe_serialization=True)
    (directory / "diffusion_pytorch_model.safetensors").chmod(0o644)
    (directory / NOUNS).write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
