"""Timesteps worked out without torch against those of diffusers' own schedulers."""

from __future__ import annotations

import inspect
import re

import diffusers
import numpy as np
import pytest

from benchmark.api import Sampler, UserError
from benchmark.models.diffusion.sampling import FLOW_SCHEDULERS, SCHEDULERS, check_sampler
from benchmark.models.diffusion.schedule import (
    LEADING,
    RESCALING,
    SHIFTED,
    check_schedule,
    timesteps,
)
from benchmark.models.families import families
from benchmark.models.files.configuration import known, understood
from benchmark.models.kinds import DIFFUSERS
from tests.tiny_pipeline import save_tiny_pipeline

CLASSES = tuple(known()["scheduler"]["classes"])
STEPS = (2, 3, 7, 20, 30, 50, 61, 103, 250, 333, 499, 600, 998)
#: Some are slow, and have no other rule for more of them.
OTHER_STEPS = {
    "LCMScheduler": (1, 3, 4, 8, 50),
    "KDPM2DiscreteScheduler": (2, 7, 30),
    "KDPM2AncestralDiscreteScheduler": (2, 7, 30),
    "DPMSolverSinglestepScheduler": STEPS[:8],
}
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
#: Of a pipeline's scheduler.
OURS = {"clip_sample": False, "steps_offset": 1, "skip_prk_steps": True}
#: Those that turn noise levels back into timesteps, so that these differ by roundings.
INVERTED = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "UniPCMultistepScheduler")


