"""Adapters lie on modules for a while, and nothing of them stays.

with peft_adapter(unet, LoraConfig(r=4, target_modules=["to_q"])) as tuner:
    ...                                  # the unet draws with it; tuner.merge_adapter()
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

NAME = "default"  #: of the adapter, while it lies there


@contextmanager
def leaving_nothing(modules: Iterable[nn.Module]) -> Iterator[ExitStack]:
    """Within, adapters may be laid on `modules`. The stack is given what takes them off.

    Attributes that the libraries left are deleted then.
    """
    before = [(module, {*vars(module)}) for module in modules]
    try:
        with ExitStack() as stack:
            yield stack
    finally:
        for module, own in before:
            for key in vars(module).keys() - own:
                delattr(module, key)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, peft says nothing of quicker kernels, those that cannot be built, and defaults."""
    builder = logging.getLogger("torch.utils.cpp_extension")
    before = builder.level
    builder.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        builder.setLevel(before)


@contextmanager
def peft_adapter(module: nn.Module, config: PeftConfig, *, seed: int = 0) -> Iterator[BaseTuner]:
    """Within, an adapter lies on layers of `module`, with the weights that `seed` begins it with.

    Raises what peft raises for a configuration that does not fit.
    """
    kind: Any = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    with leaving_nothing([module]) as stack:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tuner = kind(module, config, NAME)
        stack.callback(tuner.unload)
        module.eval()  # what was laid on, too
        yield tuner
