"""The paper's models at their true size, with random weights: what a run costs, without a download.

    python -m tests.true_size true-size
    python -m benchmark run --suite true-size/suite.toml --methods all --data DIR

The first command writes Stable Diffusion 1.5 (in the hub's layout), DINO ViT-S/16 and CLIP ViT-B/32
under `true-size/` (5 GB), and a protocol and a suite that use them; DIR is a copy of DreamBench's
photographs. The suite is `dreambench-mini`, made small enough for a CPU: it takes 16 GB of memory,
and minutes (`reports/true-size`). For a GPU, the whole of it:

    python -m benchmark run --suite dreambench-mini --methods all --data DIR \\
        --backbone true-size/stable-diffusion \\
        --protocol true-size/protocol.toml --encoders true-size/encoders

All weights are random: the pictures are noise and the scores mean nothing, as the protocol's name
says in every row. Speed, memory and files are those of the real models. It stands among the tests
since nobody should find it among the models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tomli_w
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, PreTrainedModel, T5Config, T5EncoderModel

from benchmark.api import Backbone, Sampler
from benchmark.config.protocol import Protocol, load_protocol
from benchmark.config.suite import Suite, load_suite
from benchmark.models import single_file
from benchmark.models.checkpoints import Parts
from benchmark.models.diffusers_layout import stem
from benchmark.models.families import families
from benchmark.models.loading import Wanted, family_module
from benchmark.models.single_file_header import SCHEDULER
from tests.tiny_pipeline import IF_SCHEDULER, XL_SCHEDULER, sentences

PIPELINE, ENCODERS, PROTOCOL, SUITE = (
    "stable-diffusion",
    "encoders",
    "protocol.toml",
    "suite.toml",
)
#: Three steps show what a step takes: the first one, which makes AdamW's moments, is not counted.
#: In bf16 a CPU would keep a second, rounded copy of the weights through every step.
REDUCED: dict[str, dict[str, Any]] = {
    "backbone": {"precision": "fp32", "resolution": 128},
    "sampler": {"steps": 3},
    "evaluation": {"prompts": ["1"], "images_per_prompt": 2, "prior_prompt_images": 2},
    "methods": {"steps": 3, "prior_images": 2, "prior_steps": 3},
}


def main(directory: Path) -> None:
    """Write models, protocol and suite under `directory`."""
    save_pipeline(directory / PIPELINE)
    save_encoders(directory / ENCODERS)
    protocol = random_protocol()
    (directory / PROTOCOL).write_text(tomli_w.dumps(protocol.model_dump(exclude_none=True)))
    (directory / SUITE).write_text(reduced_suite(directory, protocol).dump_toml())
    print(f"random weights of true size, a protocol and a suite: {directory}")


def parts() -> dict[str, Any]:
    """Makers of Stable Diffusion 1.5's three models, by the folder each lies in."""
    text = single_file.clip_configuration(single_file.TEXT_ENCODER["1"])
    return {
        "unet": lambda: UNet2DConditionModel(sample_size=64, **single_file.UNET["1"]),
        "vae": lambda: AutoencoderKL(
            sample_size=512, scaling_factor=single_file.SCALING_FACTOR["1"], **single_file.VAE
        ),
        "text_encoder": lambda: CLIPTextModel(text),
    }


def save_pipeline(directory: Path) -> None:
    """Stable Diffusion 1.5 in diffusers' layout, float32 as on the hub, one part at a time."""
    torch.manual_seed(0)
    for name, make in parts().items():
        make().save_pretrained(directory / name)
    single_file.clip_tokenizer().save_pretrained(directory / "tokenizer")
    DDIMScheduler.from_config(single_file.SCHEDULER).save_pretrained(directory / "scheduler")


def xl_parts() -> dict[str, Any]:
    """Stable Diffusion XL's four models, by the folder each lies in."""
    return single_file.empty_modules("xl", "epsilon")


def save_hollow_xl(directory: Path) -> None:
    """Stable Diffusion XL in diffusers' layout: true configurations, names and shapes, no weights.

    The files have their true size, in float16, and hold nothing: the system stores no zeros.
    """
    with torch.device("meta"):
        save_hollow_parts(xl_parts(), directory)
    for name, pad in zip(("tokenizer", "tokenizer_2"), single_file.PAD["xl"], strict=True):
        single_file.clip_tokenizer(pad=pad).save_pretrained(directory / name)
    (directory / "scheduler").mkdir()
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(XL_SCHEDULER))
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (directory / "model_index.json").write_text(json.dumps(index))


def save_hollow_pipeline(directory: Path) -> None:
    """Stable Diffusion 1.5 as `save_hollow_xl` has XL."""
    with torch.device("meta"):
        save_hollow_parts({name: make() for name, make in parts().items()}, directory)
    single_file.clip_tokenizer().save_pretrained(directory / "tokenizer")
    DDIMScheduler.from_config(single_file.SCHEDULER).save_pretrained(directory / "scheduler")


def save_hollow_parts(modules: dict[str, Any], directory: Path) -> None:
    """The configuration of each, and a file of its weights that holds nothing."""
    for name, module in modules.items():
        if isinstance(module, PreTrainedModel):
            module.config.architectures = [type(module).__name__]
            module.config.save_pretrained(directory / name)
        else:
            module.save_config(directory / name)
        save_hollow(module, directory / name / f"{stem((directory / name).name)}.safetensors")


#: DeepFloyd IF's first U-Net as its configuration says, quoted in public for IF-I-XL-v1.0: widths,
#: layers, and the width of T5 version 1.1 XXL; the rest as diffusers' scripts/convert_if.py has it.
IF_BASE: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (704, 1408, 2112, 2816),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 2816,
    "encoder_hid_dim": 4096,
    "addition_embed_type": "text",
    "attention_head_dim": 64,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}
