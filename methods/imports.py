"""What other tools trained, put on a backbone: the reading counterpart of `methods.exports`.

check_fit(files, backbone)                  # UserError: weights of another model
weights = put_on(files, backbone)           # {"unet.conv_in.weight": ...}, which it now holds
put_back(weights, another)                  # of the same model

`files` are as `benchmark.models.files.trained_files` tells them. No pickles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.api import Backbone, UserError, Weights, Word
from benchmark.models.files.checkpoints import check_whole
from benchmark.models.files.diffusers_layout import variant, weight_files
from benchmark.models.files.header import read_header
from benchmark.models.files.trained_files import ADAPTER_WEIGHTS, ENCODERS, SAFE, TrainedFiles
from benchmark.models.laid import NAME, peft_adapter, quiet
from benchmark.store.errors import in_one_line
from methods.drawing import put_in_place
from methods.words import with_word, without_word, word_of

#: What peft calls the whole of a model before the name of a layer.
_PEFT = "base_model.model."


def check_fit(files: TrainedFiles, backbone: Any) -> None:
    """Raise UserError unless all that `files` hold has a place in `backbone`, of its shape.

    The backbone's modules may be on the device "meta".
    """
    if files.lora is not None:
        backbone.check_lora(files.lora)
    for name, folder in files.adapters.items():
        with _read_onto(_module(name, folder, backbone)[1], folder):
            pass
    for name, place in files.parts.items():
        _check_part(_module(name, place, backbone)[1], place)
    for name, path in files.words.items():
        if name not in backbone.text_encoders:
            encoders = ", ".join(backbone.text_encoders)
            raise UserError(f"{path} has a vector for {name}, and this model has {encoders}")
        _vector(path, name, backbone.text_encoders[name].get_input_embeddings().weight.shape[1])


def put_on(files: TrainedFiles, backbone: Any, words: Sequence[str] = ()) -> Weights:
    """Change the weights of `backbone` to what `files` hold, and read their words.

    `words`: what the learned one is called, if there is one. Returns what was changed, by
    "<module>.<parameter>" (adapters are merged into the layers that they lie on), and the words'
    vectors. Raises UserError as `check_fit`.
    """
    changed: dict[str, Tensor] = {}
    for name, place in files.parts.items():
        name, module = _module(name, place, backbone)
        changed |= {f"{name}.{key}": tensor for key, tensor in _put_part(module, place).items()}
    for name, folder in files.adapters.items():
        name, module = _module(name, folder, backbone)
        changed |= {f"{name}.{key}": tensor for key, tensor in _merge(module, folder).items()}
    if files.lora is not None:
        changed |= backbone.add_lora(files.lora)
    weights: Weights = changed
    for word in words:
        weights = with_word(_read_word(files, word, backbone), weights)
    return weights


def put_back(weights: Weights, backbone: Backbone, words: Sequence[str] = ()) -> list[Word]:
    """Have `backbone` hold the `weights` of `put_on`. Returns the words, with their vectors."""
    changed = without_word(weights)
    live = {
        name: tensor
        for module, own in backbone.modules().items()
        for key, tensor in own.state_dict().items()
        if (name := f"{module}.{key}") in changed
    }
    put_in_place(changed, live)
    return [word_of(weights, word, backbone.device) for word in words]


def _read_word(files: TrainedFiles, text: str, backbone: Backbone) -> Word:
    """The word of the files, called `text`. Raises UserError."""
    word = backbone.new_word(text, init=text)
    if files.words.keys() != word.vectors.keys():
        raise UserError(
            f"{files.path} has vectors for {' and '.join(sorted(files.words))}, and this model "
            f"learns words for {' and '.join(sorted(word.vectors))}"
        )
    found = {
        name: _vector(path, name, len(word.vectors[name])).to(word.vectors[name])
        for name, path in files.words.items()
    }
    return Word(text, found)


def _vector(path: Path, text_encoder: str, width: int) -> Tensor:
    """(width,) that of the one word in a file. Raises UserError for others."""
    tensors = load_file(path)
    rows = [t for key, t in tensors.items() if ENCODERS.get(key, text_encoder) == text_encoder]
    vectors = torch.cat([row.reshape(-1, row.shape[-1]) for row in rows])
    if vectors.shape != (1, width):
        raise UserError(
            f"{path} holds vectors of the shape {tuple(vectors.shape)} for {text_encoder}: one of "
            f"{width} numbers is read, a word of a single vector of this model"
        )
    return vectors[0]


def _module(name: str, path: Path, backbone: Any) -> tuple[str, nn.Module]:
    """The module of that name, and what the backbone calls it; without a name the denoiser."""
    name, modules = name or backbone.stages[0].name, backbone.modules()
    if name not in modules:
        raise UserError(f"{path} is for '{name}', and this model has {', '.join(modules)}")
    return name, modules[name]


# peft's adapters ---------------------------------------------------------------------------------


@contextmanager
def _read_onto(module: nn.Module, folder: Path) -> Iterator[tuple[BaseTuner, list[str]]]:
    """Within, the adapter in `folder` lies on layers of `module`, which are given by name."""
    try:
        with ExitStack() as stack:
            with quiet():
                config = PeftConfig.from_pretrained(str(folder))
                tuner = stack.enter_context(peft_adapter(module, config))
                tensors = load_file(folder / ADAPTER_WEIGHTS)
                state = {name.removeprefix(_PEFT): tensor for name, tensor in tensors.items()}
                set_peft_model_state_dict(module, state, adapter_name=NAME)
                laid = get_peft_model_state_dict(module, adapter_name=NAME)
            if odd := sorted(laid.keys() ^ state.keys()):
                raise ValueError(f"'{odd[0]}' (and {len(odd) - 1} more) is in one of the two alone")
            named = module.named_modules()
            yield tuner, [name for name, layer in named if isinstance(layer, BaseTunerLayer)]
    # What peft raises for configurations and tensors that do not fit.
    except (
        AttributeError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        name = type(module).__name__
        raise UserError(f"{folder} does not fit {name}: {in_one_line(e)}") from e


def _merge(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    with _read_onto(module, folder) as (tuner, layers):
        tuner.merge_adapter()
    owned = {layer: module.get_submodule(layer) for layer in layers}
    return {f"{n}.{key}": p for n, layer in owned.items() for key, p in layer.named_parameters()}


# Weights of a whole part -------------------------------------------------------------------------


def _check_part(module: nn.Module, place: Path) -> None:
    """Refuse weights none of which, or not all of which, are of the module's shapes."""
    files = [place] if place.is_file() else weight_files(place)
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        shapes |= read_header(path).shapes if path.suffix == SAFE else {}
    shared = shapes.keys() & own.keys()
    if not shared:
        raise UserError(f"{place} has no weight of {type(module).__name__} as this model has it")
    for name in sorted(shared):
        if shapes[name] != own[name]:
            raise UserError(
                f"{place}: '{name}' is of shape {shapes[name]}, and in this model {own[name]}: it "
                "is of another model"
            )


