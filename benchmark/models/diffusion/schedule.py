"""Which timesteps a sampler visits, as diffusers lays them out, and which schedules are refused.

    check_schedule("DDIMScheduler", {"steps_offset": 1}, 600)    # UserError: begins at timestep 600

No torch here, so that a plan can say at once what would be drawn wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.api import UserError

TIMESTEPS = 1000  #: in training, where a configuration does not say
#: Those that leave the last of `steps + 1` timesteps out ...
SHIFTED = frozenset(
    {"DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"}
)
#: ... and with one of these lay out noise levels instead, from the last timestep's on.
BY_NOISE_LEVEL = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
#: They begin in pure noise, however many steps are asked for.
FLOW_MATCHING = frozenset({"FlowMatchEulerDiscreteScheduler"})
#: Their timesteps are whole, and spaced as "leading" unless the configuration says otherwise;
#: those of the others evenly.
LEADING = frozenset({"DDIMScheduler", "DDPMScheduler", "PNDMScheduler"})
#: These rescale the noise levels if the model was trained with no signal at the last timestep.
RESCALING = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "LCMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    }
)


def timesteps(class_name: str, configuration: Mapping[str, Any], steps: int) -> np.ndarray:
    """(steps,) the timesteps that are visited, the noisiest first; each once.

    As `set_timesteps` of diffusers' class of that name, of which some visit one twice. Trailing
    spacing may give one more, by rounding.
    """
    last = configuration.get("num_train_timesteps", TIMESTEPS)
    spacing = configuration.get(
        "timestep_spacing", "leading" if class_name in LEADING else "linspace"
    )
    if class_name == "LCMScheduler":
        original = configuration.get("original_inference_steps", 50)
        taught = np.arange(original, 0, -1) * (last // original) - 1
        return taught[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)]
    shifted = class_name in SHIFTED
    if class_name == "DPMSolverSinglestepScheduler" or (
        shifted and any(configuration.get(key) for key in BY_NOISE_LEVEL)
    ):
        return np.linspace(0, last - 1, steps + 1).round()[:0:-1]
    match spacing:
        case "leading":
            many = steps + shifted
            every = np.arange(many) * (last // many) + configuration.get("steps_offset", 0)
            return every[::-1][:steps]
        case "trailing":
            return np.round(np.arange(last, 0, -last / steps)) - 1
        case _:
            every = np.linspace(0, last - 1, steps + shifted)
            whole = shifted or class_name in LEADING
            return (every.round() if whole else every)[::-1][:steps]


def check_schedule(class_name: str, configuration: Mapping[str, Any], steps: int) -> None:
    """Raise UserError if `steps` steps would not lead from pure noise to an image.

    The first timestep may lie a tenth of the schedule, or two steps, before the last: a model that
    is given pure noise and told that there is an image in it draws another one.
    """
    last = configuration.get("num_train_timesteps", TIMESTEPS)
    most = last
    if class_name == "LCMScheduler":
        most = configuration.get("original_inference_steps", 50)
    if steps > most:
        raise UserError(f"{steps} steps are more than the {most} that its schedule has: ask fewer")
    if class_name in FLOW_MATCHING:
        return
    visited = timesteps(class_name, configuration, steps)
    if not _from_noise(visited, steps, last):
        raise UserError(
            f"its {steps} steps begin at timestep {visited[0]:g}, and noise is pure at {last - 1}: "
            f"choose {_nearest(class_name, configuration, steps)} steps"
        )
    if not _regular(visited, steps):
        raise UserError(
            f"diffusers rounds its {steps} steps to {len(np.unique(visited))} timesteps from "
            f"{visited[0]:g} to {visited[-1]:g}: "
            f"choose {_nearest(class_name, configuration, steps)} steps"
        )
    _check_signal(class_name, configuration, visited[0] == last - 1)


def _from_noise(visited: np.ndarray, steps: int, last: int) -> bool:
    gap = max(last / 10, min(2 * last / steps, last / 2))
    return bool(last - 1 - gap <= visited[0] <= last - 1)


def _regular(visited: np.ndarray, steps: int) -> bool:
    return len(visited) == steps and bool((np.diff(visited) < 0).all()) and visited[-1] >= 0


def _nearest(class_name: str, configuration: Mapping[str, Any], steps: int) -> int:
    """The number of steps nearest to `steps` that is taken."""
    last = configuration.get("num_train_timesteps", TIMESTEPS)
    for count in sorted(range(2, last), key=lambda count: abs(count - steps)):
        visited = timesteps(class_name, configuration, count)
        if _regular(visited, count) and _from_noise(visited, count, last):
            return count
    raise AssertionError("two steps are always taken")


def _check_signal(class_name: str, configuration: Mapping[str, Any], at_last: bool) -> None:
    if not configuration.get("rescale_betas_zero_snr"):
        return
    if class_name not in RESCALING:
        raise UserError(
            f"the model was trained with rescale_betas_zero_snr, which {class_name} leaves out: "
            "choose ddim, ddpm, dpm++ or euler"
        )
    if at_last and configuration.get("prediction_type", "epsilon") == "epsilon":
        raise UserError(
            "with rescale_betas_zero_snr there is no image in the last timestep, and the noise "
            "that a model predicts there tells none: correct prediction_type in "
            "scheduler_config.json if the model predicts v, or rescale_betas_zero_snr if it was "
            "not trained so"
        )
