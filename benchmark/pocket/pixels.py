"""Pretraining the pocket cascade: a pixel model at 32 px, and super-resolution from there to 64.

Of DeepFloyd IF's kind (https://github.com/deep-floyd/IF), as its pipelines in diffusers take it:
U-Nets that predict the noise and the variance of each step back, under a cosine schedule; texts by
cross-attention, and pooled beside the timestep; super-resolution sees the small picture enlarged,
with noise of a known level on it. The text encoder is the pocket generator's, frozen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from torch import Tensor
from torch.nn.functional import interpolate

from benchmark.pocket.pictures import Pool, Pools, draw_pool, say
from benchmark.pocket.training import (
    Recipe,
    inner_matrices,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.world import Batch

SMALL, LARGE = 32, 64  #: pixels
NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "clip_sample": False,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
#: Of the enlarged picture's noise.
ENLARGED_NOISE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
#: How much the variance's loss counts (Nichol and Dhariwal, 2102.09672).
VARIANCE_WEIGHT = 1e-3
VALIDATED = 1024
#: What stands next to pixels, timestep, noise level and pooled text.
ENDS = ("conv_in", "conv_out", "time_embedding", "class_embedding", "add_embedding")

#: Texts -> (n, length, width) encodings.
EncodeTexts = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class PixelShape:
    """A U-Net's widths, a level each, and which levels read the text ("C") or do not ("D")."""

    widths: tuple[int, ...]
    levels: str
    enlarges: bool = False  #: whether it sees a small picture, enlarged, and its noise level

    def build(self, text_width: int) -> UNet2DConditionModel:
        """The U-Net with random weights."""
        unet = UNet2DConditionModel(
            sample_size=LARGE if self.enlarges else SMALL,
            in_channels=6 if self.enlarges else 3,
            out_channels=6,
            block_out_channels=self.widths,
            layers_per_block=1,
            down_block_types=tuple(_DOWN[level] for level in self.levels),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=tuple(_UP[level] for level in reversed(self.levels)),
            cross_attention_dim=text_width,
            encoder_hid_dim=text_width,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            class_embed_type="timestep" if self.enlarges else None,
            attention_head_dim=32,
            cross_attention_norm="group_norm",
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
            norm_num_groups=16,
        )
        # Fused attention trains slowly in bf16 on a CPU.
        unet.set_attn_processor(AttnAddedKVProcessor())
        return unet


_DOWN = {"C": "SimpleCrossAttnDownBlock2D", "D": "ResnetDownsampleBlock2D"}
_UP = {"C": "SimpleCrossAttnUpBlock2D", "D": "ResnetUpsampleBlock2D"}


@dataclass(frozen=True)
class PixelExamples(Batch):
    """n training examples, on the device."""

    clean: Tensor  #: (n, 3, size, size) in [-1, 1]
    noise: Tensor
    timesteps: Tensor
    texts: Tensor
    enlarged: Tensor  #: (n, 3, size, size), the small picture with noise; (n, 0, 0, 0) without
    levels: Tensor  #: (n,) timesteps of that noise

    def losses(self, unet: UNet2DConditionModel) -> tuple[Tensor, Tensor]:
        """(n,) squared errors of the noise, and (n,) variational bounds of the variance."""
        schedule = DDPMScheduler(**NOISE)
        noisy = schedule.add_noise(self.clean, self.noise, self.timesteps)
        shown = torch.cat([noisy, self.enlarged], dim=1) if self.enlarged.numel() else noisy
        levels = self.levels if self.enlarged.numel() else None
        with quick_autocast(shown.device):
            given = unet(shown, self.timesteps, self.texts, class_labels=levels).sample
        noise, share = given.float().chunk(2, dim=1)
        kept = schedule.alphas_cumprod.to(self.clean.device)
        bound = variance_bound(kept, self.clean, noisy, self.timesteps, noise.detach(), share)
        return (noise - self.noise).square().mean(dim=(1, 2, 3)), bound


