"""The schedulers that a suite's sampler can name, and diffusers' classes for them.

    build_scheduler(Sampler(scheduler="ddim"), model_configuration)

Importing this loads no torch, so that a suite's sampler can be checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.api import Sampler, UserError

#: Name -> (class in diffusers, settings laid over the model's own scheduler configuration).
#: PNDM skips its Runge-Kutta warm-up, as the configuration of Stable Diffusion does.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
}


def check_scheduler(sampler: Sampler) -> None:
    """Raise UserError if the sampler's scheduler is none of SCHEDULERS."""
    if sampler.scheduler not in SCHEDULERS:
        raise UserError(f"unknown scheduler '{sampler.scheduler}'; known: {', '.join(SCHEDULERS)}")


def passes(sampler: Sampler) -> int:
    """How often an image goes through the denoiser: with guidance, above 1, twice a step."""
    return sampler.steps * (2 if sampler.guidance > 1 else 1)


def build_scheduler(sampler: Sampler, configuration: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler for a model's scheduler `configuration`. Raises UserError."""
    import diffusers

    check_scheduler(sampler)
    class_name, settings = SCHEDULERS[sampler.scheduler]
    return getattr(diffusers, class_name).from_config(configuration, **settings)
