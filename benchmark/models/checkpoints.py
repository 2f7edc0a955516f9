"""The parts of a model, read from wherever it lies: diffusers' layout, the hub, a single file.

parts = read_parts("pocket")        # {"unet": ..., "vae": ..., "text_encoder": ..., ...}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmark.api import UserError
from benchmark.models.configuration import (
    check_configuration,
    read_configuration,
    scheduler_configuration,
)
from benchmark.models.diffusers_layout import STEMS, variant, weight_files
from benchmark.models.hub import NAMED
from benchmark.models.identity import SingleFile, locate
from benchmark.models.sampling import PIPELINE

#: In the files of a part, but of no use here; weights that a module lacks otherwise are refused.
UNUSED = re.compile(
    r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale"
    r"|(vision_model|visual_projection)\..*|loss\..*"
)


def read_parts(model: str) -> dict[str, Any]:
    """The parts of a StableDiffusion by name, in the precision they are stored in, on the CPU.

    unet, vae, text_encoder, tokenizer, noise_scheduler (the forward process) and scheduler, the
    configuration that samplers are built from.

    `model` is as in `identity.locate`. A safety checker is never read. Raises UserError naming
    the file or directory if a part is missing, broken, or not of Stable Diffusion 1's or 2's shape.
    """
    place = locate(model)
    try:
        if isinstance(place, SingleFile):
            from benchmark.models.single_file import read_single_file

            parts = read_single_file(place)
        else:
            check_configuration(place)
            parts = _read_directory(place)
    except UserError as error:
        raise UserError(f"model '{model}': {error}") from error
    except (OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        path = place.path if isinstance(place, SingleFile) else place
        raise UserError(f"model '{model}' cannot be loaded from {path}: {error}") from error
    return parts


def mapped_weights(model: str, parts: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of `parts`, straight from the files of `model`: "unet.conv_in.weight" -> tensor.

    They take no memory of their own: the files are mapped, and the system may drop what it can read
    again. They have the files' precision. Parts whose files name the weights otherwise (old names,
    a single file) are left out.
    """
    place = locate(model)
    found: dict[str, Tensor] = {}
    if isinstance(place, SingleFile):
        return found
    for name in STEMS:
        stored: dict[str, Tensor] = {}
        for file in weight_files(place / name):
            if file.suffix == ".safetensors":  # the index of shards is none
                stored |= load_file(file)
        if stored.keys() == parts[name].state_dict().keys():
            found |= {f"{name}.{key}": tensor for key, tensor in stored.items()}
    return found


def read_tokenizer(model: str) -> CLIPTokenizer:
    """The tokenizer of `model` alone; for a name on the hub's list no weights need be there."""
    from benchmark.models.single_file import clip_tokenizer

    if model.partition("@")[0] in NAMED:
        return clip_tokenizer()  # all of them read CLIP's vocabulary
    place = locate(model)
    if isinstance(place, SingleFile):
        return clip_tokenizer()
    return _own_tokenizer(place)


def _read_directory(directory: Path) -> dict[str, Any]:
    disable_progress_bar()
    text_encoder = directory / "text_encoder"
    scheduler = scheduler_configuration(directory)
    return {
        "unet": _read_weights(UNet2DConditionModel, directory / "unet", low_cpu_mem_usage=False),
        "vae": _read_weights(AutoencoderKL, directory / "vae", low_cpu_mem_usage=False),
        "text_encoder": _read_weights(CLIPTextModel, text_encoder),
        "tokenizer": _own_tokenizer(directory),
        "noise_scheduler": DDPMScheduler.from_config(scheduler | PIPELINE),
        "scheduler": scheduler,
    }


def _own_tokenizer(directory: Path) -> CLIPTokenizer:
    """The tokenizer of a directory, for as many tokens as the text encoder beside it reads."""
    folder = directory / "tokenizer"
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    # The libraries raise errors of many kinds, and plain Exceptions, for files that are broken.
    except Exception as error:
        raise UserError(f"{folder} holds no tokenizer that can be read: {error!r:.200}") from error
    text_encoder = read_configuration(directory / "text_encoder" / "config.json")
    length = CLIPTextConfig.from_dict(text_encoder).max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, length)
    return tokenizer


def _read_weights(kind: Any, folder: Path, **options: Any) -> Any:
    module, loading = kind.from_pretrained(
        folder, use_safetensors=True, variant=variant(folder), output_loading_info=True, **options
    )
    # The libraries only warn, and leave what is missing random.
    if loading["missing_keys"]:
        raise ValueError(
            f"{folder} lacks {len(loading['missing_keys'])} weights, "
            f"{min(loading['missing_keys'])} among them"
        )
    strange = sorted(key for key in loading["unexpected_keys"] if not UNUSED.fullmatch(key))
    if strange:
        raise ValueError(
            f"{folder} holds {len(strange)} weights that its configuration has no place for, "
            f"{strange[0]} among them"
        )
    return module
