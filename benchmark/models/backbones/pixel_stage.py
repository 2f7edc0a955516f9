"""Training on pixels: what the models of a cascade share, whether they begin or make larger.

stage = PixelStage("base", 64, unet, noise_scheduler, "bf16")
clean = stage.prepare(images)                           # (n, 3, 64, 64) in [0, 1]
losses = stage.loss(stage.draw(clean, 4, generator), condition)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Generator, Tensor
from torch.nn.functional import interpolate, mse_loss

from benchmark.models.precision import autocast
from benchmark.models.rows import TensorRows
from benchmark.models.texts.text_reader import EncodedTexts

COLOURS = 3


@dataclass(frozen=True, eq=False)
class Pixels(TensorRows):
    """n clean images in [-1, 1]."""

    images: Tensor  #: (n, 3, height, width) float32
    small: Tensor  #: the same, (n, 3, less, less), where a stage makes larger; else (n, 0, 1, 1)


@dataclass(frozen=True, eq=False)
class PixelDraw(TensorRows):
    """n training examples."""

    images: Tensor  #: (n, 3, height, width) float32 in [-1, 1], clean
    noise: Tensor  #: the same shape
    timesteps: Tensor  #: (n,) int64
    enlarged: Tensor  #: the same shape: small images enlarged, with noise; else without channels
    levels: Tensor  #: (n,) int64, the timestep of that noise


@dataclass(frozen=True, eq=False)
class Enlarging:
    """What a stage makes larger, and how much noise lies on that."""

    side: int  #: height and width of the small images, in pixels
    scheduler: DDPMScheduler  #: of their noise
    noise: float  #: how much of it: 0 the least, 1 nothing else

    @property
    def level(self) -> int:
        """The timestep of that noise."""
        return noise_level(self.scheduler, self.noise)

    def enlarged(self, small: Tensor, noise: Tensor) -> Tensor:
        """(n, 3, less, less) as large as `noise`, and with it, as diffusers' pipeline does."""
        size = noise.shape[-2:]
        larger = interpolate(small, size, mode="bilinear", align_corners=True)
        levels = torch.full((len(small),), self.level, device=small.device)
        return self.scheduler.add_noise(larger, noise, levels)


def noise_level(scheduler: DDPMScheduler, noise: float) -> int:
    """The timestep at which a share `noise`, in [0, 1], of a schedule has passed."""
    return round(noise * (scheduler.config.num_train_timesteps - 1))


@dataclass(frozen=True, eq=False)
class PixelStage:
    """A U-Net that learns to tell the noise on images, and to enlarge small ones if `enlarging`."""

    name: str
    resolution: int
    denoiser: UNet2DConditionModel
    noise_scheduler: DDPMScheduler  #: the forward process
    precision: str
    enlarging: Enlarging | None = None

    def with_noise(self, noise: float) -> Self:
        """This stage, learning from small images with so much noise, as `benchmark.api.Stage`."""
        if self.enlarging is None:
            raise ValueError(f"stage '{self.name}' makes no images larger")
        return replace(self, enlarging=replace(self.enlarging, noise=noise))

    def prepare(self, images: Tensor) -> Pixels:
        """(n, 3, resolution, resolution) float32 in [0, 1] -> the same in [-1, 1], on the device.

        The small ones are reduced as photographs are for the stage before.
        """
        images = images.to(self.denoiser.device, torch.float32)
        small = images[:, :0, :1, :1]
        if self.enlarging is not None:
            size = (self.enlarging.side,) * 2
            small = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        return Pixels(images * 2 - 1, small * 2 - 1)

    def draw(self, clean: Pixels, n: int, generator: Generator) -> PixelDraw:
        """Draws images, timesteps, the noise, and the noise of small images, in this order."""
        images = torch.randint(len(clean), (n,), generator=generator)
        steps = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(steps, (n,), generator=generator)
        noise = torch.randn((n, *clean.images.shape[1:]), generator=generator)
        device = clean.images.device
        chosen = clean.images[images.to(device)]
        enlarged, level = chosen[:, :0], 0
        if self.enlarging is not None:
            others = torch.randn(noise.shape, generator=generator).to(device)
            enlarged = self.enlarging.enlarged(clean.small[images.to(device)], others)
            level = self.enlarging.level
        levels = torch.full((n,), level, device=device)
        return PixelDraw(chosen, noise.to(device), timesteps.to(device), enlarged, levels)

    def loss(self, draw: PixelDraw, condition: EncodedTexts) -> Tensor:
        """(n,) float32: each row's mean squared error of the noise (paper, Eq. 1), with gradients.

        The U-Net gives the variance of the step back, too, and that is left alone, as in diffusers'
        script: it was learned by another loss (Nichol and Dhariwal 2021), from far more images than
        a subject has. It moves all the same, as the weights before it do. So samplers that a suite
        names draw with the fixed small variance (`sampling.py`), and only "own" with the learned.
        """
        noisy = self.noise_scheduler.add_noise(draw.images, draw.noise, draw.timesteps)
        with autocast(self.denoiser.device, self.precision):
            given = self.denoiser(
                torch.cat([noisy, draw.enlarged], dim=1),
                draw.timesteps,
                class_labels=None if self.enlarging is None else draw.levels,
                **condition.for_denoiser(),
                return_dict=False,
            )[0]
        errors = mse_loss(given[:, :COLOURS].float(), draw.noise, reduction="none")
        return errors.mean(dim=(1, 2, 3))
