"""A diffusers Stable Diffusion renamed into the layout of the original authors' checkpoints.

Written from the structure of the original modules: a U-Net is a list of input blocks, a middle and
a list of output blocks; nothing here comes from the converters that the tests put it against.
"""

from __future__ import annotations

import re

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
Weights = dict[str, torch.Tensor]


def original_unet(weights: Weights, layers: int) -> Weights:
    """`layers`: residual blocks a level."""
    with_attention = {
        int(name.split(".")[1])
        for name in weights
        if name.startswith("up_blocks.") and ".attentions." in name
    }

    def place(name: str) -> str:
        fixed = {
            "time_embedding.linear_1": "time_embed.0",
            "time_embedding.linear_2": "time_embed.2",
            "add_embedding.linear_1": "label_emb.0.0",
            "add_embedding.linear_2": "label_emb.0.2",
            "conv_in": "input_blocks.0.0",
            "conv_norm_out": "out.0",
            "conv_out": "out.2",
        }
        for ours, theirs in fixed.items():
            if name.startswith(ours + "."):
                return theirs + name.removeprefix(ours)
        if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
            kind, number, rest = found.groups()
            if kind == "attentions":
                return f"middle_block.1.{rest}"
            return f"middle_block.{2 * int(number)}.{renamed(rest, RESNET)}"
        side, level, kind, number, rest = re.fullmatch(
            r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name
        ).groups()
        level, number, each = int(level), int(number), layers + 1
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * each}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            position = 2 if level in with_attention else 1
            return f"output_blocks.{(level + 1) * each - 1}.{position}.{rest}"
        blocks, first = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
        block = f"{blocks}.{first + level * each + number}"
        return f"{block}.0.{renamed(rest, RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"

    return {f"model.diffusion_model.{place(name)}": tensor for name, tensor in weights.items()}


def original_vae(weights: Weights) -> Weights:
    levels = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("decoder.up_blocks."))
    found = {}
    for name, tensor in weights.items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.0", "mid.block_1", name)
        name = re.sub(r"mid_block\.resnets\.1", "mid.block_2", name)
        if "mid_block.attentions.0" in name:
            start, rest = name.split("mid_block.attentions.0.")
            name = f"{start}mid.attn_1.{renamed(rest, VAE_ATTENTION)}"
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # there a 1 x 1 convolution
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name
        )
        name = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0",
            lambda m: f"up.{levels - 1 - int(m[1])}.upsample",
            name,
        )
        found[f"first_stage_model.{name}"] = tensor
    return found


def original_text_encoder(weights: Weights, generation: str) -> Weights:
    if generation == "1":
        return clip_layout(weights, "cond_stage_model.transformer.")
    found = open_clip_layout(weights, "cond_stage_model.model.")
    # The last layer, which Stable Diffusion 2 does not use.
    for name in [n for n in found if ".resblocks.0." in n]:
        found[name.replace("resblocks.0.", "resblocks.23.")] = torch.ones_like(found[name])
    return found


def original_xl_text_encoders(first: Weights, second: Weights) -> Weights:
    return clip_layout(first, "conditioner.embedders.0.transformer.") | open_clip_layout(
        second, "conditioner.embedders.1.model."
    )


def clip_layout(weights: Weights, prefix: str) -> Weights:
    bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    length = len(bare["embeddings.position_embedding.weight"])
    found = {f"{prefix}text_model.{name}": tensor for name, tensor in bare.items()}
    return found | {f"{prefix}text_model.embeddings.position_ids": torch.arange(length)[None]}


def open_clip_layout(weights: Weights, prefix: str) -> Weights:
    bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    width = bare["final_layer_norm.bias"].shape[0]
    projection = bare.pop("text_projection.weight", torch.zeros(width, width))
    found = {
        "token_embedding.weight": bare.pop("embeddings.token_embedding.weight"),
        "positional_embedding": bare.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": bare.pop("final_layer_norm.weight"),
        "ln_final.bias": bare.pop("final_layer_norm.bias"),
        "text_projection": projection.T,  # there a plain matrix, x @ projection
        "logit_scale": torch.zeros(()),
    }
    for name, tensor in bare.items():
        number, rest = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name).groups()
        block = f"transformer.resblocks.{number}"
        if qkv := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", rest):
            parts = [bare[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[f"{block}.attn.in_proj_{qkv[1]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", rest):
            found[f"{block}.{renamed(rest, OPEN_CLIP)}"] = tensor
    return {prefix + name: tensor for name, tensor in found.items()}


def renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return name
