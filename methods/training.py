"""The one denoising loop, shared by every method that learns.

    train(backbone, terms, parameters, encode=backbone.encode_prompts,
          optimisation=Optimisation(steps=1000, learning_rate=5e-6), progress=progress)

A loss is a sum of terms: images, the prompts they are learned under, and a weight. DreamBooth has
an instance term and a prior term (paper, Eq. 2), Textual Inversion one term.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from benchmark.api import Progress, Subject
from benchmark.models.stable_diffusion import Backbone

#: b prompts -> (b, length, width) text conditions.
Encode = Callable[[Sequence[str]], Tensor]

#: Every how many steps the loss is looked at; in between nothing waits for the device.
CHECK_EVERY = 25
#: At most how often a training tells its losses, which waits for the device too.
TELLINGS = 40


class Draw(NamedTuple):
    """What one step takes from a term."""

    latents: Tensor  #: (b, channels, height, width)
    noise: Tensor  #: the same shape
    timesteps: Tensor  #: (b,)
    prompts: list[str]  #: b of them


@dataclass(frozen=True)
class Term:
    """One term of the loss. Each step draws a batch of images and a prompt for each of them.

    Draws come from `generator` (on the CPU), in `draw`'s order, so that a term sees the same
    ones whatever other terms stand beside it, on every device.
    """

    mean: Tensor  #: (n, channels, height, width), as from `Backbone.latent_moments`
    std: Tensor  #: the same shape
    prompts: Sequence[str]
    generator: Generator
    name: str  #: what its losses are told by; no two terms of a training are called alike
    batch_size: int = 1
    weight: float = 1.0

    def draw(self, backbone: Backbone) -> Draw:
        """Images, timesteps, the VAE's noise, the diffusion's noise and prompts, in this order."""
        size = (self.batch_size,)
        images = torch.randint(len(self.mean), size, generator=self.generator)
        timesteps = torch.randint(
            backbone.noise_scheduler.config.num_train_timesteps, size, generator=self.generator
        )
        shape = (*size, *self.mean.shape[1:])
        encoding = torch.randn(shape, generator=self.generator)
        noise = torch.randn(shape, generator=self.generator)
        chosen = [0] * self.batch_size
        if len(self.prompts) > 1:
            chosen = torch.randint(len(self.prompts), size, generator=self.generator).tolist()
        device = self.mean.device
        images = images.to(device)
        return Draw(
            # The VAE's own sample of these images, without running the VAE.
            latents=self.mean[images] + self.std[images] * encoding.to(device),
            noise=noise.to(device),
            timesteps=timesteps.to(device),
            prompts=[self.prompts[i] for i in chosen],
        )


@dataclass(frozen=True)
class Optimisation:
    """AdamW with a constant learning rate; a `max_grad_norm` of 0 is no clipping."""

    steps: int
    learning_rate: float
    weight_decay: float = 1e-2
    max_grad_norm: float = 0.0


def seeded(seed: int, *names: str) -> Generator:
    """A CPU generator whose numbers depend on exactly the run seed and the names."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def instance_images(subject: Subject, resolution: int) -> Tensor:
    """The subject's images as (n, 3, resolution, resolution) float32 in [0, 1].

    The short side is resized (bicubic, anti-aliased), the centre cropped; an image that has the
    size already is not touched. Raises UserError for an image that cannot be read.
    """
    from benchmark.data.dataset import read_image

    return torch.stack([_fitted(torch.tensor(read_image(p)), resolution) for p in subject.images])


def _fitted(pixels: Tensor, resolution: int) -> Tensor:
    image = pixels.permute(2, 0, 1).float() / 255
    height, width = image.shape[1:]
    if min(height, width) != resolution:
        scale = resolution / min(height, width)
        size = (max(resolution, round(height * scale)), max(resolution, round(width * scale)))
        image = interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (image.shape[1] - resolution) // 2, (image.shape[2] - resolution) // 2
    return image[:, top : top + resolution, left : left + resolution]


