"""A cascade's fine-tuning steps written out plainly with diffusers' modules, one term at a time.

Nothing here comes from `methods` or `benchmark`: both noise schedules are computed from their
definition (a squared cosine; Nichol and Dhariwal 2021), instance and prior images go through the
U-Net apart, and small images are made of the photographs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import AutoTokenizer, T5EncoderModel


@dataclass
class Given:
    """The random numbers of one term at one step, its images, and its prompts."""

    images: torch.Tensor  #: (n, 3, side, side) in [-1, 1]
    noise: torch.Tensor
    timesteps: torch.Tensor
    prompts: list[str]
    small: torch.Tensor | None = None  #: (n, 3, less, less) in [-1, 1]
    small_noise: torch.Tensor | None = None  #: as `noise`
    level: int = 0  #: the timestep of that noise


def kept(timesteps: torch.Tensor) -> torch.Tensor:
    """(n, 1, 1, 1) the share of the signal's variance at each of 1000 timesteps."""
    times = np.arange(1001) / 1000
    share = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas = np.maximum(share[1:] / share[:-1], 1 - 0.999)
    found = np.cumprod(alphas)[timesteps.numpy()]
    return torch.tensor(found, dtype=torch.float32).view(-1, 1, 1, 1)


def noisy(images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    signal = kept(timesteps)
    return signal.sqrt() * images + (1 - signal).sqrt() * noise


def term_loss(unet: UNet2DConditionModel, states: torch.Tensor, given: Given) -> torch.Tensor:
    shown, levels = noisy(given.images, given.noise, given.timesteps), None
    if given.small is not None:
        levels = torch.full_like(given.timesteps, given.level)
        size = given.images.shape[-2:]
        larger = torch.nn.functional.interpolate(
            given.small, size, mode="bilinear", align_corners=True
        )
        shown = torch.cat([shown, noisy(larger, given.small_noise, levels)], dim=1)
    predicted = unet(shown, given.timesteps, states, class_labels=levels).sample
    return ((predicted[:, :3] - given.noise) ** 2).mean()


@dataclass
class Result:
    losses: list[float]
    weights: dict[str, torch.Tensor]
    smallest: dict[str, torch.Tensor]  #: an entry's smallest gradient: see `finetuning.Result`


def dreambooth_steps(
    directory: Path,
    stage: str,
    steps: list[list[Given]],
    *,
    prior_weight: float,
    learning_rate: float,
    weight_decay: float,
    max_grad_norm: float,
) -> Result:
    """Eq. 2 of the DreamBooth paper on one stage's U-Net, an optimiser step an entry of `steps`."""
    unet = UNet2DConditionModel.from_pretrained(directory / stage / "unet").float().train()
    text_encoder = T5EncoderModel.from_pretrained(directory / "base" / "text_encoder").float()
    tokenizer = AutoTokenizer.from_pretrained(directory / "base" / "tokenizer")
    named = dict(unet.named_parameters())
    optimiser = torch.optim.AdamW(
        named.values(), lr=learning_rate, weight_decay=weight_decay, foreach=False, fused=False
    )
    result = Result([], {}, {})
    for terms in steps:
        optimiser.zero_grad()
        loss = torch.zeros(())
        for weight, given in zip((1.0, prior_weight), terms, strict=True):
            read = tokenizer(
                given.prompts, padding="max_length", max_length=77, return_tensors="pt"
            )
            with torch.no_grad():
                states = text_encoder(read.input_ids, attention_mask=read.attention_mask)[0]
            loss = loss + weight * term_loss(unet, states, given)
        loss.backward()
        learning = [parameter for parameter in named.values() if parameter.grad is not None]
        for name, parameter in named.items():
            size = torch.zeros(()) if parameter.grad is None else parameter.grad.abs()
            size = size.expand_as(parameter)
            result.smallest[name] = torch.minimum(result.smallest.get(name, size), size)
        norm = sum((p.grad.double() ** 2).sum() for p in learning) ** 0.5
        for parameter in learning:
            parameter.grad.mul_(min(1.0, max_grad_norm / (float(norm) + 1e-6)))
        optimiser.step()
        result.losses.append(loss.item())
    result.weights = {name: parameter.detach() for name, parameter in named.items()}
    return result