def visited(class_name: str, configuration: dict, steps: int) -> np.ndarray:
    """What diffusers visits, each once, the noisiest first."""
    scheduler = getattr(diffusers, class_name).from_config(BETAS | configuration)
    scheduler.set_timesteps(steps)
    found = scheduler.timesteps.double().numpy()
    if class_name.startswith("KDPM2"):
        found = found[::2]  # without those between two steps
    return np.array(list(dict.fromkeys(found)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", [None, "leading", "linspace", "trailing"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_timesteps_are_those_of_diffusers(class_name, spacing):
    configuration = OURS if spacing is None else OURS | {"timestep_spacing": spacing}
    for steps in OTHER_STEPS.get(class_name, STEPS):
        ours = timesteps(class_name, configuration, steps)
        theirs = visited(class_name, configuration, steps)
        assert len(ours) == len(theirs), steps
        np.testing.assert_allclose(ours, theirs, atol=0.6 if class_name in INVERTED else 1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [20, 250])
@pytest.mark.parametrize("class_name", sorted(SHIFTED))
def test_noise_levels_are_laid_out_from_the_last_timestep(class_name, steps):
    configuration = OURS | {"timestep_spacing": "leading", "use_karras_sigmas": True}
    assert timesteps(class_name, configuration, steps)[0] == 999
    assert visited(class_name, configuration, steps)[0] == 999


def test_the_lists_of_classes_are_what_diffusers_classes_take():
    parameters = {
        name: inspect.signature(getattr(diffusers, name).__init__).parameters for name in CLASSES
    }
    spaced = {name for name, own in parameters.items() if "timestep_spacing" in own}
    leading = {n for n in spaced if parameters[n]["timestep_spacing"].default == "leading"}
    assert leading - {"LCMScheduler"} == LEADING
    assert {n for n, own in parameters.items() if "rescale_betas_zero_snr" in own} == RESCALING
    understood = known()["scheduler"]
    listed = {*understood["obeyed"], *understood["ignored"], *understood["wanted"]}
    listed |= {*understood["choices"]}
    assert {key for own in parameters.values() for key in own} - listed == {"self"}
    assert {name for name, _ in SCHEDULERS.values()} <= {*CLASSES}


SD3, FLOW = families()["stable_diffusion_3"], diffusers.FlowMatchEulerDiscreteScheduler


@pytest.mark.parametrize(
    ("understood", "kind"),
    [
        (known()["unet"], diffusers.UNet2DConditionModel),
        (known()["vae"], diffusers.AutoencoderKL),
        (understood(SD3, "transformer", {}), diffusers.SD3Transformer2DModel),
        (understood(SD3, "vae", {}), diffusers.AutoencoderKL),
        (understood(SD3, "scheduler", {}), FLOW),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_setting_of_the_installed_class_is_named(understood, kind):
    named = [*understood["obeyed"], *understood["ignored"], *understood["wanted"]]
    named += understood["choices"]
    assert len(named) == len(set(named))
    assert {*inspect.signature(kind.__init__).parameters} - {"self"} <= {*named}


@pytest.mark.parametrize("steps", [2, 4, 10, 20, 25, 30, 50, 75, 100, 200, 250, 333, 500, 900, 999])
def test_what_people_ask_for_is_taken(steps):
    check_schedule("DDIMScheduler", OURS, steps)


@pytest.mark.parametrize(
    ("class_name", "spacing", "steps", "message"),
    [
        ("DDIMScheduler", "leading", 600, "600 steps begin at timestep 600, .* 500 steps"),
        ("DDPMScheduler", "leading", 1000, "begin at timestep 1000, and noise is pure at 999"),
        ("DDPMScheduler", "leading", 400, "begin at timestep 799"),
        ("DDIMScheduler", "leading", 1, "begin at timestep 1,"),
        ("EulerDiscreteScheduler", "linspace", 1, "begin at timestep 0,"),
        ("DPMSolverMultistepScheduler", "leading", 500, "begin at timestep 501"),
        ("DPMSolverMultistepScheduler", "linspace", 1000, "to 999 timesteps|to 1000 timesteps"),
        ("PNDMScheduler", "linspace", 1001, "more than the 1000"),
        ("EulerDiscreteScheduler", "trailing", 61, "61 steps to 62 timesteps from 999 to -1"),
        ("DDIMScheduler", "trailing", 499, "499 steps to 500 timesteps"),
        ("LCMScheduler", "leading", 51, "more than the 50"),
    ],
)
def test_schedules_that_miss_pure_noise_are_refused(class_name, spacing, steps, message):
    with pytest.raises(UserError, match=message):
        check_schedule(class_name, OURS | {"timestep_spacing": spacing}, steps)


def test_the_nearest_number_of_steps_is_taken():
    with pytest.raises(UserError) as refusal:
        check_schedule("DDIMScheduler", OURS, 600)
    check_schedule("DDIMScheduler", OURS, int(str(refusal.value).split()[-2]))


def test_a_plan_refuses_with_the_models_own_configuration(tmp_path):
    model = str(save_tiny_pipeline(tmp_path / "tiny"))
    DIFFUSERS.check_sampler(model, Sampler("ddpm", 250))
    with pytest.raises(UserError, match="scheduler 'ddpm': its 600 steps begin at timestep 600"):
        DIFFUSERS.check_sampler(model, Sampler("ddpm", 600))
    with pytest.raises(UserError, match="scheduler 'euler': its 600 steps"):
        DIFFUSERS.check_sampler(model, Sampler("euler", 600))  # its own default is even spacing


def test_flow_matching_begins_in_pure_noise_whatever_is_asked_for():
    """And which samplers a model takes, its own scheduler says."""
    configuration = {"_class_name": FLOW.__name__, "shift": 3.0}
    for steps in (1, 2, 28, 600, 1000):
        check_sampler(Sampler("own", steps), configuration)
        scheduler = FLOW.from_config(configuration)
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps[0] == 1000 and len(scheduler.timesteps) == steps
    with pytest.raises(UserError, match="1001 steps are more than the 1000"):
        check_sampler(Sampler("own", 1001), configuration)
    for name in SCHEDULERS:
        with pytest.raises(UserError, match=f"'{re.escape(name)}' .* choose flow-euler, or own"):
            check_sampler(Sampler(name, 20), configuration)
    for name in FLOW_SCHEDULERS:
        with pytest.raises(UserError, match=f"'{name}' .* taught by diffusion: choose ddim, ddpm"):
            check_sampler(Sampler(name, 20), BETAS | {"_class_name": "DDIMScheduler"})
