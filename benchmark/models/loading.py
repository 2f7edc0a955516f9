"""From a model's name to a Backbone: read, at a precision, on a device, for images of a size.

backbone = load_backbone("pocket", sampler=Sampler("ddim", steps=20, guidance=4.0))

What is the same for all families stands here; the module of the model's family does the rest.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnProcessor
from torch import nn
from transformers import PreTrainedModel

from benchmark.api import Backbone, Sampler, UserError
from benchmark.models.families import Family
from benchmark.models.files.checkpoints import Parts, hollow_parts, read_parts
from benchmark.models.files.configuration import check_configuration
from benchmark.models.files.hub import fetch_command, hub_model
from benchmark.models.files.identity import backbone_id, locate_here
from benchmark.models.finite import check_weights
from benchmark.models.precision import resolve_device, resolve_precision


@dataclass(frozen=True)
class Wanted:
    """How a model is wanted."""

    model: str
    id: str
    device: str
    precision: str
    sampler: Sampler
    resolution: int | None  #: in pixels; None: the model's own


class Builder(Protocol):
    """What the module of a family has."""

    def build(self, parts: Parts, wanted: Wanted) -> Backbone:
        """The model of these parts, which are float32 on its device. Raises UserError."""
        ...


def load_backbone(
    model: str,
    *,
    sampler: Sampler | None = None,
    precision: str = "auto",
    device: str = "auto",
    resolution: int | None = None,
    gradient_checkpointing: bool = False,
) -> Backbone:
    """Load a model with float32 weights: "pocket", or another that `identity.locate` finds.

    `sampler` is by default a plain `Sampler()`; precision and device are resolved as in
    `benchmark.models.precision`; `resolution` is the height and width of the images in pixels, by
    default the model's own. With `gradient_checkpointing` a backward pass computes activations
    again, which then need not be kept. Raises UserError if the model or a part of it is missing or
    broken, or cannot draw that size.
    """
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    parts = read_parts(model)
    check_weights(model)
    for module in parts.modules.values():
        if device == "cpu":
            _plain_attention(module)
        module.float().to(device)
        _set_up(module, gradient_checkpointing)
    wanted = Wanted(model, backbone_id(model), device, precision, sampler or Sampler(), resolution)
    return family_module(parts.family).build(parts, wanted)


class OneFile(UserError):
    """A model in one file says its size by its weights alone."""


def hollow_backbone(
    model: str,
    *,
    sampler: Sampler,
    precision: str,
    resolution: int | None = None,
    gradient_checkpointing: bool = False,
    modules_on: str = "cpu",
) -> Backbone:
    """The model as `load_backbone` gives it, on the CPU, but without its weights.

    For `live_memory.no_numbers`; or with `modules_on` "meta", for what asks about shapes alone.
    Raises OneFile for a model in one file, UserError if its configurations are not here.
    """
    with torch.device(modules_on):
        parts = hollow_parts(_configurations(model))
    for module in parts.modules.values():
        _set_up(module, gradient_checkpointing)
    wanted = Wanted(model, f"{model}@{'0' * 12}", "cpu", precision, sampler, resolution)
    return family_module(parts.family).build(parts, wanted)


def _configurations(model: str) -> Path:
    """The directory of a model that is here, its configurations understood. Raises UserError."""
    place = locate_here(model)
    if place is None:
        hub = hub_model(model)
        assert hub is not None  # nothing else may be elsewhere
        raise UserError(
            f"model '{model}' is not on this machine, and without its configurations nothing is "
            f"known of its size: `{fetch_command(hub)}` brings it"
        )
    if not isinstance(place, Path):
        raise OneFile(
            f"model '{model}' is one file, without the configurations that its size is told by: "
            "name a model of the same family that is a directory"
        )
    check_configuration(place)
    return place


def _set_up(module: nn.Module, gradient_checkpointing: bool) -> None:
    """As every part is lent: at rest, without dropout."""
    _without_dropout(module)
    module.eval().requires_grad_(False)
    if gradient_checkpointing:
        checkpoint_gradients(module)


def family_module(family: Family) -> Builder:
    """A family's code."""
    module: Builder = importlib.import_module(f"benchmark.models.backbones.{family.module}")  # type: ignore
    return module


def _without_dropout(module: nn.Module) -> None:
    """Training draws its random numbers from its own generators, so that a seed gives the same."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(vars(part).get("dropout"), float):  # of attention, in transformers
            part.dropout = 0.0  # type: ignore[assignment]


def checkpoint_gradients(module: nn.Module) -> None:
    """In training its blocks keep what goes into them alone."""
    if isinstance(module, PreTrainedModel):
        # The other kind loses what hooks take out of a block.
        module.gradient_checkpointing_enable({"use_reentrant": False})
    elif isinstance(module, ModelMixin) and module._supports_gradient_checkpointing:
        module.enable_gradient_checkpointing()


def _plain_attention(module: nn.Module) -> None:
    """Fused attention's backward in bfloat16 is several times slower there than plain products."""
    if isinstance(module, PreTrainedModel):
        module.set_attn_implementation("eager")
    elif isinstance(module, UNet2DConditionModel):
        joint = any("AddedKV" in type(one).__name__ for one in module.attn_processors.values())
        module.set_attn_processor(AttnAddedKVProcessor() if joint else AttnProcessor())