@torch.no_grad()
def _put_part(module: nn.Module, place: Path) -> dict[str, Tensor]:
    """Copy the weights at `place` into `module`. Returns those that are now there."""
    _check_part(module, place)
    state = load_file(place) if place.is_file() else _read_part(module, place)
    own = module.state_dict()
    strange = sorted(state.keys() - own.keys())
    if strange:
        raise UserError(f"{place} holds '{strange[0]}', for which this model has no place")
    missing = sorted(own.keys() - state.keys())
    if missing and place.is_dir():  # a file may hold some of a part's weights
        raise UserError(f"{place} lacks '{missing[0]}' of this model: it is of another model")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise UserError(f"{place}: '{name}' is of another shape than in this model")
        own[name].copy_(tensor)
    return {name: own[name] for name in state}


def _read_part(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """By the library of its class, which knows old names of weights. Raises UserError."""
    kind: Any = type(module)
    how = {"low_cpu_mem_usage": False} if isinstance(module, ModelMixin) else {}
    try:
        loaded, found = kind.from_pretrained(
            folder, use_safetensors=True, variant=variant(folder), output_loading_info=True, **how
        )
        check_whole(folder, found)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{folder} cannot be loaded: {in_one_line(error)}") from error
    return dict(loaded.state_dict())
