"""From a protocol's table, checked, to the encoder that it declares.

All raise UserError naming the table's key, or the file, and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark.api import UserError
from benchmark.models.assets.asset_files import Source, load_errors
from benchmark.scoring.encoder_files import ALEXNET
from benchmark.scoring.encoder_tables import (
    ClipTable,
    EncoderTable,
    IntermediateTable,
    LpipsTable,
    TimmTable,
)
from benchmark.scoring.encoders import (
    ClipEncoder,
    IntermediateEncoder,
    LpipsEncoder,
    Preprocessing,
    TimmEncoder,
    check_length,
)
from benchmark.store.files import file_digest, json_of, read_bytes, short


def load_timm(name: str, table: TimmTable, source: Source, device: str) -> TimmEncoder:
    """The vision transformer of a table."""
    options = {} if table.pool is None else {"global_pool": table.pool}
    model = _vision_transformer(name, table, source, **options)
    return TimmEncoder(model, _preprocessing(table), torch.device(device))


def load_intermediate(
    name: str, table: IntermediateTable, source: Source, device: str
) -> IntermediateEncoder:
    """The vision transformer of a table, for the distance over some of its layers."""
    model = _vision_transformer(name, table, source)
    last = len(model.blocks) - 1
    for layer in table.layers:
        if layer > last:
            raise UserError(
                f"encoders.{name}.layers has {layer!r}; '{table.model}' has layers 0 to {last}"
            )
    return IntermediateEncoder(model, _preprocessing(table), torch.device(device), table.layers)


def _vision_transformer(name: str, table: EncoderTable, source: Source, **options: Any) -> Any:
    import timm

    model_name = table.model if source.directory is None else f"local-dir:{source.directory}"
    with load_errors(f"encoders.{name}", table):
        model: Any = timm.create_model(model_name, num_classes=0, img_size=table.crop, **options)
        state = load_file(source.weights)
        if "pos_embed" in state:
            state["pos_embed"] = _resampled(state["pos_embed"], model)
        model.load_state_dict(state)
    return model


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


def check_clip_texts(name: str, table: ClipTable, source: Source, texts: Sequence[str]) -> None:
    """Raise UserError for one of `texts` that the tokenizer of a table would cut."""
    import open_clip

    directory = source.directory
    model_name = table.model if directory is None else f"local-dir:{directory}"
    with load_errors(f"encoders.{name}", table):
        tokenizer = open_clip.get_tokenizer(model_name)
    try:
        check_length(tokenizer, texts)
    except UserError as error:
        raise UserError(f"encoders.{name}: {error}") from error


def load_clip(name: str, table: ClipTable, source: Source, device: str) -> ClipEncoder:
    """The open_clip model of a table, with its own tokenizer."""
    import open_clip

    directory = source.directory
    model_name = table.model if directory is None else f"local-dir:{directory}"
    if directory is None:
        _check_activation(name, table)
    else:
        _check_tokenizer_is_own(directory / "open_clip_config.json")
    with load_errors(f"encoders.{name}", table):
        if directory is None:
            model: Any = open_clip.CLIP(**(open_clip.get_model_config(model_name) or {}))
            model.load_state_dict(load_file(source.weights))
        else:
            model = open_clip.create_model(model_name)
        tokenizer = open_clip.get_tokenizer(model_name)
    return ClipEncoder(model, tokenizer, _preprocessing(table), torch.device(device))


def load_lpips(name: str, table: LpipsTable, files: Sequence[Path], device: str) -> LpipsEncoder:
    """LPIPS from the files of AlexNet, checked against the digits in its name, and of LPIPS."""
    alexnet, learned = files
    found = file_digest(alexnet).hex()
    if found[:8] != ALEXNET.rpartition("-")[2][:8]:
        raise UserError(
            f"encoders.{name}: {alexnet} is damaged (SHA-256 {short(found)}): fetch it anew"
        )
    return LpipsEncoder(alexnet, learned, _preprocessing(table), torch.device(device))


def _check_activation(name: str, table: ClipTable) -> None:
    """open_clip only warns where the weights of a named model want another activation."""
    from open_clip import get_model_config, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    model, tag = table.model, str(table.pretrained)
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
        text = json_of(read_bytes(config)).get("model_cfg", {}).get("text_cfg", {})
    except (AttributeError, OSError, ValueError) as error:
        raise UserError(
            f"{config} is no open_clip configuration ({error}): fetch it anew"
        ) from error
    if not text.get("hf_tokenizer_name"):
        raise UserError(f"{config}: model_cfg.text_cfg.hf_tokenizer_name is missing or empty")


def _preprocessing(table: EncoderTable) -> Preprocessing:
    return Preprocessing(table.resize, table.crop, tuple(table.mean), tuple(table.std))
