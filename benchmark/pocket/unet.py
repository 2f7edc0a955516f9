"""Pretraining the pocket generator's U-Net on pooled latents, under frozen text encodings.

v-prediction, caption dropout for guidance, averaged weights. The pools roll on
(`pictures.Pools`), so that no picture is met more than a few times.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from benchmark.pocket.pictures import Pool, Pools, draw_pool, say
from benchmark.pocket.text_encoder import Texts
from benchmark.pocket.training import (
    Recipe,
    digest,
    inner_matrices,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.world import Batch

NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
VALIDATED = 2048
#: What stands next to the latents and the timestep.
ENDS = ("conv_in", "conv_out", "time_embedding")
#: Gamma of min-SNR weighting (Hang et al., 2303.09556).
GAMMA = 5.0


@dataclass(frozen=True)
class Shape:
    """A U-Net's widths, a level each, and which levels read the text ("C") or do not ("D")."""

    widths: tuple[int, ...]
    levels: str

    def build(self, channels: int, size: int, text_width: int) -> UNet2DConditionModel:
        """The U-Net with random weights, for latents (n, channels, size, size)."""
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=self.widths,
            layers_per_block=1,
            down_block_types=tuple(_DOWN[level] for level in self.levels),
            up_block_types=tuple(_UP[level] for level in reversed(self.levels)),
            cross_attention_dim=text_width,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        unet.set_attn_processor(AttnProcessor())
        return unet


_DOWN = {"C": "CrossAttnDownBlock2D", "D": "DownBlock2D"}
_UP = {"C": "CrossAttnUpBlock2D", "D": "UpBlock2D"}


@dataclass(frozen=True)
class Frozen:
    """What is trained already: the VAE and the text encoder."""

    vae: AutoencoderKL
    texts: Texts

    @property
    def digest(self) -> str:
        """What identifies what a U-Net sees: latents and texts."""
        return digest(self.vae.encoder, self.vae.quant_conv, self.texts.text_encoder)

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """(n, 3, 64, 64) in [0, 1] -> their scaled latents (n, channels, h, w) float16."""
        with quick_autocast(self.vae.device):
            mean = self.vae.encode(pictures * 2 - 1).latent_dist.mean.half()
        return mean * self.vae.config.scaling_factor


@dataclass(frozen=True)
class Examples(Batch):
    """n training examples, on the device."""

    noisy: Tensor
    timesteps: Tensor
    texts: Tensor
    target: Tensor

    def errors(self, unet: UNet2DConditionModel) -> Tensor:
        """(n,) squared errors of v, each the mean over its latents."""
        with quick_autocast(self.noisy.device):
            predicted = unet(self.noisy, self.timesteps, self.texts).sample
        return (predicted.float() - self.target).square().mean(dim=(1, 2, 3))


def train_unet(
    shape: Shape, frozen: Frozen, recipe: Recipe, directory: Path, device: str
) -> UNet2DConditionModel:
    """Train the U-Net; return its averaged weights."""
    torch.manual_seed(1)
    examples = batches(frozen, recipe.batch, device)
    held_out = validation(frozen, device)
    _, channels, size, _ = held_out.noisy.shape
    unet = shape.build(channels, size, frozen.texts.text_encoder.config.hidden_size).to(device)

    def loss_at(step: int) -> Tensor:
        batch = examples(step)
        return (batch.errors(unet) * snr_weights(batch.timesteps)).mean()

    def validate(averaged: UNet2DConditionModel) -> dict[str, float]:
        return {"validation_loss": validation_errors(averaged, held_out).mean().item()}

    return train_part(
        "unet",
        unet,
        loss_at,
        recipe,
        directory,
        validate=validate,
        by_muon=inner_matrices(unet, *ENDS),
        made_on=frozen.digest,
    )


def snr_weights(timesteps: Tensor) -> Tensor:
    """(n,) min-SNR weights for v: min(SNR, gamma) / (SNR + 1), over their mean over timesteps."""
    return _weights().to(timesteps.device)[timesteps]


@lru_cache(maxsize=1)
def _weights() -> Tensor:
    kept = DDPMScheduler(**NOISE).alphas_cumprod
    snr = kept / (1 - kept)
    weights = snr.clamp(max=GAMMA) / (snr + 1)
    return weights / weights.mean()


def batches(frozen: Frozen, size: int, device: str) -> Callable[[int], Examples]:
    """step -> its training examples, from one of the pools in use."""
    pools = Pools(frozen.latents, size, device)

    def examples(step: int) -> Examples:
        generator = step_generator("unet", step)
        some, chosen = pools.some(step, generator)
        timesteps = torch.randint(1000, (size,), generator=generator)
        return noised(some, chosen, timesteps, generator, frozen, device)

    return examples


def noised(
    pool: Pool,
    chosen: Tensor,
    timesteps: Tensor,
    generator: torch.Generator,
    frozen: Frozen,
    device: str,
) -> Examples:
    """The chosen pictures of a pool at these timesteps, captioned."""
    schedule = DDPMScheduler(**NOISE)
    latents = pool.encoded[chosen].float()
    noise = torch.randn(latents.shape, generator=generator)
    chance = random.Random(int(torch.randint(2**31, (), generator=generator)))
    return Examples(
        schedule.add_noise(latents, noise, timesteps).to(device),
        timesteps.to(device),
        frozen.texts.encode(say(pool, chosen, chance)),
        schedule.get_velocity(latents, noise, timesteps).to(device),
    )


def validation(frozen: Frozen, device: str) -> Examples:
    """VALIDATED examples of a pool that no training meets, timesteps spread evenly."""
    pool = draw_pool(frozen.latents, VALIDATED, step_generator("pool validation", 0), device)
    generator = step_generator("validation", 0)
    timesteps = torch.arange(VALIDATED) * 1000 // VALIDATED
    return noised(pool, torch.arange(VALIDATED), timesteps, generator, frozen, device)


@torch.no_grad()
def validation_errors(unet: UNet2DConditionModel, held_out: Examples) -> Tensor:
    """(n,) errors of the held-out examples, unweighted, in the order of their timesteps."""
    parts = [held_out[i : i + 128] for i in range(0, VALIDATED, 128)]
    return torch.cat([part.errors(unet) for part in parts])
