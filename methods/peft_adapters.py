"""peft's adapters, laid on a module for a while: made, checked, taken off.

with adapted(unet, "lora", {"r": 4}, "attention", seed=0) as learned:
    ...                                                     # learned.parameters, learned.kept
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from benchmark.api import UserError
from benchmark.models.layers import named_layers
from methods.dreambooth import Learned

#: What people call adapters that are settings of others.
CALLED = {"dora": ("lora", {"use_dora": True}), "rslora": ("lora", {"use_rslora": True})}
#: What is no affair of a user's: the layers and what an adapter is for.
_OURS = ("peft_type", "task_type", "target_modules", "inference_mode", "modules_to_save")
_NAME = "default"
_WIDTH = 768  #: of the layer that an adapter is tried on


def adapters() -> dict[str, type[PeftConfig]]:
    """peft's name of each kind that wraps layers -> the class of its configuration."""
    found = {}
    for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items():
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        takes_layers = any(field.name == "target_modules" for field in dataclasses.fields(config))
        if isinstance(tuner, type) and issubclass(tuner, BaseTuner) and takes_layers:
            found[kind.value.lower()] = config
    return dict(sorted(found.items()))


def check_adapter(adapter: str, options: Mapping[str, Any]) -> None:
    """Raise UserError unless peft has the adapter, and lays it with these options on a layer.

    It is tried on one of 768 x 768: laid on, run, its weights taken out and put in, taken off.
    """
    layer = nn.Sequential(nn.Linear(_WIDTH, _WIDTH))
    try:
        with _laid(layer, _config(adapter, options, ["0"]), adapter, 0) as learned:
            layer(torch.zeros(2, _WIDTH)).sum().backward()
            if not any(p.grad is not None for p in learned.parameters):
                raise ValueError("nothing of it learns")
    except UserError:
        raise
    except Exception as error:  # whatever an adapter raises for options that do not fit it
        why = " ".join(str(error).split())
        raise UserError(
            f"adapter '{adapter}' of peft cannot be used with {dict(options)}: "
            f"{type(error).__name__}: {why:.300}"
        ) from error


@contextmanager
def adapted(
    module: nn.Module, adapter: str, options: Mapping[str, Any], targets: str, seed: int
) -> Iterator[Learned]:
    """Within, an adapter lies on some layers of `module`, and it alone wants gradients.

    It begins the same for the same `seed`. Raises UserError for `targets` that are no layers, and
    for options that do not fit them.
    """
    layers = named_layers(module, targets)
    with _laid(module, _config(adapter, options, layers), adapter, seed) as learned:
        yield learned


@contextmanager
def _laid(module: nn.Module, config: PeftConfig, adapter: str, seed: int) -> Iterator[Learned]:
    tuner_class = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    names = [name for name, _ in module.named_modules()]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of kernels that are quicker, and others' defaults
        torch.manual_seed(seed)
        try:
            tuner = tuner_class(module, config, _NAME)
        except (ValueError, RuntimeError, NotImplementedError, KeyError) as error:
            _take_off(module)
            raise UserError(f"adapter '{adapter}' does not fit the model: {error}") from error
    try:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        yield Learned(parameters, get_peft_model_state_dict(module, adapter_name=_NAME))
    finally:
        tuner.unload()
        assert names == [name for name, _ in module.named_modules()]


def _config(adapter: str, options: Mapping[str, Any], layers: list[str]) -> PeftConfig:
    name, given = CALLED.get(adapter, (adapter, {}))
    known = adapters()
    if name not in known:
        raise UserError(
            f"peft has no adapter '{adapter}' for layers; it has: {', '.join([*known, *CALLED])}"
        )
    fields = {field.name for field in dataclasses.fields(known[name])} - {*_OURS}
    for option in options:
        if option not in fields:
            raise UserError(
                f"adapter '{adapter}' has no option '{option}'; it has: {', '.join(sorted(fields))}"
            )
    try:
        return known[name](target_modules=layers, **given, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"adapter '{adapter}' does not take {dict(options)}: {error}") from error
