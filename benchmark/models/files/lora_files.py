"""Files of LoRA, whichever trainer wrote them: laid on by diffusers and peft, checked, merged.

check_lora(pipeline, Path("my-lora-000003.safetensors"))     # UserError: tensors without a place
changed = add_lora(pipeline, Path("my-lora-000003.safetensors"))
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from diffusers.utils import logging as diffusers_log
from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_log

from benchmark.api import UserError
from benchmark.models.files.header import read_header
from benchmark.models.laid import leaving_nothing
from benchmark.store.errors import in_one_line

_NAME = "file"  #: of the adapter, while it lies on the modules
_METADATA = "lora_adapter_metadata"  #: diffusers' own, which says the scale
_ALPHA = ".alpha"
_UP = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight")
_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight")


def check_lora(pipeline: DiffusionPipeline, file: Path) -> None:
    """Raise UserError unless every tensor of `file` has a place in `pipeline`, of its shape.

    The pipeline's modules may be on the device "meta".
    """
    with _read_onto(pipeline, file):
        pass


def add_lora(pipeline: DiffusionPipeline, file: Path) -> dict[str, Tensor]:
    """Add the LoRA of `file` to the weights of `pipeline`, by its own scale; nothing else stays.

    Returns the parameters of the layers that it lay on, by "<module>.<parameter>". Raises UserError
    as `check_lora`.
    """
    changed: dict[str, Tensor] = {}
    with _read_onto(pipeline, file) as layers:
        for name, layer in layers.items():
            layer.merge()
            parameters = layer.get_base_layer().named_parameters()
            changed |= {f"{name}.{key}": parameter for key, parameter in parameters}
    return changed


@contextmanager
def _read_onto(pipeline: DiffusionPipeline, file: Path) -> Iterator[dict[str, LoraLayer]]:
    """Within, LoRA lies on the layers of `pipeline`, which are given by "<module>.<layer>"."""
    modules = {
        name: module
        for name in pipeline._lora_loadable_modules
        if (module := getattr(pipeline, name, None)) is not None
    }
    with leaving_nothing(modules.values()) as stack:
        stack.callback(pipeline.unload_lora_weights)
        tensors, scaled = _read(file)
        translated = _lay(pipeline, file, tensors if scaled else None)
        _check_places(file, translated, modules)
        layers = _layers(modules)
        if scaled:
            for layer in layers.values():
                layer.scaling[_NAME] = 1.0
        yield layers


def _read(file: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors of `file`, and whether its scale is now in them.

    A file says its scale, alpha / rank, in diffusers' metadata, or as an alpha by each layer's two
    matrices; without either it is 1. diffusers misplaces alphas that differ between layers, so
    the scale is multiplied in here, and each alpha is the layer's rank.
    """
    tensors = load_file(file)
    if _METADATA in read_header(file).metadata:
        return tensors, False
    if any("dora_scale" in name for name in tensors):
        raise UserError(f"{file} is DoRA in kohya's format, whose magnitudes diffusers leaves out")
    for name in [name for name in tensors if name.endswith(_ALPHA)]:
        layer = name.removesuffix(_ALPHA)
        up = next((k for k in _UP if layer + k in tensors), None)
        down = next((k for k in _DOWN if layer + k in tensors), None)
        if up is None or down is None:
            raise UserError(f"{file} has '{name}', but not the two matrices that it scales")
        rank = len(tensors[layer + down])
        if tensors[name].numel() != 1 or rank == 0:
            raise UserError(f"{file}: '{name}' is no scale of a matrix of rank {rank}")
        tensors[layer + up] = tensors[layer + up].float() * (float(tensors[name]) / rank)
        tensors[name] = torch.tensor(float(rank))
    return tensors, True


def _lay(
    pipeline: DiffusionPipeline, file: Path, tensors: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor]:
    """Have diffusers lay `tensors` on, else those of `file`.

    Returns them as it translates their names.
    """
    translated: dict[str, Tensor] = {}
    translate = pipeline.lora_state_dict

    def listening(*args: Any, **given: Any) -> Any:
        found = translate(*args, **given)
        translated.update(found[0])
        return found

    # It only warns of what it leaves out, which is an error here, and told below.
    level = diffusers_log.get_verbosity(), transformers_log.get_verbosity()
    diffusers_log.set_verbosity(CRITICAL)
    transformers_log.set_verbosity(CRITICAL)
    pipeline.lora_state_dict = listening
    try:
        with warnings.catch_warnings(action="ignore"):
            pipeline.load_lora_weights(tensors or str(file), adapter_name=_NAME)
    # What the libraries raise for tensors of other names, shapes and kinds.
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not fit this model: {in_one_line(error)}") from error
    finally:
        del pipeline.lora_state_dict
        diffusers_log.set_verbosity(level[0])
        transformers_log.set_verbosity(level[1])
    return translated


def _layers(modules: Mapping[str, nn.Module]) -> dict[str, LoraLayer]:
    return {
        f"{name}.{path}": layer
        for name, module in modules.items()
        for path, layer in module.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _check_places(
    file: Path, translated: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> None:
    """Refuse a file unless its tensors are those that now lie on layers, one by one."""
    laid = {
        f"{name}.{key}"
        for name, module in modules.items()
        if hasattr(module, "peft_config")
        for key in get_peft_model_state_dict(module, adapter_name=_NAME)
    }
    wanted = set[str]()
    for name in {key.partition(".")[0] for key in translated}:
        own = {k.removeprefix(f"{name}."): t for k, t in translated.items() if _is_of(name, k)}
        wanted |= {f"{name}.{key}" for key in _as_peft_names(own, modules.get(name))}
    if odd := sorted(wanted - laid) or sorted(laid - wanted):
        raise UserError(
            f"{file}: {len(wanted & laid)} of its {len(wanted)} tensors have a place in this "
            f"model; it differs in '{odd[0]}': it was trained on another model, or is no LoRA that "
            "diffusers reads"
        )


def _is_of(module: str, name: str) -> bool:
    return name.startswith(f"{module}.") and not name.endswith(_ALPHA)


def _as_peft_names(tensors: dict[str, Tensor], module: nn.Module | None) -> Iterable[str]:
    """What diffusers calls them as it lays them on `module`."""
    if not isinstance(module, PreTrainedModel):
        plain = any("lora_A" in name for name in tensors)
        return tensors if plain else convert_unet_state_dict_to_peft(tensors)
    found = convert_state_dict_to_peft(convert_state_dict_to_diffusers(tensors))
    nested = hasattr(module, "text_model")
    return found if nested else [name.removeprefix("text_model.") for name in found]
