"""The schedulers that a suite's sampler can name, and diffusers' classes for them.

    build_scheduler(Sampler(scheduler="ddim"), model_configuration)

Importing this loads no torch, so that a suite's sampler can be checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.api import EMBEDDED_GUIDANCE, TRUE_GUIDANCE, Sampler, UserError
from benchmark.models.diffusion.schedule import check_schedule
from benchmark.models.families import class_of
from benchmark.models.files.configuration import known
from benchmark.store.names import meant

#: Name -> (class in diffusers, settings laid over the model's own scheduler configuration).
#: PNDM skips its Runge-Kutta warm-up, as the configuration of Stable Diffusion does.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
}
#: The same of models that were taught by flow matching.
FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow-euler": ("FlowMatchEulerDiscreteScheduler", {}),
}
INVERTED = "ddim"  #: the one for which images are turned into noise
#: The scheduler of the model's own configuration, as an untouched pipeline of diffusers has it.
OWN = "own"


def check_sampler(sampler: Sampler, configuration: Mapping[str, Any]) -> None:
    """Raise UserError if images cannot be drawn so with a model's scheduler `configuration`.

    If its scheduler is not known, or its schedule does not begin in pure noise.
    """
    class_name, settings = _chosen(sampler, configuration)
    try:
        check_schedule(class_name, {**configuration, **settings}, sampler.steps)
    except UserError as error:
        raise UserError(f"scheduler '{sampler.scheduler}': {error}") from error


def check_inversion(sampler: Sampler, configuration: Mapping[str, Any]) -> None:
    """Raise UserError if no image is inverted for `sampler` with a scheduler `configuration`."""
    if sampler.scheduler != INVERTED:
        raise UserError(f"images are inverted for {INVERTED}, not for '{sampler.scheduler}'")
    spacing = configuration.get("timestep_spacing", "leading")
    if spacing not in ("leading", "trailing"):
        raise UserError(
            f"scheduler_config.json says timestep_spacing = '{spacing}', for which diffusers has "
            "no inversion: set it to leading or trailing"
        )
    check_sampler(sampler, configuration)


def check_guidance(sampler: Sampler, capabilities: frozenset[str]) -> None:
    """Raise UserError for a guidance that a backbone of these `capabilities` would draw without."""
    if sampler.true_guidance is not None and TRUE_GUIDANCE not in capabilities:
        raise UserError(
            f"true_guidance is {sampler.true_guidance:g}, and the backbone has no second pass "
            "beside that of guidance: leave it out, and set guidance"
        )
    told = EMBEDDED_GUIDANCE in capabilities or TRUE_GUIDANCE not in capabilities
    if sampler.guidance > 1 and not told:
        raise UserError(
            f"guidance is {sampler.guidance:g}, and the backbone takes none: set it to 1, which is "
            "none, and true_guidance if a second pass shall guide"
        )


def passes(sampler: Sampler, capabilities: frozenset[str]) -> int:
    """How often an image goes through the denoiser of a backbone of these `capabilities`.

    With guidance, above 1, twice a step, unless the model is told it.
    """
    guided = sampler.guidance > 1 and EMBEDDED_GUIDANCE not in capabilities
    return sampler.steps * (2 if guided or sampler.true_guidance else 1)


def build_scheduler(sampler: Sampler, configuration: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler for a model's scheduler `configuration`. Raises UserError."""
    import diffusers

    check_sampler(sampler, configuration)
    class_name, settings = _chosen(sampler, configuration)
    try:
        return getattr(diffusers, class_name).from_config({**configuration, **settings})
    except (NotImplementedError, ValueError) as error:  # how diffusers refuses settings
        raise UserError(
            f"scheduler '{sampler.scheduler}' does not take the model's configuration: {error}"
        ) from error


def _chosen(sampler: Sampler, configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """diffusers' class, and the settings laid over the configuration.

    Which there are to choose from, the class of the model's own says. Only a model's own scheduler
    draws with a variance that the model learned: the others do not know it, or draw what was
    trained since, without it (`pixel_stage.py`).
    """
    name = class_of(configuration.get("_class_name", ""))
    offered, others, kind, taught = SCHEDULERS, FLOW_SCHEDULERS, "scheduler", "diffusion"
    if name in known()["flow_scheduler"]["classes"]:
        offered, others, kind = FLOW_SCHEDULERS, SCHEDULERS, "flow_scheduler"
        taught = "flow matching"
    if sampler.scheduler in offered:
        class_name, settings = offered[sampler.scheduler]
        learned = str(configuration.get("variance_type")).startswith("learned")
        return class_name, settings | ({"variance_type": "fixed_small"} if learned else {})
    if sampler.scheduler in others:
        raise UserError(
            f"scheduler '{sampler.scheduler}' cannot draw from a model that was taught by "
            f"{taught}: choose {', '.join(offered)}, or {OWN}, the model's"
        )
    if sampler.scheduler != OWN:
        raise UserError(
            f"unknown scheduler '{sampler.scheduler}'{meant(sampler.scheduler, [*offered, OWN])}; "
            f"known: {', '.join(offered)}, and {OWN}, "
            "the model's"
        )
    if name not in known()[kind]["classes"]:
        raise UserError(
            f"scheduler '{OWN}': the model names "
            f"{name or 'none'}: choose one of {', '.join(offered)}"
        )
    return name, {}
