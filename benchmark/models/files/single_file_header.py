"""What a single file in the original layout says of itself, read from its header. No torch here.

description = describe(SingleFile(Path("v2-1_768-v.safetensors"), prediction=None))
description.prediction                                  # "v_prediction"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from benchmark.api import UserError
from benchmark.models.families import Family, WrongFamily, families, known_families
from benchmark.models.files.configuration import known
from benchmark.models.files.header import Header, read_header
from benchmark.models.files.identity import SingleFile

#: What they are told apart by, their text encoders: OpenAI's CLIP ViT-L/14, OpenCLIP's H/14, both
#: ViT-L/14 and OpenCLIP's bigG/14.
GENERATIONS = {
    "cond_stage_model.transformer.": "1",
    "cond_stage_model.model.": "2",
    "conditioner.embedders.1.model.": "xl",
}
FAMILIES = {"1": "stable_diffusion", "2": "stable_diffusion", "xl": "stable_diffusion_xl"}
#: What some others are told by: the beginning of a tensor's name.
OTHERS = {
    "conditioner.embedders.0.model.": "Stable Diffusion XL refiner",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "FLUX",
    "double_blocks.": "FLUX",
}
#: Of these, models that are known in another layout.
UNREAD = ("Stable Diffusion 3",)
#: Where metadata says what is predicted: of ModelSpec, which sd-scripts writes, and of ComfyUI.
SAID = ("modelspec.prediction_type", "modelspec.predict_key")
WORDS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}
#: Tensors without content that stand for what is predicted, and for a schedule that ends in
#: pure noise (NoobAI, ComfyUI).
V_PREDICTION, ZERO_SIGNAL = "v_pred", "ztsnr"
ENTRY = "model.diffusion_model.input_blocks.0.0.weight"
#: What a U-Net of so many input channels is for.
CHANNELS = {9: "for inpainting", 8: "for editing an image (InstructPix2Pix)"}


#: The noise of all of them.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
#: What XL ships with beside that.
XL = {"timestep_spacing": "leading"}
#: With no signal in the last timestep, sampling has to begin there (Lin et al. 2024).
FROM_ZERO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Description:
    """What decides how a single file is read, beside its weights."""

    generation: str  #: of GENERATIONS
    prediction: str  #: of `identity.PREDICTIONS`
    zero_signal: bool  #: whether the schedule ends in pure noise (zero terminal SNR)

    @property
    def family(self) -> Family:
        return families()[FAMILIES[self.generation]]


def describe(file: SingleFile) -> Description:
    """What `file` is, by its header; what was said with its name goes before what it says itself.

    Raises UserError for a file that is no whole model of a known family, that holds what is not
    understood, or does not say what it predicts where its shape leaves it open.
    """
    header = read_header(file.path)
    generation = _generation(header)
    understood = known()["single_file"]
    patterns = [*understood["tensors"], *understood.get(generation, [])]
    allowed = re.compile("|".join(f"({pattern})" for pattern in patterns))
    strange = sorted(name for name in header.shapes if not allowed.fullmatch(name))
    if strange:
        raise UserError(
            f"{file.path} holds '{strange[0]}'{_more(strange)}, which Stable Diffusion "
            f"{generation.upper()} has not, and nothing would read it: bring a plain checkpoint"
        )
    channels = header.shapes.get(ENTRY, (0, 4))[1]
    if channels != 4:
        raise UserError(
            f"{file.path}: its U-Net takes {channels} channels and its VAE makes 4: it is "
            f"{CHANNELS.get(channels, 'another kind of model')}; bring one that draws from texts"
        )
    return Description(
        generation, _prediction(file, header, generation), ZERO_SIGNAL in header.shapes
    )


def scheduler_of(description: Description) -> dict[str, Any]:
    """The configuration of its scheduler, which names no class."""
    own = XL if description.generation == "xl" else {}
    zero = FROM_ZERO_SIGNAL if description.zero_signal else {}
    return {**SCHEDULER, "prediction_type": description.prediction, **own, **zero}


def _generation(header: Header) -> str:
    for prefix, generation in GENERATIONS.items():
        if any(name.startswith(prefix) for name in header.shapes):
            return generation
    for prefix, name in OTHERS.items():
        if any(tensor.startswith(prefix) for tensor in header.shapes):
            if name in UNREAD:
                raise WrongFamily(
                    f"{header.path}: this is a {name} model, which is not read from a single "
                    "file: name its repository on the Hugging Face hub, or a directory in "
                    "diffusers' layout"
                )
            raise WrongFamily(
                f"{header.path}: this is a {name} model; known are {known_families()}"
            )
    read = dict.fromkeys(families()[module].name for module in FAMILIES.values())
    raise UserError(
        f"{header.path} is no whole {' or '.join(read)}: it has no text encoder under "
        f"{' or '.join(GENERATIONS)}"
    )


def _prediction(file: SingleFile, header: Header, generation: str) -> str:
    if file.prediction is not None:
        return file.prediction
    said = {key: header.metadata[key] for key in SAID if key in header.metadata}
    if V_PREDICTION in header.shapes:
        said[f"the tensor {V_PREDICTION}"] = "v"
    found = {WORDS.get(word.lower().replace("-", "_"), word) for word in said.values()}
    either = f"{file.path.name}@epsilon or {file.path.name}@v_prediction"
    if len(found) > 1 or found - set(WORDS.values()):
        told = ", ".join(f"{key}: {word}" for key, word in said.items())
        raise UserError(
            f"{file.path} does not say clearly what it predicts ({told}): say which, {either}"
        )
    if found:
        return found.pop()
    if generation != "2":
        return "epsilon"
    raise UserError(
        f"{file.path} has the shape of Stable Diffusion 2, whose 512-pixel model predicts epsilon "
        f"and whose 768-pixel model predicts v: say which, {either}"
    )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
