"""Training in the latents of a VAE: what the families that have one share.

stage = LatentStage("unet", 512, unet, vae, process_of(scheduler), "bf16")
clean = stage.prepare(images)                           # the VAE runs once
losses = stage.loss(stage.draw(clean, 4, generator), condition)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from benchmark.api import Rows, Sampler
from benchmark.models.diffusion.noising import Process
from benchmark.models.diffusion.sampling import check_guidance
from benchmark.models.finite import check_finite
from benchmark.models.memory.halving import SMALLER, BatchSize
from benchmark.models.precision import autocast
from benchmark.models.rows import TensorRows

#: So many images are encoded, or drawn, at once ...
BATCH = 16
#: ... but the VAE takes at most about so many pixels: its memory grows with them.
VAE_PIXELS = 2**20


class LatentCondition(Rows, Protocol):
    """n texts as a denoiser and diffusers' pipeline take them."""

    @property
    def embeddings(self) -> Tensor:
        """(n, length, width) float32: each text, token by token."""
        ...

    def for_denoiser(self) -> dict[str, Any]:
        """What the denoiser is called with beside latents and timesteps."""
        ...

    def for_pipeline(self) -> dict[str, Tensor]:
        """What the pipeline is called with; with `negative_` before each name, what guides."""
        ...


class Calls(Protocol):
    """How a family's denoiser is called, and its pipeline."""

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        condition: LatentCondition,
    ) -> Tensor:
        """What the denoiser says about `noisy`, (n, channels, height', width') as that is."""
        ...

    def guidance(self, sampler: Sampler) -> dict[str, float]:
        """What the pipeline is told of guidance, by its names for it.

        Raises UserError for a guidance that it would draw without.
        """
        ...

    def guided(self, sampler: Sampler) -> bool:
        """Whether the pipeline is given what guidance leads away from, for a second pass."""
        ...

    def unpacked(self, latents: Tensor, side: int) -> Tensor:
        """The pipeline's latents as (n, channels, side, side)."""
        ...

    def with_guidance(self, guidance: float) -> Self:
        """With this guidance told in training. Raises ValueError where the model is told none."""
        ...


@dataclass(frozen=True)
class PlainCalls:
    """As most denoisers are called, with classifier-free guidance (Ho and Salimans 2022)."""

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        condition: LatentCondition,
    ) -> Tensor:
        predicted: Tensor = denoiser(
            noisy, timestep=timesteps, **condition.for_denoiser(), return_dict=False
        )[0]
        return predicted

    def guidance(self, sampler: Sampler) -> dict[str, float]:
        check_guidance(sampler, frozenset())
        return {"guidance_scale": sampler.guidance}

    def guided(self, sampler: Sampler) -> bool:
        return sampler.guidance > 1

    def unpacked(self, latents: Tensor, side: int) -> Tensor:
        return latents

    def with_guidance(self, guidance: float) -> Self:
        raise ValueError(f"the model is told no guidance, and was to be told {guidance}")


PLAIN = PlainCalls()


@dataclass(frozen=True, eq=False)
class Moments(TensorRows):
    """n clean images, as mean and standard deviation of their latents.

    In the scale the denoiser works in: `mean + std * noise` is distributed as the VAE's own sample.
    """

    mean: Tensor  #: (n, channels, height', width') float32
    std: Tensor  #: the same shape

    def sample(self, generators: Sequence[Generator]) -> Tensor:
        """Latents as the VAE would sample them, each row's noise from its own CPU generator."""
        noise = [torch.randn(self.mean.shape[1:], generator=one) for one in generators]
        return self.mean + self.std * torch.stack(noise).to(self.mean.device)


@dataclass(frozen=True, eq=False)
class LatentDraw(TensorRows):
    """n training examples."""

    latents: Tensor  #: (n, channels, height', width') float32, of clean images
    noise: Tensor  #: the same shape
    timesteps: Tensor  #: (n,) as the process gives them


@dataclass(frozen=True, eq=False)
class LatentStage:
    """A denoiser of a VAE's latents, which learns what `process` asks of it."""

    name: str
    resolution: int
    denoiser: nn.Module  #: a U-Net or a transformer
    vae: AutoencoderKL
    process: Process
    precision: str
    calls: Calls = PLAIN

    def with_guidance(self, guidance: float) -> LatentStage:
        """As `benchmark.api.Stage` says. Raises ValueError where the model is told none."""
        return replace(self, calls=self.calls.with_guidance(guidance))

    @torch.no_grad()
    def prepare(self, images: Tensor) -> Moments:
        """(n, 3, resolution, resolution) float32 in [0, 1] -> their moments, on the device.

        Raises UserError if the VAE's moments are not finite.
        """
        batch = BatchSize("encoding", vae_batch(self.resolution), SMALLER)
        moments = batch.halved(len(images), lambda size: self._moments(images, size))
        for name in ("mean", "std"):
            check_finite(
                f"the {name}s of the VAE's latents",
                getattr(moments, name),
                "bring another copy of the VAE",
            )
        scale, shift = scaling(self.vae)
        return Moments((moments.mean - shift) * scale, moments.std * scale)

    def _moments(self, images: Tensor, size: int) -> Moments:
        """As the VAE gives them, of so many images at once."""
        device, parts = self.vae.device, []
        with autocast(device, "fp32"):
            for chunk in images.split(size):
                posterior = self.vae.encode(chunk.to(device) * 2 - 1).latent_dist
                parts.append(Moments(posterior.mean, posterior.std))
        return parts[0].join(*parts[1:])

    def draw(self, clean: Moments, n: int, generator: Generator) -> LatentDraw:
        """Draws images, timesteps, the VAE's noise and the diffusion's noise, in this order."""
        images = torch.randint(len(clean), (n,), generator=generator)
        timesteps = self.process.timesteps(n, generator)
        shape = (n, *clean.mean.shape[1:])
        encoding = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        device = clean.mean.device
        images = images.to(device)
        return LatentDraw(
            # The VAE's own sample of these images, without running the VAE.
            latents=clean.mean[images] + clean.std[images] * encoding.to(device),
            noise=noise.to(device),
            timesteps=timesteps.to(device),
        )

    def predictor(self, condition: LatentCondition) -> Callable[[Tensor, int], Tensor]:
        """What the denoiser says of latents at a timestep, a row a text, in float32."""

        def predict(latents: Tensor, timestep: int) -> Tensor:
            timesteps = torch.full((len(latents),), timestep, device=latents.device)
            with autocast(latents.device, "fp32"):
                return self.calls.predict(self.denoiser, latents, timesteps, condition)

        return predict

    def loss(self, draw: LatentDraw, condition: LatentCondition) -> Tensor:
        """(n,) float32: each row's mean squared error (paper, Eq. 1), with gradients."""
        noisy = self.process.noised(draw)
        with autocast(noisy.device, self.precision):
            predicted = self.calls.predict(self.denoiser, noisy, draw.timesteps, condition)
        errors = mse_loss(predicted.float(), self.process.target(draw), reduction="none")
        return errors.mean(dim=(1, 2, 3))


def scaling(vae: AutoencoderKL) -> tuple[float, float]:
    """Scale and shift: a denoiser works on `(latents - shift) * scale`."""
    return vae.config.scaling_factor, vae.config.shift_factor or 0.0


def vae_batch(resolution: int) -> int:
    """So many images of `resolution` pixels are encoded or decoded at once."""
    return max(1, min(BATCH, VAE_PIXELS // resolution**2))
