"""A Stable Diffusion in one file, in the layout of the original authors' code.

read_single_file(SingleFile(Path("v1-5-pruned.safetensors"), prediction=None))

Nothing is downloaded: the configurations of Stable Diffusion 1 and 2 stand here, and open_clip
brings CLIP's vocabulary, which both read.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmark.api import UserError
from benchmark.models.finite import READ
from benchmark.models.header import read_header
from benchmark.models.identity import SingleFile
from benchmark.models.single_file_header import Description, describe, scheduler_of

#: diffusers' settings of each; what is not here is its default.
UNET: dict[str, dict[str, Any]] = {
    "1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,  # so diffusers calls it: 8 heads
    },
    "2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER: dict[str, dict[str, Any]] = {
    "1": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    # The last of its 24 layers is not used.
    "2": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}
#: Latent height and width; the 2 that predicts v was trained on 768 pixels, the others on 512.
SAMPLE_SIZE = {("1", "epsilon"): 64, ("2", "epsilon"): 64, ("2", "v_prediction"): 96}
#: In the file, but of no use here.
UNUSED = ("embeddings.position_ids", "text_projection.weight")
LENGTH = 77  #: tokens that CLIP reads


def read_single_file(file: SingleFile) -> dict[str, Any]:
    """The parts of a Backbone by name, as `checkpoints.read_parts`.

    Raises UserError for a file of another shape, and for one of generation 2 that does not say
    what it predicts: the shape is the same for both.
    """
    description = describe(file)
    unet, vae, text_encoder = _filled(file, description, load_file(file.path))
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder.eval(),
        "tokenizer": clip_tokenizer(pad="!" if description.generation == "2" else "<|endoftext|>"),
        "noise_scheduler": DDPMScheduler.from_config(scheduler_of(description)),
        "scheduler": scheduler_of(description),
    }


def check_single_file(file: SingleFile) -> None:
    """Raise UserError as `read_single_file`, and for weights that are no floats, by the header."""
    header = read_header(file.path)
    for name in sorted(header.whole_numbers):
        if name.startswith(READ) and not name.endswith(UNUSED):
            raise UserError(
                f"{file.path}: {name} holds whole numbers: its weights are packed: bring the "
                "model as its authors give it"
            )
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in header.shapes.items()}
        _filled(file, describe(file), weights)


def _filled(
    file: SingleFile, description: Description, weights: dict[str, Tensor]
) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """The modules, made of the `weights` of `file`. Raises UserError for another shape."""
    generation, prediction = description.generation, description.prediction
    size = SAMPLE_SIZE.get((generation, prediction), SAMPLE_SIZE[generation, "epsilon"])
    with torch.device("meta"):  # the weights come from the file
        unet = UNet2DConditionModel(sample_size=size, **UNET[generation])
        vae = AutoencoderKL(sample_size=8 * size, **VAE)
    text_encoder = CLIPTextModel(_text_configuration(generation))
    try:
        _fill(unet, convert_ldm_unet_checkpoint(weights, dict(unet.config)))
        _fill(vae, convert_ldm_vae_checkpoint(weights, dict(vae.config)))
        _fill(text_encoder, _text_weights(generation, text_encoder, weights))
    except (KeyError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{file.path} is not of Stable Diffusion {generation}'s shape: "
            f"{' '.join(str(error).split())[:200]}: bring a whole checkpoint"
        ) from error
    return unet, vae, text_encoder


def _text_configuration(generation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        max_position_embeddings=LENGTH,
        bos_token_id=49406,
        eos_token_id=49407,
        **TEXT_ENCODER[generation],
    )


def _text_weights(
    generation: str, model: CLIPTextModel, weights: dict[str, Tensor]
) -> dict[str, Tensor]:
    if generation == "1":
        found = convert_ldm_clip_checkpoint(weights)
    else:
        inner = getattr(model, "text_model", model)  # transformers before 5.6 wraps it
        found = convert_open_clip_checkpoint(inner, weights)
    bare = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    prefix = "text_model." if hasattr(model, "text_model") else ""
    return {prefix + name: tensor for name, tensor in bare.items() if name not in UNUSED}


def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    # Strictly: a weight that is missing would otherwise stay random without a word.
    module.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True, assign=True)


def clip_tokenizer(*, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's own tokenizer, from the merges that open_clip ships.

    `pad` fills a prompt up to 77 tokens: the end mark in Stable Diffusion 1, "!" in 2.
    """
    from open_clip.tokenizer import SimpleTokenizer

    original = SimpleTokenizer()
    tokens = [*list(original.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=list(original.bpe_ranks),
        model_max_length=LENGTH,
        pad_token=pad,
    )