#: Its super-resolution: what the same script says. Its widths and layers are not public; these make
#: the 1.2 billion parameters of IF-II-L-v1.0's card.
IF_LARGER: dict[str, Any] = IF_BASE | {
    "sample_size": 256,
    "in_channels": 6,
    "block_out_channels": (160, 320, 640, 1280),
    "layers_per_block": (2, 4, 8, 8),
    "down_block_types": (*("ResnetDownsampleBlock2D",) * 3, "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", *("ResnetUpsampleBlock2D",) * 3),
    "cross_attention_dim": 1280,
    "class_embed_type": "timestep",
    "only_cross_attention": True,
    "time_embedding_dim": 1280,
    "time_embedding_act_fn": "gelu",
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1 / 0.7071,
    "mid_block_scale_factor": 1 / 0.7071,
}
#: T5 version 1.1 XXL.
T5_XXL = T5Config(
    vocab_size=32128,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)


def cascade_parts() -> dict[str, Any]:
    """DeepFloyd IF's three models, by the folder each lies in."""
    return {
        "base/unet": UNet2DConditionModel(**IF_BASE),
        "super_resolution/unet": UNet2DConditionModel(**IF_LARGER),
        "base/text_encoder": T5EncoderModel(T5_XXL),
    }


def save_hollow_cascade(directory: Path) -> None:
    """DeepFloyd IF as `save_hollow_xl` has XL: 21 GB of nothing, with a small tokenizer."""
    with torch.device("meta"):
        save_hollow_parts(cascade_parts(), directory)
    sentences().save_pretrained(directory / "base" / "tokenizer")
    for stage, most in (("base", 1.5), ("super_resolution", 1.0)):
        scheduler = DDPMScheduler(**IF_SCHEDULER | {"sample_max_value": most})
        scheduler.save_pretrained(directory / stage / "scheduler")
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    noising.save_pretrained(directory / "super_resolution" / "image_noising_scheduler")


def save_hollow(module: nn.Module, path: Path) -> None:
    """A safetensors file of the module's parameters in float16, all of them zeros."""
    header, end = {}, 0
    for name, tensor in module.named_parameters():  # each once, under whatever names it has
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def random_xl(resolution: int, sampler: Sampler) -> Backbone:
    """Stable Diffusion XL of random weights, which are bfloat16 but for the VAE's: 7 GB."""
    torch.manual_seed(0)
    modules = xl_parts()
    for name, module in modules.items():
        module.to(torch.float32 if name == "vae" else torch.bfloat16)
        if any(parameter.is_meta for parameter in module.parameters()):
            drawn(module.to_empty(device="cpu"))
        module.eval().requires_grad_(False)
    family = families()["stable_diffusion_xl"]
    words = zip(family.texts.values(), single_file.PAD["xl"], strict=True)
    tokenizers = {name: single_file.clip_tokenizer(pad=pad) for name, pad in words}
    parts = Parts(family, modules, tokenizers, SCHEDULER, {})
    wanted = Wanted("xl", "xl@0", "cpu", "bf16", sampler, resolution)
    return family_module(family).build(parts, wanted)


@torch.no_grad()
def drawn(module: nn.Module) -> None:
    """Fill it with small random weights, norms of 1 and biases of 0."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(float(name.endswith("weight")))


def save_encoders(directory: Path) -> None:
    """The encoders of the protocol, each in a folder that is called as its hub repository is."""
    import open_clip
    import timm

    torch.manual_seed(0)
    tables = load_protocol("paper").encoders
    dino = timm.create_model(tables["dino"]["model"], pretrained=False, num_classes=0)
    clip = open_clip.CLIP(**open_clip.get_model_config(tables["clip"]["model"]))
    for name, model, file in (
        ("dino", dino, "model.safetensors"),
        ("clip", clip, "open_clip_model.safetensors"),
    ):
        folder = directory / tables[name]["hub"].rpartition("/")[2]
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        save_file(state, folder / file)


def random_protocol() -> Protocol:
    """`paper` under a name that says what its scores are worth.

    LPIPS looks through ViT-S/16: AlexNet is read only if its SHA-256 is the published one, a check
    that is not to be loosened for this.
    """
    paper = load_protocol("paper")
    lpips = {key: paper.encoders["dino"][key] for key in ("model", "hub", "revision")}
    lpips |= {"kind": "intermediate", "layers": [2, 5, 8, 11], "like": "dino"}
    return paper.model_copy(
        update={
            "name": "random-weights",
            "description": "As paper, but its encoders' weights are random: scores mean nothing",
            "encoders": paper.encoders | {"lpips": lpips},
        }
    )


def reduced_suite(directory: Path, protocol: Protocol) -> Suite:
    """`dreambench-mini` on the models under `directory`: one subject, few steps, 128 pixels."""
    suite = load_suite("dreambench-mini")
    fewer = REDUCED["methods"]
    return Suite.model_validate(
        suite.model_dump()
        | {
            "name": "true-size",
            "description": "Models of true size with random weights: scores mean nothing",
            "protocol": protocol,
            "encoders": str(directory / ENCODERS),
            "data": suite.data.model_dump() | {"subjects": ["dog"]},
            "backbone": suite.backbone.model_dump()
            | {"model": str(directory / PIPELINE), **REDUCED["backbone"]},
            "sampler": suite.sampler.model_dump() | REDUCED["sampler"],
            "evaluation": suite.evaluation.model_dump() | REDUCED["evaluation"],
            "methods": {
                name: settings | {key: fewer[key] for key in fewer.keys() & settings.keys()}
                for name, settings in suite.methods.items()
            },
        }
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which directory? python -m tests.true_size DIRECTORY")
    main(Path(sys.argv[1]))
