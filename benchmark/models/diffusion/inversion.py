"""Real images -> the noise that DDIM draws them from (Song et al., 2010.02502), and null texts.

    path = invert(latents, predict, sampler, configuration)     # path[-1]: the noise
    texts = NullText(sampler, configuration, 10).learn(path, ...)   # (steps, length, width)

All in float32: what is lost on the way to the noise is not found again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.api import Sampler
from benchmark.models.backbones.latent_stage import LatentCondition
from benchmark.models.diffusion.attention_control import Control
from benchmark.models.diffusion.sampling import build_scheduler, check_inversion
from benchmark.models.diffusion.schedule import timesteps

#: What a denoiser says of (1, channels, height', width') at a timestep.
Predict = Callable[[Tensor, int], Tensor]

#: Of null texts: Adam's rate, half of which is left at the end; the squared error that is enough at
#: the first step, and how much more is at the last.
RATE, ENOUGH, MORE = 1e-2, 1e-5, 1e-3


@dataclass(frozen=True, eq=False)
class Inverted:
    """One image, as what it is drawn from again."""

    noise: Tensor  #: (1, channels, height', width') float32
    text: str  #: under which it was inverted
    condition: LatentCondition  #: that text: one row
    sampler: Sampler  #: by which it is drawn
    null_texts: Tensor | None = None  #: (steps, length, width): the empty text of each step

    def begin(self, unconditional: LatentCondition) -> LatentCondition:
        """What guidance leads away from at the first step, in the place of `unconditional`."""
        if self.null_texts is None:
            return unconditional
        return with_embeddings(unconditional, self.null_texts[:1])


def with_embeddings(condition: Any, embeddings: Tensor) -> LatentCondition:
    """A condition that has these, (n, length, width), in the place of its own."""
    other: LatentCondition = replace(condition, embeddings=embeddings)
    return other


@dataclass
class AfterStep:
    """What diffusers' pipeline calls after each step of an edit."""

    control: Control
    null_texts: Tensor | None

    def __call__(
        self, _pipeline: object, step: int, _timestep: object, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        self.control.step = step + 1
        if self.null_texts is None or step + 1 == len(self.null_texts):
            return {}
        rows = tensors["prompt_embeds"]  # those that guidance leads away from first
        half = len(rows) // 2
        blank = self.null_texts[[step + 1] * half].to(rows.dtype)
        return {"prompt_embeds": torch.cat([blank, rows[half:]])}


@torch.no_grad()
def invert(
    latents: Tensor, predict: Predict, sampler: Sampler, configuration: Mapping[str, Any]
) -> list[Tensor]:
    """The way of `latents` to noise, without guidance: steps + 1 of them, from the image on.

    Raises UserError for a sampler, or a scheduler's configuration, that cannot be inverted.
    """
    check_inversion(sampler, configuration)
    config = build_scheduler(sampler, configuration).config
    known = signature(DDIMInverseScheduler).parameters
    scheduler = DDIMInverseScheduler(**{name: config[name] for name in config if name in known})
    scheduler.set_timesteps(sampler.steps)
    path = [latents]
    for timestep in reversed(visited(sampler, configuration)):
        predicted = predict(path[-1], timestep)
        path.append(scheduler.step(predicted, timestep, path[-1]).prev_sample)
    return path


def visited(sampler: Sampler, configuration: Mapping[str, Any]) -> list[int]:
    """The timesteps of DDIM, the noisiest first."""
    every = timesteps("DDIMScheduler", configuration, sampler.steps)
    return [int(timestep) for timestep in every]


@dataclass(frozen=True)
class NullText:
    """Null-text optimisation (Mokady et al., 2211.09794)."""

    sampler: Sampler
    configuration: Mapping[str, Any]  #: of the model's scheduler
    inner_steps: int  #: at most, of Adam, for each step of the sampler

    @torch.no_grad()
    def learn(
        self,
        path: Sequence[Tensor],
        predictor: Callable[[LatentCondition], Predict],
        condition: LatentCondition,
        blank: LatentCondition,
    ) -> Tensor:
        """(steps, length, width): for each step an empty text, with which guidance stays on `path`.

        `predictor`: what the denoiser says under a condition; `condition`: the image's text.
        Each step begins with what the one before it learned, the first with `blank`.
        """
        scheduler = build_scheduler(self.sampler, self.configuration)
        scheduler.set_timesteps(self.sampler.steps)

        def stepped(embeddings: Tensor, latents: Tensor, timestep: int, wanted: Tensor) -> Tensor:
            away = predictor(with_embeddings(blank, embeddings))(latents, timestep)
            guided = away + self.sampler.guidance * (wanted - away)
            found: Tensor = scheduler.step(guided, timestep, latents).prev_sample
            return found

        latents, embeddings, learned = path[-1], blank.embeddings, []
        for step, timestep in enumerate(visited(self.sampler, self.configuration)):
            share, goal = step / self.sampler.steps, path[-2 - step]
            here = latents, timestep, predictor(condition)(latents, timestep)
            embeddings = embeddings.clone().requires_grad_()
            optimiser = torch.optim.Adam([embeddings], lr=RATE * (1 - share / 2))
            for _ in range(self.inner_steps):
                with torch.enable_grad():
                    loss = mse_loss(stepped(embeddings, *here), goal)
                [embeddings.grad] = torch.autograd.grad(loss, [embeddings])
                optimiser.step()
                if loss < ENOUGH + MORE * share:
                    break
            embeddings = embeddings.detach()
            latents = stepped(embeddings, *here)
            learned.append(embeddings)
        return torch.cat(learned)
