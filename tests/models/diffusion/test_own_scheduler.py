"""A model's own scheduler against an untouched pipeline of diffusers, over what models ship."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmark.api import Sampler, UserError
from benchmark.models.files.identity import backbone_id
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import save_tiny_pipeline

SD = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
}
PNDM = SD | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
EULER = SD | {
    "_class_name": "EulerDiscreteScheduler",
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "skip_prk_steps": True,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
LCM = {
    "_class_name": "LCMScheduler",
    "_diffusers_version": "0.24.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "thresholding": False,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
DPM = SD | {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "clip_sample": False,
    "dynamic_thresholding_ratio": 0.995,
    "lower_order_final": True,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
}
#: scheduler/scheduler_config.json of the models that the comments name, as these repositories of
#: GitHub hold it, or of the Hugging Face hub (hf.co), at a commit.
SHIPPED = {
    # Stable Diffusion 1.4: wswplay/stable-diffusion-v1-4
    "1.4": PNDM | {"_diffusers_version": "0.4.0.dev0"},
    # 1.5: wswplay/stable-diffusion-v1-5, which names Flax's class
    "1.5": PNDM
    | {"_class_name": "FlaxPNDMScheduler", "_diffusers_version": "0.6.0", "clip_sample": False},
    # 2.1 of 512 pixels: jack-op11/stable-diffusion-2-1-base
    "2.1-base": PNDM
    | {"_diffusers_version": "0.10.0.dev0", "clip_sample": False, "prediction_type": "epsilon"},
    # 2.1 of 768 pixels: Vikas-2025/Hugging_face_sta_dif_2.1
    "2.1-v": SD
    | {
        "_class_name": "FlaxDDIMScheduler",
        "_diffusers_version": "0.9.0.dev0",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "skip_prk_steps": True,
    },
    # Realistic Vision 5.1: smbands/realistic-vision-v51
    "realistic-vision": PNDM
    | {"_diffusers_version": "0.21.2", "clip_sample": False, "timestep_spacing": "leading"},
    # Tardis-fusion: AdamOswald/Tardis-fusion
    "tardis": SD
    | {"_class_name": "DDIMScheduler", "_diffusers_version": "0.7.0.dev0", "clip_sample": False},
    # A DreamBooth model as diffusers' script saves it: jartemio/The_Owl_Characters_V2
    "owl": SD
    | {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.13.0",
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
        "variance_type": "fixed_small",
    },
    # An early Waifu Diffusion: havierYES/waifu_AI, one side of the conflict that is left in it
    "waifu": {
        "_class_name": "LMSDiscreteScheduler",
        "_diffusers_version": "0.4.1",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "timestep_values": None,
        "trained_betas": None,
    },
    # Saved by newer versions: Lixtic/hugs
    "hugs": EULER
    | {
        "_diffusers_version": "0.24.0",
        "sigma_max": None,
        "sigma_min": None,
        "timestep_type": "discrete",
    },
    # TiasheKnight/zero123
    "ancestral": SD
    | {
        "_class_name": "EulerAncestralDiscreteScheduler",
        "_diffusers_version": "0.17.1",
        "beta_schedule": "linear",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "skip_prk_steps": True,
    },
    # SD-Turbo: hf.co/stabilityai/sd-turbo at b335f733
    "turbo": EULER
    | {
        "_diffusers_version": "0.24.0.dev0",
        "sigma_max": None,
        "sigma_min": None,
        "timestep_spacing": "trailing",
        "timestep_type": "discrete",
    },
    # An LCM LoRA merged into a model: hf.co/viccpoes/dreamshaper-8-lcm_v7_neuronx at 7c59357b
    "lcm": LCM
    | {
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_scaling": 10.0,
    },
    # LCM Dreamshaper: hf.co/SimianLuo/LCM_Dreamshaper_v7 at db41ea3a
    "lcm-dreamshaper": LCM
    | {"_diffusers_version": "0.22.0.dev0", "set_alpha_to_one": True, "steps_offset": 0},
    # Before that key was known, and with clipping: hf.co/ckpt/LCM_Dreamshaper_v7 at 89522e5c
    "lcm-first": {key: value for key, value in LCM.items() if key != "original_inference_steps"}
    | {"clip_sample": True, "set_alpha_to_one": True, "steps_offset": 0},
    # A fine-tuned model saved with DPM-Solver++: hf.co/mekrod/vmp1e-5 at 602c735e
    "dpm++": DPM | {"_diffusers_version": "0.10.2"},
    # With the keys of later versions, -Infinity among them: hf.co/Androidonnxfork/test at 5e3e8f70
    "dpm++-later": DPM
    | {
        "_diffusers_version": "0.19.0.dev0",
        "lambda_min_clipped": -math.inf,
        "timestep_spacing": "linspace",
        "use_karras_sigmas": False,
        "variance_type": None,
    },
    # No signal in the last timestep: hf.co/bghira/pseudo-flex-base at main
    "zero-snr": {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.17.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    # The same, sampled by Euler's method: hf.co/ptx0/terminus-lite-base-v1 at 66792746
    "zero-snr-euler": EULER
    | {
        "_diffusers_version": "0.24.0.dev0",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    # jungletada/ReGe
    "unipc": SD
    | {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": "0.20.0.dev0",
        "clip_sample": False,
        "disable_corrector": [],
        "lower_order_final": True,
        "predict_x0": True,
        "prediction_type": "epsilon",
        "solver_order": 2,
        "solver_p": None,
        "solver_type": "bh2",
        "timestep_spacing": "linspace",
        "use_karras_sigmas": False,
    },
}
TEXTS, SEEDS = ["a dog", "a sks dog in the snow"], [1, 2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("own") / "tiny")


def with_scheduler(tiny: Path, folder: Path, configuration: dict) -> Path:
    directory = shutil.copytree(tiny, folder / "tiny")
    (directory / "scheduler/scheduler_config.json").write_text(json.dumps(configuration))
    index = json.loads((directory / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", configuration["_class_name"].removeprefix("Flax")]
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", SHIPPED)
def test_images_are_those_of_an_untouched_pipeline(tiny, tmp_path, name, guidance):
    directory = with_scheduler(tiny, tmp_path, SHIPPED[name])
    pipe = StableDiffusionPipeline.from_pretrained(directory).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        TEXTS,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    sampler = Sampler("own", 4, guidance)
    DIFFUSERS.check_sampler(str(directory), sampler)
    backbone = load_backbone(str(directory), sampler=sampler, precision="fp32", device="cpu")
    images = backbone.sample(backbone.encode(TEXTS), SEEDS)
    assert (images - expected).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 0.01
    # Images do not depend on those beside them, whatever noise the scheduler adds.
    alone = backbone.sample(backbone.encode(TEXTS[1:]), SEEDS[1:])
    assert (alone - images[1:]).abs().max() < 1e-4


def test_another_own_scheduler_is_another_model(tiny, tmp_path):
    """So a suite's sampler and the model's identity tell an image apart, as image keys need it."""
    ids = {
        name: backbone_id(str(with_scheduler(tiny, tmp_path / name, SHIPPED[name])))
        for name in ("1.5", "2.1-base", "turbo", "lcm")
    }
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "DPMSolverSDEScheduler"}, "it is a DPMSolverSDEScheduler, none of DDIM"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "it is a FlowMatchEuler"),
        ({"use_flow_sigmas": True}, "its use_flow_sigmas is True, none of False"),
        ({"timestep_type": "continuous"}, "its timestep_type is 'continuous', none of discrete"),
    ],
)
def test_schedulers_that_are_not_understood_are_refused_by_name(tiny, tmp_path, change, message):
    directory = with_scheduler(tiny, tmp_path, EULER | change)
    with pytest.raises(UserError, match=f"scheduler_config.json: {message}"):
        DIFFUSERS.capabilities(str(directory))


def test_two_files_that_name_two_schedulers_leave_open_which_is_the_models_own(tiny, tmp_path):
    directory = with_scheduler(tiny, tmp_path, EULER)
    index = directory / "model_index.json"
    index.write_text(index.read_text().replace("EulerDiscreteScheduler", "DDIMScheduler"))
    DIFFUSERS.check_sampler(str(directory), Sampler("euler", 20))
    with pytest.raises(UserError, match="names DDIMScheduler in model_index.json and EulerDiscret"):
        DIFFUSERS.check_sampler(str(directory), Sampler("own", 20))
