"""From a protocol's table to the encoder it declares: `encoders.load_encoders` asks for one each.

load_timm("dino", protocol.encoders["dino"], torch.device("cpu"))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from benchmark.api import UserError
from benchmark.models.identity import ALEXNET, HUB_FILES, encoder_directory, encoder_files
from benchmark.scoring.encoders import ClipModel, LpipsModel, Preprocessing, TimmModel

PREPROCESSING = ("resize", "crop", "mean", "std")
_WHERE = ("kind", "model", "hub", "revision", "directory")  #: where the weights come from


def load_timm(name: str, table: Mapping[str, Any], device: torch.device) -> TimmModel:
    """The vision transformer of a table; of kind "intermediate" for LPIPS's distance.

    Raises UserError naming the table's key, or the file, and the way out; so do the others here.
    """
    import timm

    kind = table["kind"]
    allowed = (*_WHERE, *PREPROCESSING, *(("layers",) if kind == "intermediate" else ()))
    preprocessing = _preprocessing(name, table, allowed)
    directory = encoder_directory(name, table)
    source = table["model"] if directory is None else f"local-dir:{directory}"
    try:
        model: Any = timm.create_model(source, num_classes=0, img_size=table["crop"])
        state = _weights(name, table)
        if "pos_embed" in state:
            state["pos_embed"] = _resampled(state["pos_embed"], model)
        model.load_state_dict(state)
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise _unloadable(name, table, error) from error
    layers = table.get("layers", ())
    if kind == "intermediate" and not layers:
        raise UserError(f"encoders.{name}.layers should name the layers to compare, e.g. [1, 3, 5]")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer < len(model.blocks):
            raise UserError(
                f"encoders.{name}.layers has {layer!r}; '{table['model']}' has layers "
                f"0 to {len(model.blocks) - 1}"
            )
    return TimmModel(model, preprocessing, device, layers)


def _resampled(positions: Tensor, model: Any) -> Tensor:
    """(1, 1 + n, d) position embeddings for the model's own grid, where it is another one.

    DINOv2's were learned at 518 pixels. Plain bicubic, without anti-aliasing, as its authors and
    transformers do it; timm's own way differs.
    """
    size = round((positions.shape[1] - 1) ** 0.5)
    if positions.shape == model.pos_embed.shape or size * size != positions.shape[1] - 1:
        return positions
    grid = positions[:, 1:].float().unflatten(1, (size, size)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, model.patch_embed.grid_size, mode="bicubic")
    return torch.cat([positions[:, :1].float(), grid.flatten(2).permute(0, 2, 1)], dim=1)


def load_clip(name: str, table: Mapping[str, Any], device: torch.device) -> ClipModel:
    """The open_clip model of a table, with its own tokenizer."""
    import open_clip

    preprocessing = _preprocessing(name, table, (*_WHERE, "pretrained", *PREPROCESSING))
    directory = encoder_directory(name, table)
    source = str(table["model"]) if directory is None else f"local-dir:{directory}"
    if directory is None:
        _check_activation(name, table)
    else:
        _check_tokenizer_is_own(directory / "open_clip_config.json")
    try:
        if directory is None:
            model: Any = open_clip.CLIP(**(open_clip.get_model_config(source) or {}))
            model.load_state_dict(_weights(name, table))
        else:
            model = open_clip.create_model(source)
        tokenizer = open_clip.get_tokenizer(source)
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise _unloadable(name, table, error) from error
    return ClipModel(model, tokenizer, preprocessing, device)


def load_lpips(name: str, table: Mapping[str, Any], device: torch.device) -> LpipsModel:
    """LPIPS on AlexNet, whose file is checked against the digits in its name."""
    preprocessing = _preprocessing(name, table, (*_WHERE, *PREPROCESSING))
    if table["model"] != "alex":
        raise UserError(f"encoders.{name}.model is {table['model']!r}; known: 'alex'")
    (path,) = encoder_files(name, table)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found[:8] != ALEXNET.rpartition("-")[2][:8]:
        raise UserError(f"encoders.{name}: {path} is damaged (SHA-256 {found}): fetch it anew")
    return LpipsModel(path, preprocessing, device)


def _weights(name: str, table: Mapping[str, Any]) -> dict[str, Tensor]:
    directory = encoder_directory(name, table)
    if directory is None:
        (path,) = encoder_files(name, table)
    else:
        path = directory / HUB_FILES[table["kind"]]
    return load_file(path)


def _check_activation(name: str, table: Mapping[str, Any]) -> None:
    """open_clip only warns where the weights of a named model want another activation."""
    from open_clip import get_model_config, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    model, tag = str(table["model"]), str(table.get("pretrained"))
    known = list_pretrained_tags_by_model(model)
    if tag not in known:
        raise UserError(
            f"encoders.{name}.pretrained is '{tag}'; '{model}' has: {', '.join(known) or 'none'}"
        )
    quick = bool(get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if quick != bool(get_model_config(model).get("quick_gelu", False)):
        raise UserError(
            f"encoders.{name}: '{model}' has another activation than its weights '{tag}'; "
            f"use '{model}-quickgelu'"
        )


def _check_tokenizer_is_own(config: Path) -> None:
    """Without that key, open_clip silently takes OpenAI's vocabulary of 49408 words."""
    try:
        text = json.loads(config.read_text("utf-8")).get("model_cfg", {}).get("text_cfg", {})
    except (AttributeError, OSError, ValueError) as error:
        raise UserError(
            f"{config} is no open_clip configuration ({error}): fetch it anew"
        ) from error
    if not text.get("hf_tokenizer_name"):
        raise UserError(f"{config}: model_cfg.text_cfg.hf_tokenizer_name is missing or empty")


def _preprocessing(name: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> Preprocessing:
    for key in ("model", *PREPROCESSING, *table):
        if key not in table or key not in allowed:
            problem = "is missing" if key not in table else "is unknown"
            raise UserError(f"encoders.{name}.{key} {problem}; the keys are {', '.join(allowed)}")
    if table["crop"] > table["resize"]:
        raise UserError(
            f"encoders.{name}.crop is {table['crop']}, more than resize, {table['resize']}"
        )
    return Preprocessing(table["resize"], table["crop"], tuple(table["mean"]), tuple(table["std"]))


def _unloadable(name: str, table: Mapping[str, Any], error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"encoders.{name}: cannot load '{table['model']}': {reason}; "
        "it should be 'pocket', a name and hub, or a directory written with a slash (./directory)"
    )
