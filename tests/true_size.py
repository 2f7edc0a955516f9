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
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)

from benchmark.api import Backbone, Sampler
from benchmark.config.protocol import Protocol, load_protocol
from benchmark.config.suite import Suite, load_suite
from benchmark.models.families import families
from benchmark.models.files import single_file
from benchmark.models.files.checkpoints import Parts
from benchmark.models.files.diffusers_layout import stem
from benchmark.models.files.single_file_header import SCHEDULER
from benchmark.models.loading import Wanted, family_module
from benchmark.models.texts.tokens import Tokenizer
from tests.tiny_pipeline import (
    FLUX_SCHEDULER,
    IF_SCHEDULER,
    SD3_SCHEDULER,
    UNCLIP_SCHEDULER,
    WORDS,
    XL_SCHEDULER,
    sentences,
)

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
    DDIMScheduler.from_config(SCHEDULER).save_pretrained(directory / "scheduler")


def xl_parts() -> dict[str, Any]:
    """Stable Diffusion XL's four models, by the folder each lies in."""
    return single_file.empty_modules("xl", "epsilon")


def save_hollow_xl(directory: Path) -> None:
    """Stable Diffusion XL in diffusers' layout: true configurations, names and shapes, no weights.

    The files have their true size, in float16, and hold nothing: the system stores no zeros.
    """
    with torch.device("meta"):
        parts = xl_parts()
    save_hollow_parts(directory, parts, XL_SCHEDULER)
    for name, pad in zip(("tokenizer", "tokenizer_2"), single_file.PAD["xl"], strict=True):
        single_file.clip_tokenizer(pad=pad).save_pretrained(directory / name)
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (directory / "model_index.json").write_text(json.dumps(index))


def save_hollow_pipeline(directory: Path) -> None:
    """As `save_hollow_xl`, of Stable Diffusion 1.5."""
    with torch.device("meta"):
        modules = {name: make() for name, make in parts().items()}
    single_file.clip_tokenizer().save_pretrained(directory / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", **SCHEDULER}
    save_hollow_parts(directory, modules, scheduler)


#: Of stabilityai/stable-diffusion-3.5-medium, and T5 v1.1 XXL, as repositories of GitHub hold them
#: (tests/models/files/test_stable_diffusion_3_files.py). Its CLIPs are XL's, with a projection
#: each.
SD3_TRANSFORMER: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
SD3_VAE: dict[str, Any] = {
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
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


def sd3_parts() -> dict[str, nn.Module]:
    """Stable Diffusion 3.5 medium's models, by the folder each lies in: 32 GB on a real device."""
    first = single_file.clip_configuration(single_file.TEXT_ENCODER["xl"] | {"projection_dim": 768})
    return {
        "transformer": SD3Transformer2DModel(**SD3_TRANSFORMER),
        "vae": AutoencoderKL(sample_size=1024, **SD3_VAE, **single_file.VAE),
        "text_encoder": CLIPTextModelWithProjection(first),
        "text_encoder_2": CLIPTextModelWithProjection(
            single_file.clip_configuration(single_file.TEXT_ENCODER_2)
        ),
        "text_encoder_3": T5EncoderModel(T5_XXL),
    }


def sd3_tokenizers() -> dict[str, Tokenizer]:
    """T5's is a toy's: its vocabulary is nowhere in what is installed."""
    words = single_file.clip_tokenizer
    names, pads = ("tokenizer", "tokenizer_2"), single_file.PAD["xl"]
    clips = {name: words(pad=pad) for name, pad in zip(names, pads, strict=True)}
    third = sentences()
    third.model_max_length = 256
    return clips | {"tokenizer_3": third}


def save_hollow_sd3(directory: Path) -> None:
    """As `save_hollow_xl`, of Stable Diffusion 3.5 medium."""
    with torch.device("meta"):
        parts = sd3_parts()
    for name, tokenizer in sd3_tokenizers().items():
        tokenizer.save_pretrained(directory / name)
    save_hollow_parts(directory, parts, SD3_SCHEDULER)
    (directory / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')


#: Of black-forest-labs/FLUX.1-dev, as tests/models/files/test_flux_files.py says where it was read.
FLUX_TRANSFORMER: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
}
FLUX_VAE = SD3_VAE | {"scaling_factor": 0.3611, "shift_factor": 0.1159}


def flux_parts(*, guidance_embeds: bool = True) -> dict[str, nn.Module]:
    """FLUX.1's models, by the folder each lies in: dev's, or schnell's without the embedding."""
    return {
        "transformer": FluxTransformer2DModel(guidance_embeds=guidance_embeds, **FLUX_TRANSFORMER),
        "vae": AutoencoderKL(sample_size=1024, **FLUX_VAE, **single_file.VAE),
        "text_encoder": CLIPTextModel(
            single_file.clip_configuration(single_file.TEXT_ENCODER["xl"])
        ),
        "text_encoder_2": T5EncoderModel(T5_XXL),
    }


def flux_tokenizers() -> dict[str, Tokenizer]:
    """T5's is a toy's, with the suite's identifier."""
    words = sentences((*WORDS, "doi"))
    return {"tokenizer": single_file.clip_tokenizer(), "tokenizer_2": words}


def save_hollow_flux(directory: Path) -> None:
    """As `save_hollow_xl`, of FLUX.1 dev: 34 GB of nothing."""
    with torch.device("meta"):
        parts = flux_parts()
    for name, tokenizer in flux_tokenizers().items():
        tokenizer.save_pretrained(directory / name)
    save_hollow_parts(directory, parts, FLUX_SCHEDULER)
    (directory / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')


#: OpenCLIP's ViT-H/14, as transformers has laion/CLIP-ViT-H-14-laion2B-s32B-b79K: 632 million.
VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "projection_dim": 1024,
}


def unclip_parts() -> dict[str, nn.Module]:
    """Stable unCLIP's models, by the folder each lies in, as Stability AI's configuration has them.

    v2-1-stable-unclip-h-inference.yaml: Stable Diffusion 2.1's, and class embeddings of 2048.
    """
    text = single_file.clip_configuration(single_file.TEXT_ENCODER["2"])
    told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}
    return {
        "unet": UNet2DConditionModel(sample_size=96, **single_file.UNET["2"], **told),
        "vae": AutoencoderKL(sample_size=768, **single_file.VAE),
        "text_encoder": CLIPTextModel(text),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H)),
        "image_normalizer": StableUnCLIPImageNormalizer(1024),
    }