def fixed_conditions(backbone: Backbone, texts: Sequence[str]) -> Encode:
    """An `encode` for a text encoder that does not change: each text is encoded once, now."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    with torch.no_grad():
        table = backbone.encode_prompts(list(rows))
    return lambda texts: table[[rows[text] for text in texts]]


def train(
    backbone: Backbone,
    terms: Sequence[Term],
    parameters: Sequence[nn.Parameter],
    *,
    encode: Encode,
    optimisation: Optimisation,
    progress: Progress,
) -> None:
    """Change `parameters` in place so that the weighted sum of the terms falls.

    `encode` turns b prompts into (b, length, width) conditions, with gradients if they are to flow
    there. `progress` is told of every step, and some 40 times of each term's unweighted loss, the
    mean since the time before. In fp16 a step whose scaled gradients overflow is left out, as
    GradScaler does, and the scale is halved. Raises FloatingPointError if the loss stops being
    finite, or no scale helps.
    """
    optimiser = torch.optim.AdamW(
        parameters,
        lr=optimisation.learning_rate,
        weight_decay=optimisation.weight_decay,
        fused=True,
    )
    # Only float16 needs its loss scaled; otherwise this passes everything through.
    scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.precision == "fp16")
    seen = torch.zeros((), device=backbone.device)
    untold = _Untold(terms, backbone.device)
    every = math.ceil(optimisation.steps / TELLINGS)
    for step in range(1, optimisation.steps + 1):
        losses = denoising_losses(backbone, terms, encode)
        loss = weighted_sum(terms, losses)
        scaler.scale(loss).backward()
        if optimisation.max_grad_norm:
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(parameters, optimisation.max_grad_norm)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        seen += loss.detach()
        untold.add(losses)
        if step % CHECK_EVERY == 0 or step == optimisation.steps:
            if not seen.isfinite():
                raise FloatingPointError(
                    f"the loss was no longer finite by step {step}: "
                    f"lower learning_rate, now {optimisation.learning_rate}"
                )
            if scaler.get_scale() < 1:
                # Such steps are left out, so nothing would be learned, and nobody would be told.
                raise FloatingPointError(
                    f"gradients overflow float16 at every scale by step {step}: use bf16 or fp32"
                )
        due = step % every == 0 or step == optimisation.steps
        progress(step, optimisation.steps, losses=untold.tell() if due else None)


class _Untold:
    """The terms' losses since they were last told, summed on the device."""

    def __init__(self, terms: Sequence[Term], device: torch.device) -> None:
        self._names = [term.name for term in terms]
        self._sums = torch.zeros(len(terms), device=device)
        self._steps = 0

    def add(self, losses: list[Tensor]) -> None:
        self._sums += torch.stack(losses).detach()
        self._steps += 1

    def tell(self) -> dict[str, float]:
        """Each term's mean since the time before. Waits for the device."""
        means = (self._sums / self._steps).tolist()
        self._sums.zero_()
        self._steps = 0
        return dict(zip(self._names, means, strict=True))


def denoising_losses(backbone: Backbone, terms: Sequence[Term], encode: Encode) -> list[Tensor]:
    """Each term's denoising loss (paper, Eq. 1), unweighted: a float32 scalar a term.

    All terms go through the U-Net in one batch.
    """
    draws = [term.draw(backbone) for term in terms]
    latents = torch.cat([draw.latents for draw in draws])
    noise = torch.cat([draw.noise for draw in draws])
    timesteps = torch.cat([draw.timesteps for draw in draws])
    conditions = encode([prompt for draw in draws for prompt in draw.prompts])
    scheduler = backbone.noise_scheduler
    noisy = scheduler.add_noise(latents, noise, timesteps)
    with backbone.autocast():
        predicted = backbone.unet(noisy, timesteps, conditions, return_dict=False)[0]
    target = _target(scheduler, latents, noise, timesteps)
    sizes = [term.batch_size for term in terms]
    parts = zip(predicted.split(sizes), target.split(sizes), strict=True)
    return [mse_loss(part.float(), wanted) for part, wanted in parts]


def weighted_sum(terms: Sequence[Term], losses: Sequence[Tensor]) -> Tensor:
    """What training lowers (paper, Eq. 2), a float32 scalar."""
    weighted = [term.weight * loss for term, loss in zip(terms, losses, strict=True)]
    return torch.stack(weighted).sum()


def _target(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the U-Net is asked for: the noise, v (Salimans and Ho 2022), or the latents."""
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise if kind == "epsilon" else latents
