"""What a job may move beside the backbone: torch's switches, its code and hooks, random numbers.

state = ProcessState(classes)
state.put_back(everything=True)         # [Change("torch's default dtype was changed ..."), ...]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_module

from benchmark.models.lending.object_state import Change


@dataclass(frozen=True)
class Switch:
    """A state of torch, and how it is read and written."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _switch_autocast(device: str) -> Switch:
    def write(state: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, state[0])
        torch.set_autocast_dtype(device, state[1])

    return Switch(
        f"autocast on {device}",
        lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
        write,
    )


SWITCHES = (
    Switch("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Switch(
        "the default device",
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    Switch("the number of threads", torch.get_num_threads, torch.set_num_threads),
    Switch("the grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Switch(
        "the use of deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda state: torch.use_deterministic_algorithms(state[0], warn_only=state[1]),
    ),
    Switch(
        "the float32 matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _switch_autocast("cpu"),
    _switch_autocast("cuda"),
)
#: Attributes of torch's back ends.
BACKEND_FLAGS = (
    (torch.backends.cudnn, "enabled"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
)
#: Where a job may have replaced functions. Not torch itself: its own parts do so when imported.
PATCHED = (torch.nn.functional,)


class ProcessState:
    """This process, as it is now: what a job of another method must find as this one did."""

    def __init__(self, classes: Iterable[type]) -> None:
        self._switches = [(switch, switch.read()) for switch in SWITCHES]
        self._flags = [(place, name, getattr(place, name)) for place, name in BACKEND_FLAGS]
        self._hooks = [
            (name, hooks, dict(hooks))
            for name, hooks in vars(torch_module).items()
            if name.startswith("_global_") and isinstance(hooks, dict)
        ]
        owners: list[type | ModuleType] = [*classes, *PATCHED]
        self._code = [(owner, _code(owner)) for owner in owners]
        self._random = _random_states()

    def put_back(self, *, everything: bool) -> list[Change]:
        """Put it back; `everything`: code and hooks too. What was changed, but for random states.

        Raises RuntimeError if torch takes something not back.
        """
        found = []
        for switch, state in self._switches:
            if switch.read() != state:
                found.append(Change("{} of torch was changed", switch.name))
                switch.write(state)
        for place, name, state in self._flags:
            if getattr(place, name) != state:
                found.append(Change("'{}' was changed", f"{place.__name__}.{name}"))
                setattr(place, name, state)
        if everything:
            found += self._put_code_back()
        for write, state in self._random:
            write(state)
        return found

    def _put_code_back(self) -> list[Change]:
        found = []
        for name, hooks, before in self._hooks:
            if hooks != before:
                kind = name.removeprefix("_global_").replace("_", " ")
                found.append(Change("{} were left for all modules", kind))
                hooks.clear()
                hooks.update(before)
        for owner, functions in self._code:
            now = vars(owner)
            for name, function in functions.items():
                if now.get(name) is not function:
                    found.append(
                        Change("the function '{}' was replaced", f"{owner.__name__}.{name}")
                    )
                    setattr(owner, name, function)
        return found


def _code(owner: type | ModuleType) -> dict[str, Any]:
    kinds = (staticmethod, classmethod, property)
    return {
        name: value
        for name, value in vars(owner).items()
        if not isinstance(value, type) and (callable(value) or isinstance(value, kinds))
    }


def _random_states() -> list[tuple[Callable[[Any], object], Any]]:
    """How each generator's state is written, and its state."""
    states: list[tuple[Callable[[Any], object], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    if torch.cuda.is_initialized():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states