def save_hollow_unclip(directory: Path) -> None:
    """As `save_hollow_xl`, of Stable unCLIP."""
    with torch.device("meta"):
        parts = unclip_parts()
    save_hollow_parts(directory, parts, UNCLIP_SCHEDULER)
    single_file.clip_tokenizer(pad="!").save_pretrained(directory / "tokenizer")
    CLIPImageProcessor().save_pretrained(directory / "feature_extractor")
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    noising.save_pretrained(directory / "image_noising_scheduler")
    (directory / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')


def save_hollow_parts(
    directory: Path, parts: dict[str, nn.Module], scheduler: dict[str, Any]
) -> None:
    """Configurations, and files of weights that hold nothing."""
    save_hollow_modules(directory, parts)
    (directory / "scheduler").mkdir()
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))


def save_hollow_modules(directory: Path, parts: dict[str, nn.Module]) -> None:
    """Those of `save_hollow_parts` that have weights."""
    for name, module in parts.items():
        folder = directory / name
        if isinstance(module, PreTrainedModel):
            module.config.architectures = [type(module).__name__]
            module.config.save_pretrained(folder)
        else:
            module.save_config(folder)
        save_hollow(module, folder / f"{stem(folder.name)}.safetensors")


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
        parts = cascade_parts()
    save_hollow_modules(directory, parts)
    sentences().save_pretrained(directory / "base" / "tokenizer")
    for stage, most in (("base", 1.5), ("super_resolution", 1.0)):
        scheduler = DDPMScheduler(**IF_SCHEDULER | {"sample_max_value": most})
        scheduler.save_pretrained(directory / stage / "scheduler")
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    noising.save_pretrained(directory / "super_resolution" / "image_noising_scheduler")


def save_hollow(module: nn.Module, path: Path) -> None:
    """A safetensors file of the module's tensors in float16, all of them zeros."""
    header, end = {}, 0
    kept = module.state_dict().keys()  # without buffers that no file holds
    named = (*module.named_parameters(), *module.named_buffers())  # each once
    for name, tensor in ((name, tensor) for name, tensor in named if name in kept):
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def random_xl(resolution: int, sampler: Sampler) -> Backbone:
    """Stable Diffusion XL of random weights, in float32: 14 GB.

    In bfloat16, which would take half, a processor that does not know it takes hours.
    """
    torch.manual_seed(0)
    modules = xl_parts()
    for module in modules.values():
        if any(parameter.is_meta for parameter in module.parameters()):
            drawn(module.to_empty(device="cpu"))
        module.eval().requires_grad_(False)
    family = families()["stable_diffusion_xl"]
    words = zip(family.texts.values(), single_file.PAD["xl"], strict=True)
    tokenizers = {name: single_file.clip_tokenizer(pad=pad) for name, pad in words}
    parts = Parts(family, modules, tokenizers, {"scheduler": SCHEDULER}, {})
    wanted = Wanted("xl", "xl@0", "cpu", "fp32", sampler, resolution)
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
