"""Files of LoRA, whichever trainer wrote them: laid on by diffusers and peft, checked, merged.

check_lora(pipeline, Path("my-lora-000003.safetensors"))     # UserError: tensors without a place
changed = add_lora(pipeline, Path("my-lora-000003.safetensors"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from benchmark.api import UserError
from benchmark.models.header import read_header

_NAME = "file"  #: of the adapter, while it lies on the modules


def check_lora(pipeline: DiffusionPipeline, file: Path) -> None:
    """Raise UserError unless every tensor of `file` has a place in `pipeline`, of its shape.

    The pipeline's modules may be on the device "meta".
    """
    with _laid_on(pipeline, file):
        pass


def add_lora(pipeline: DiffusionPipeline, file: Path) -> dict[str, Tensor]:
    """Add the LoRA of `file` to the weights of `pipeline`, by its own scale; nothing else stays.

    Returns the parameters of the layers that it lay on, by "<module>.<parameter>". Raises UserError
    as `check_lora`.
    """
    changed: dict[str, Tensor] = {}
    with _laid_on(pipeline, file) as layers:
        for name, layer in layers.items():
            layer.merge()
            parameters = layer.get_base_layer().named_parameters()
            changed |= {f"{name}.{key}": parameter for key, parameter in parameters}
    return changed


@contextmanager
def _laid_on(pipeline: DiffusionPipeline, file: Path) -> Iterator[dict[str, BaseTunerLayer]]:
    """Within, LoRA lies on the layers of `pipeline`, which are given by "<module>.<layer>"."""
    modules = {
        name: module
        for name in pipeline._lora_loadable_modules
        if (module := getattr(pipeline, name, None)) is not None
    }
    before = {name: dict(vars(module)) for name, module in modules.items()}
    try:
        told = _lay(pipeline, file)
        _check_places(file, told, modules)
        yield {
            f"{name}.{path}": layer
            for name, module in modules.items()
            for path, layer in module.named_modules()
            if isinstance(layer, BaseTunerLayer)
        }
    finally:
        pipeline.unload_lora_weights()
        for name, module in modules.items():
            for key in vars(module).keys() - before[name].keys():
                delattr(module, key)


def _lay(pipeline: DiffusionPipeline, file: Path) -> Mapping[str, Tensor]:
    """Have diffusers lay it on. Returns the file's tensors as diffusers translates their names."""
    translated: dict[str, Tensor] = {}
    translate = pipeline.lora_state_dict

    def listening(*args: Any, **given: Any) -> Any:
        found = translate(*args, **given)
        translated.update(found[0])
        return found

    # It only warns of what it leaves out, which is an error here, and told below.
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    pipeline.lora_state_dict = listening
    try:
        pipeline.load_lora_weights(str(file), adapter_name=_NAME)
    # What the libraries raise for tensors of other names, shapes and kinds.
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} does not fit this model: {why:.300}") from error
    finally:
        del pipeline.lora_state_dict
        logging.set_verbosity(level)
    return translated


def _check_places(
    file: Path, translated: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> None:
    """Refuse a file of which not every tensor lies on a layer."""
    raw = read_header(file).shapes
    if any("dora_scale" in name for name in raw) and not any("magnitude" in n for n in translated):
        raise UserError(f"{file} is DoRA in kohya's format, whose magnitudes diffusers leaves out")
    laid = {
        f"{name}.{path.partition('.lora_')[0]}"
        for name, module in modules.items()
        if hasattr(module, "peft_config")
        for path in get_peft_model_state_dict(module, adapter_name=_NAME)
    }
    count = sum(
        len(get_peft_model_state_dict(module, adapter_name=_NAME))
        for module in modules.values()
        if hasattr(module, "peft_config")
    )
    tensors = [name for name in translated if not name.endswith("alpha")]
    if not tensors or count != len(tensors):
        homeless = [name for name in tensors if _layer(name) not in laid] or [*raw]
        raise UserError(
            f"{file}: {count} of its {len(tensors) or len(raw)} tensors have a place in this model, "
            f"and '{homeless[0]}' has none: it was trained on another model, or is no LoRA that "
            "diffusers reads"
        )


def _layer(name: str) -> str:
    """`text_encoder.text_model.encoder.x.lora_A.weight` -> `text_encoder.encoder.x`."""
    return name.partition(".lora")[0].replace(".text_model.", ".")
