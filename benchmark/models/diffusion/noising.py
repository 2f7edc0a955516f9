"""How noise is mixed into latents in training, and what a denoiser is asked for: two ways.

process = process_of(scheduler)                         # FlowMatching, of a flow-matching scheduler
noisy, target = process.noised(draw), process.target(draw)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

#: What a denoiser of diffusion may predict: the noise, v (Salimans and Ho 2022), or clean latents.
TARGETS = ("epsilon", "v_prediction", "sample")


class Noised(Protocol):
    """n training examples: (n, channels, height, width) float32 each, and (n,) timesteps."""

    @property
    def latents(self) -> Tensor: ...

    @property
    def noise(self) -> Tensor: ...

    @property
    def timesteps(self) -> Tensor: ...


class Process(Protocol):
    """From clean latents to noise."""

    def timesteps(self, n: int, generator: Generator) -> Tensor:
        """(n,) on the CPU, as the denoiser takes them."""
        ...

    def noised(self, draw: Noised) -> Tensor:
        """What the denoiser is given."""
        ...

    def target(self, draw: Noised) -> Tensor:
        """What it is asked for."""
        ...


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Every timestep alike, and one of TARGETS, as the model's scheduler says."""

    scheduler: DDPMScheduler

    def timesteps(self, n: int, generator: Generator) -> Tensor:
        return torch.randint(self.scheduler.config.num_train_timesteps, (n,), generator=generator)

    def noised(self, draw: Noised) -> Tensor:
        noisy: Tensor = self.scheduler.add_noise(draw.latents, draw.noise, draw.timesteps)
        return noisy

    def target(self, draw: Noised) -> Tensor:
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return draw.noise
            case "v_prediction":
                velocity: Tensor = self.scheduler.get_velocity(
                    draw.latents, draw.noise, draw.timesteps
                )
                return velocity
            case "sample":
                return draw.latents
            case other:
                raise ValueError(f"prediction_type is {other!r}, none of {', '.join(TARGETS)}")


def _logit_normal(n: int, generator: Generator) -> Tensor:
    return torch.sigmoid(torch.randn(n, generator=generator))


def _uniform(n: int, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator)


#: How a place between 0 and 1 is drawn: the logarithm of its odds is normal, of mean 0 and standard
#: deviation 1, as train_dreambooth_sd3.py of diffusers has it by default; or every place alike, as
#: train_dreambooth_flux.py has it (`--weighting_scheme` logit_normal and none).
SPREADS: dict[str, Callable[[int, Generator], Tensor]] = {
    "logit-normal": _logit_normal,
    "uniform": _uniform,
}


@dataclass(frozen=True, eq=False)
class FlowMatching:
    """Straight lines from latents to noise (Lipman et al. 2023), as Esser et al. (2024) train them.

    The place on the line goes through the schedule that the model's scheduler has before it is told
    a number of steps, shift included. All places weigh alike. That is how diffusers' scripts train.
    """

    scheduler: FlowMatchEulerDiscreteScheduler  #: as it is made, with all timesteps of training
    spread: str = "logit-normal"  #: one of SPREADS

    def timesteps(self, n: int, generator: Generator) -> Tensor:
        """(n,) float32: the share of noise, times the number of timesteps."""
        places = SPREADS[self.spread](n, generator)
        every: Tensor = self.scheduler.timesteps  # the noisiest first
        return every[(places * len(every)).long()]

    def noised(self, draw: Noised) -> Tensor:
        share = draw.timesteps / self.scheduler.config.num_train_timesteps
        share = share[:, None, None, None]
        return (1 - share) * draw.latents + share * draw.noise

    def target(self, draw: Noised) -> Tensor:
        """The line's direction: the velocity."""
        return draw.noise - draw.latents


def process_of(
    scheduler: DDPMScheduler | FlowMatchEulerDiscreteScheduler, spread: str = "logit-normal"
) -> Process:
    """That of a model whose scheduler this is; `spread`: one of SPREADS, of flow matching."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowMatching(scheduler, spread)
    return Diffusion(scheduler)
