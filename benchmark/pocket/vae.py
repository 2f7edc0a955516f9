"""Pretraining the pocket generator's VAE: 64 x 64 x 3 pictures to small latents, and back.

The VAE as a whole first; then its decoder alone, for sharper pictures of the same latents, so that
a U-Net can be trained on these meanwhile.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from benchmark.pocket.pictures import draw, fresh_pictures
from benchmark.pocket.training import (
    Recipe,
    digest,
    inner_matrices,
    quick_autocast,
    step_generator,
    train_part,
)

LATENT_CHANNELS, LATENT_SIZE = 8, 16
SCALED = 512  #: pictures that the latents' scale is measured on
#: The convolutions next to the pictures.
ENDS = ("encoder.conv_in", "decoder.conv_out")


def latents_digest(vae: AutoencoderKL) -> str:
    """What identifies the latents that `vae` gives."""
    return digest(vae.encoder, vae.quant_conv)


def build_vae() -> AutoencoderKL:
    """The VAE with random weights: f = 4, 8 latent channels."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
    )
    vae.set_attn_processor(AttnProcessor())  # torch's own attention is slow to train in bf16 here
    return vae


def train_vae(recipe: Recipe, directory: Path, device: str) -> AutoencoderKL:
    """Reconstruct fresh renders: squared error, a little L1, and a light KL term."""
    torch.manual_seed(0)
    vae = build_vae().to(device)
    pictures = fresh_pictures("vae", recipe.batch, device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("vae noise", step)
        target = pictures(step) * 2 - 1
        with quick_autocast(device):
            moments = vae.encode(target).latent_dist
            noise = torch.randn(moments.mean.shape, generator=generator).to(device)
            decoded = vae.decode(moments.mean + moments.std * noise).sample
        error = decoded.float() - target
        kl = moments.kl().float().mean() / target[0].numel()
        return 4 * error.square().mean() + 0.2 * error.abs().mean() + 1e-3 * kl

    def validate(averaged: AutoencoderKL) -> dict[str, float]:
        return {"psnr": psnr(averaged)}

    inner = inner_matrices(vae, *ENDS)
    return train_part("vae", vae, loss_at, recipe, directory, validate, inner)


def train_decoder(vae: AutoencoderKL, recipe: Recipe, directory: Path, device: str) -> None:
    """Train the decoder on alone, mostly by squared error, on the latents that `vae` now gives.

    The encoder stays as it is.
    """
    pictures = fresh_pictures("decoder", recipe.batch, device)
    decoder = Decoder(vae)

    def loss_at(step: int) -> Tensor:
        target = pictures(step) * 2 - 1
        with quick_autocast(device):
            with torch.no_grad():
                latents = vae.encode(target).latent_dist.mean
            decoded = decoder(latents)
        error = decoded.float() - target
        return error.square().mean() + 0.1 * error.abs().mean()

    trained = train_part(
        "decoder",
        decoder,
        loss_at,
        recipe,
        directory,
        by_muon=inner_matrices(decoder, *ENDS),
        made_on=latents_digest(vae),
    )
    replace_decoder(vae, trained)


def replace_decoder(vae: AutoencoderKL, trained: Decoder) -> None:
    """Let `vae` decode by `trained`."""
    vae.post_quant_conv, vae.decoder = trained.post_quant_conv, trained.decoder


class Decoder(nn.Module):
    """The VAE's half that draws: latents to images (n, 3, 64, 64) in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv).requires_grad_(True)
        self.decoder = copy.deepcopy(vae.decoder).requires_grad_(True)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


@torch.no_grad()
def psnr(vae: AutoencoderKL, count: int = 256) -> float:
    """The VAE's PSNR in dB over fresh renders (mean of the pictures' own)."""
    _, _, images = draw(count, step_generator("psnr", 0), str(vae.device))
    decoded = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample
    error = ((decoded / 2 + 0.5).clamp(0, 1) - images).square().mean(dim=(1, 2, 3))
    return (-10 * error.log10()).mean().item()


def set_latent_scale(vae: AutoencoderKL, device: str) -> None:
    """Set `scaling_factor` so that latents have unit standard deviation, as in LDM, section D."""
    with torch.no_grad():
        _, _, pictures = draw(SCALED, step_generator("scale", 0), device)
        spread = vae.encode(pictures * 2 - 1).latent_dist.mean.std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 4))
