"""peft's adapters, laid on a module for a while: made, checked, taken off.

with laid_on(unet, Adapter("lora", {"r": 4}), "attention") as learned:
    ...                                                     # learned.parameters, learned.kept
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from benchmark.api import UserError
from benchmark.models.laid import NAME, peft_adapter, quiet
from benchmark.models.layers import named_layers
from benchmark.store.errors import in_one_line
from methods.training import Learned

#: What people call adapters that are settings of others.
CALLED: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("lora", {"use_dora": True}),
    "rslora": ("lora", {"use_rslora": True}),
}
#: What has to be said so that an adapter is whole by its own weights and its seed.
SAID: dict[str, Any] = {"save_projection": False, "feedforward_modules": []}
#: No affair of a user's.
_OURS = ("peft_type", "task_type", "target_modules", "inference_mode", "modules_to_save", *SAID)
_WIDTH = 768  #: of the layer that an adapter is tried on


@dataclass(frozen=True)
class Adapter:
    """Which of peft's, and how."""

    name: str
    options: Mapping[str, Any]  #: of its configuration in peft
    seed: int = 0  #: of the weights that it begins with

    def config(self, layers: Sequence[str]) -> PeftConfig:
        """Its configuration in peft. Raises UserError for a name or an option that peft lacks."""
        name, given = CALLED.get(self.name, (self.name, {}))
        known = adapters()
        if name not in known:
            raise UserError(
                f"peft has no adapter '{self.name}' that lies on layers and trains by itself; it "
                f"has: {', '.join(sorted([*known, *CALLED]))}"
            )
        takes = {field.name for field in fields(known[name])}
        for option in self.options:
            if option not in takes or option in _OURS:
                free = ", ".join(sorted(takes - {*_OURS}))
                raise UserError(f"adapter '{self.name}' has no option '{option}'; it has: {free}")
        said = {key: value for key, value in SAID.items() if key in takes}
        try:
            with quiet():
                return known[name](target_modules=[*layers], **said, **given, **self.options)
        except (ImportError, TypeError, ValueError) as error:
            raise self.misfit(error) from error

    def misfit(self, error: Exception) -> UserError:
        """That it cannot be used so, and why."""
        of = f"adapter '{self.name}' with {dict(self.options)}"
        return UserError(f"{of}: {in_one_line(error)}")


def adapters() -> dict[str, type[PeftConfig]]:
    """peft's name of each kind that is laid on layers -> the class of its configuration.

    Without those that training would have to serve each step.
    """
    found = {}
    for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items():
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        on_layers = any(field.name == "target_modules" for field in fields(config))
        told = hasattr(tuner, "update_and_allocate")  # each step, by the training: AdaLoRA
        if isinstance(tuner, type) and issubclass(tuner, BaseTuner) and on_layers and not told:
            found[kind.value.lower()] = config
    return found


def check_adapter(adapter: Adapter) -> None:
    """Raise UserError unless peft has it, and it works so on a layer of 768 x 768.

    Tried is all that a job does: it learns, is taken off, laid on again, and given what was kept.
    """
    layer = nn.Sequential(nn.Linear(_WIDTH, _WIDTH)).requires_grad_(False)
    config, given = adapter.config(["0"]), torch.ones(1, _WIDTH) / _WIDTH
    before = layer(given)
    try:
        with _laid(layer, config, adapter) as learned:
            optimiser = torch.optim.SGD(learned.parameters, lr=1.0)
            for _ in range(2):  # the first moves what the second needs
                layer(given).sum().backward()
                optimiser.step()
                optimiser.zero_grad()
            after, kept = layer(given), [tensor.clone() for tensor in learned.kept.values()]
        with _laid(layer, config, adapter) as learned, torch.no_grad():
            for place, tensor in zip(learned.kept.values(), kept, strict=True):
                place.copy_(tensor)
            again = layer(given)
    except UserError:
        raise
    except Exception as error:  # whatever one raises that wants more than a layer
        raise adapter.misfit(error) from error
    if torch.equal(after, before) or not torch.equal(again, after):
        raise adapter.misfit(ValueError("it does not draw from what it keeps"))
    if not torch.equal(layer(given), before):
        raise adapter.misfit(ValueError("it changes the layers that it lies on"))


def config_of(adapter: Adapter, module: nn.Module, targets: str) -> PeftConfig:
    """For the layers of `module` that are `targets`, as in `named_layers`. Raises UserError."""
    return adapter.config(named_layers(module, targets))


@contextmanager
def laid_on(module: nn.Module, adapter: Adapter, targets: str) -> Iterator[Learned]:
    """Within, an adapter lies on some layers of `module`, and it alone wants gradients.

    `targets` as in `named_layers`. Raises UserError for those that are no layers, and for options
    that do not fit these.
    """
    with _laid(module, config_of(adapter, module, targets), adapter) as learned:
        yield learned


@contextmanager
def _laid(module: nn.Module, config: PeftConfig, adapter: Adapter) -> Iterator[Learned]:
    with ExitStack() as stack:
        try:
            stack.enter_context(peft_adapter(module, config, seed=adapter.seed))
            with quiet():
                kept = get_peft_model_state_dict(module, adapter_name=NAME)
        except Exception as error:  # whatever one raises for layers that it does not fit
            raise adapter.misfit(error) from error
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        yield Learned(learning, kept)