def variance_bound(
    kept: Tensor, clean: Tensor, noisy: Tensor, timesteps: Tensor, noise: Tensor, share: Tensor
) -> Tensor:
    """(n,) bits a dimension between the true step back and the model's; 0 at the last step.

    `kept`: (1000,) the schedule's cumulative products of alpha. `share`, in [-1, 1], lies between
    the logarithms of the smallest and the largest variance (2102.09672, equation 15).
    """

    def at(values: Tensor, where: Tensor) -> Tensor:
        return values[where].view(-1, 1, 1, 1)

    # At the last step all is 0 / 0, whose gradient would be NaN even where it is not taken.
    earlier = timesteps.clamp(min=1)
    now, before = at(kept, earlier), at(kept, earlier - 1)
    beta = 1 - now / before
    smallest, largest = ((1 - before) / (1 - now) * beta).log(), beta.log()

    def mean(picture: Tensor) -> Tensor:
        weight = before.sqrt() * beta / (1 - now)
        return weight * picture + (now / before).sqrt() * (1 - before) / (1 - now) * noisy

    guess = ((noisy - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
    log = (share + 1) / 2 * largest + (1 - share) / 2 * smallest
    apart = (mean(clean) - mean(guess)).square() * (-log).exp()
    divergence = (log - smallest + (smallest - log).exp() - 1 + apart) / 2
    bits = divergence.mean(dim=(1, 2, 3)) / math.log(2)
    return torch.where(timesteps > 0, bits, 0.0)


def train_pixels(
    name: str,
    shape: PixelShape,
    encode_texts: EncodeTexts,
    text_width: int,
    recipe: Recipe,
    directory: Path,
    device: str,
    made_on: str,
) -> UNet2DConditionModel:
    """Train one of the two U-Nets; return its averaged weights."""
    torch.manual_seed(1)
    pools = Pools(as_large if shape.enlarges else as_small, recipe.batch, device)
    held_out = validation(shape, encode_texts, device)
    unet = shape.build(text_width).to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator(name, step)
        pool, chosen = pools.some(step, generator)
        timesteps = torch.randint(1000, (recipe.batch,), generator=generator)
        batch = examples(shape, pool, chosen, timesteps, generator, encode_texts, device)
        error, bound = batch.losses(unet)
        return (error + VARIANCE_WEIGHT * 1000 * bound).mean()

    def validate(averaged: UNet2DConditionModel) -> dict[str, float]:
        error, bound = validation_losses(averaged, held_out)
        return {"validation_loss": error.mean().item(), "bits": bound.mean().item()}

    return train_part(
        name,
        unet,
        loss_at,
        recipe,
        directory,
        validate=validate,
        by_muon=inner_matrices(unet, *ENDS),
        made_on=made_on,
    )


def as_small(pictures: Tensor) -> Tensor:
    """(n, 3, 64, 64) in [0, 1] -> (n, 3, 32, 32) in [-1, 1]."""
    return reduced(pictures * 2 - 1)


def as_large(pictures: Tensor) -> Tensor:
    """(n, 3, 64, 64) in [0, 1] -> the same in [-1, 1]."""
    return pictures * 2 - 1


def reduced(pictures: Tensor) -> Tensor:
    """Pictures of half the side."""
    return interpolate(pictures, scale_factor=0.5, mode="area")


def enlarged(pictures: Tensor) -> Tensor:
    """Pictures of twice the side, as IF's pipeline enlarges them."""
    return interpolate(pictures, scale_factor=2, mode="bilinear", align_corners=True)


def examples(
    shape: PixelShape,
    pool: Pool,
    chosen: Tensor,
    timesteps: Tensor,
    generator: torch.Generator,
    encode_texts: EncodeTexts,
    device: str,
) -> PixelExamples:
    """The chosen pictures of a pool at these timesteps, captioned; of large ones a quarter each."""
    clean, count = pool.encoded[chosen].float(), len(chosen)
    levels = torch.randint(1000, (count,), generator=generator)
    before = torch.empty(count, 0, 0, 0)
    if shape.enlarges:
        small = enlarged(reduced(clean))
        noise = torch.randn(small.shape, generator=generator)
        small = DDPMScheduler(**ENLARGED_NOISE).add_noise(small, noise, levels)
        corners = torch.randint(LARGE - SMALL + 1, (2,), generator=generator).tolist()
        top, left = (slice(corner, corner + SMALL) for corner in corners)
        clean, before = clean[:, :, top, left], small[:, :, top, left]
    noise = torch.randn(clean.shape, generator=generator)
    chance = random.Random(int(torch.randint(2**31, (), generator=generator)))
    return PixelExamples(
        clean.to(device),
        noise.to(device),
        timesteps.to(device),
        encode_texts(say(pool, chosen, chance)),
        before.to(device),
        levels.to(device),
    )


def validation(shape: PixelShape, encode_texts: EncodeTexts, device: str) -> PixelExamples:
    """VALIDATED examples of a pool that no training meets, timesteps spread evenly."""
    encode = as_large if shape.enlarges else as_small
    pool = draw_pool(encode, VALIDATED, step_generator("pool validation", 0), device)
    timesteps = torch.arange(VALIDATED) * 1000 // VALIDATED
    chosen, generator = torch.arange(VALIDATED), step_generator("validation", 0)
    return examples(shape, pool, chosen, timesteps, generator, encode_texts, device)


@torch.no_grad()
def validation_losses(unet: UNet2DConditionModel, held_out: PixelExamples) -> tuple[Tensor, Tensor]:
    """(n,) errors and bounds of the held-out examples, in the order of their timesteps."""
    parts = [held_out[i : i + 128].losses(unet) for i in range(0, len(held_out.clean), 128)]
    errors, bounds = zip(*parts, strict=True)
    return torch.cat(errors), torch.cat(bounds)
