"""A model in one file, in the layout of Stable Diffusion's original authors' code.

read_single_file(SingleFile(Path("v1-5-pruned.safetensors"), prediction=None))

Nothing is downloaded: the configurations of Stable Diffusion 1, 2 and XL stand here, and open_clip
brings CLIP's vocabulary, which all of them read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from benchmark.api import UserError
from benchmark.models.files.checkpoints import Parts
from benchmark.models.files.header import read_header
from benchmark.models.files.identity import SingleFile
from benchmark.models.files.single_file_header import Description, describe, scheduler_of
from benchmark.models.finite import READ
from benchmark.store.errors import in_one_line

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
    "xl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SCALING_FACTOR = {"1": 0.18215, "2": 0.18215, "xl": 0.13025}
#: OpenAI's CLIP ViT-L/14.
LARGE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
TEXT_ENCODER: dict[str, dict[str, Any]] = {
    "1": LARGE,
    "xl": LARGE,
    # The last of its 24 layers is not used.
    "2": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}
#: The second of XL: OpenCLIP's ViT-bigG/14, whose last layer makes the pooled text.
TEXT_ENCODER_2: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
#: Latent height and width: of 512 pixels; 768 for the 2 that predicts v; 1024 for XL.
SAMPLE_SIZE = {
    ("1", "epsilon"): 64,
    ("2", "epsilon"): 64,
    ("2", "v_prediction"): 96,
    ("xl", "epsilon"): 128,
}
#: Where the OpenCLIP text encoder lies.
OPEN_CLIP = {"2": "cond_stage_model.model.", "xl": "conditioner.embedders.1.model."}
#: What fills a text up to 77 tokens, by tokenizer: the end mark, or "!".
PAD = {"1": ("<|endoftext|>",), "2": ("!",), "xl": ("<|endoftext|>", "!")}
#: In the file, but of no use where the text encoder has no place for it.
NO_PLACE = ("embeddings.position_ids", "text_projection.weight")
LENGTH = 77  #: tokens that CLIP reads


def read_single_file(file: SingleFile) -> Parts:
    """The parts of a model, as `checkpoints.read_parts`.

    Raises UserError for a file of another shape, and for one of generation 2 that does not say
    what it predicts: the shape is the same for both.
    """
    description = describe(file)
    family = description.family
    modules = _filled(file, description, load_file(file.path))
    tokenizers = zip(family.texts.values(), PAD[description.generation], strict=True)
    return Parts(
        family,
        modules,
        {name: clip_tokenizer(pad=pad) for name, pad in tokenizers},
        {"scheduler": scheduler_of(description)},
        {},
    )


def check_single_file(file: SingleFile) -> None:
    """Raise UserError as `read_single_file`, and for weights that are no floats, by the header."""
    header = read_header(file.path)
    for name in sorted(header.whole_numbers):
        if name.startswith(READ) and not name.endswith(NO_PLACE):
            raise UserError(
                f"{file.path}: {name} holds whole numbers: its weights are packed: bring the "
                "model as its authors give it"
            )
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in header.shapes.items()}
        _filled(file, describe(file), weights)


def _filled(
    file: SingleFile, description: Description, weights: dict[str, Tensor]
) -> dict[str, nn.Module]:
    """The modules by name, made of the `weights` of `file`. Raises UserError for another shape."""
    generation = description.generation
    modules = empty_modules(generation, description.prediction)
    try:
        for name, found in _converted(generation, modules, weights):
            _fill(modules[name], found)
    except (KeyError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{file.path} is not of Stable Diffusion {generation.upper()}'s shape: "
            f"{in_one_line(error)}: bring a whole checkpoint"
        ) from error
    return modules


def empty_modules(generation: str, prediction: str) -> dict[str, nn.Module]:
    """The modules by name, of true sizes, without the weights that a file brings."""
    size = SAMPLE_SIZE.get((generation, prediction), SAMPLE_SIZE[generation, "epsilon"])
    scaling = {"scaling_factor": SCALING_FACTOR[generation]}
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(sample_size=size, **UNET[generation]),
            "vae": AutoencoderKL(sample_size=8 * size, **VAE | scaling),
        }
    # Not on that device: they hold numbers that no file does.
    first = clip_configuration(TEXT_ENCODER[generation])
    modules["text_encoder"] = CLIPTextModel(first).eval()
    if generation == "xl":
        second = clip_configuration(TEXT_ENCODER_2)
        modules["text_encoder_2"] = CLIPTextModelWithProjection(second).eval()
    return modules


def _converted(
    generation: str, modules: dict[str, Any], weights: dict[str, Tensor]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each module's name, and its weights by diffusers' names."""
    unet, vae = modules["unet"], modules["vae"]
    yield "unet", convert_ldm_unet_checkpoint(weights, dict(unet.config))
    yield "vae", convert_ldm_vae_checkpoint(weights, dict(vae.config))
    if generation in ("1", "xl"):
        found = convert_ldm_clip_checkpoint(weights)
        yield "text_encoder", _named_as(modules["text_encoder"], found)
    if generation in OPEN_CLIP:
        name = "text_encoder" if generation == "2" else "text_encoder_2"
        inner = getattr(modules[name], "text_model", modules[name])
        found = convert_open_clip_checkpoint(inner, weights, prefix=OPEN_CLIP[generation])
        yield name, _named_as(modules[name], found)


def _named_as(model: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """`found` by the names of `model`: transformers before 5.6 wraps the text model."""
    places = model.state_dict().keys()
    prefix = "text_model." if hasattr(model, "text_model") else ""
    named = {}
    for name, tensor in found.items():
        bare = name.removeprefix("text_model.")
        place = bare if bare in places else prefix + bare
        if place in places or bare not in NO_PLACE:
            named[place] = tensor
    return named


def clip_configuration(settings: dict[str, Any]) -> CLIPTextConfig:
    """That of a CLIP text encoder of these settings."""
    return CLIPTextConfig(
        vocab_size=49408,
        max_position_embeddings=LENGTH,
        bos_token_id=49406,
        eos_token_id=49407,
        **settings,
    )


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
