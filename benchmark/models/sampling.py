"""From noise to latents: the samplers that can be named, and the one loop that runs them.

    Sampler(scheduler="ddim", steps=20, guidance=4.0)

Importing this loads no torch, so that a suite's sampler can be checked at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Generator, Tensor

#: Name -> (class in diffusers, settings laid over the model's own scheduler configuration).
#: PNDM skips its Runge-Kutta warm-up, as the configuration of Stable Diffusion does.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
}


@dataclass(frozen=True)
class Sampler:
    """How images are drawn: a scheduler's name, its steps and the guidance scale.

    Guidance of 1 or less is none: the unconditional pass is left out.
    """

    scheduler: str = "ddim"
    steps: int = 20
    guidance: float = 4.0

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise UserError(f"unknown scheduler '{self.scheduler}'; known: {', '.join(SCHEDULERS)}")
        if self.steps < 1:
            raise UserError(f"a sampler needs at least one step, not {self.steps}")

    def build(self, configuration: dict[str, Any]) -> Any:
        """A fresh diffusers scheduler of this kind for a model's scheduler `configuration`."""
        import diffusers

        class_name, settings = SCHEDULERS[self.scheduler]
        return getattr(diffusers, class_name).from_config(configuration, **settings)


def denoise(
    unet: UNet2DConditionModel,
    scheduler: Any,
    *,
    conditions: Tensor,
    unconditional: Tensor,
    generators: Sequence[Generator],
    sampler: Sampler,
) -> Tensor:
    """Latents for `conditions`: the loop of diffusers' StableDiffusionPipeline.

    `conditions` is (n, length, width), `unconditional` (1, length, width). Each image takes its
    first noise, and a stochastic scheduler's later noise, from its own generator of the n, so that
    it does not depend on the images beside it. Returns (n, channels, height, width) float32.
    """
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    count, device = len(conditions), conditions.device
    guided = sampler.guidance > 1.0
    if guided:
        conditions = torch.cat([unconditional.expand(count, -1, -1), conditions])
    scheduler.set_timesteps(sampler.steps, device=device)
    size = unet.config.sample_size
    shape = (count, unet.config.in_channels, size, size)
    latents = randn_tensor(shape, generator=list(generators), device=device)
    latents = latents * scheduler.init_noise_sigma
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    noise = {"generator": list(generators)} if stochastic else {}
    for timestep in scheduler.timesteps:
        inputs = torch.cat([latents] * 2) if guided else latents
        inputs = scheduler.scale_model_input(inputs, timestep)
        prediction = unet(inputs, timestep, encoder_hidden_states=conditions, return_dict=False)[0]
        # Autocast hands back half precision; the scheduler's sums need all of float32.
        prediction = prediction.float()
        if guided:
            blank, prompted = prediction.chunk(2)
            prediction = blank + sampler.guidance * (prompted - blank)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **noise)[0]
    return latents
