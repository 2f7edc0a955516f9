"""The modules' own work in anything that is done: their outermost calls, recorded and done again.

with recorded([unet, vae]) as calls:
    backbone.sample(condition, seeds)
for call in calls:
    call()                      # the U-Net's passes and the decoding, and nothing else
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True, eq=False)
class Call:
    """A module and what it was called with: tensors that lie ready."""

    module: nn.Module
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.module(*self.arguments, **self.options)

    def tensor(self) -> Tensor:
        """What the module gives, or the first of several."""
        given = self()
        return given if isinstance(given, Tensor) else given[0]

    @property
    def rows(self) -> int:
        """How many rows it was called with: the length of its first tensor."""
        given = tree_leaves((self.arguments, self.options))
        return len(next(leaf for leaf in given if isinstance(leaf, Tensor)))


@contextmanager
def recorded(
    modules: Iterable[nn.Module], *, when: Callable[[], bool] = lambda: True
) -> Iterator[list[Call]]:
    """Within, each call of one of `modules`, or of a part that is called by itself, is listed.

    Calls that are made while `when` is false are not. The tensors are the calls' own, without the
    graph that made them; those that wanted a gradient still do.
    """
    calls: list[Call] = []
    inside: list[nn.Module] = []

    def enter(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not inside and when():
            calls.append(Call(module, tree_map(_ready, arguments), tree_map(_ready, options)))
        inside.append(module)

    def leave(_module: nn.Module, _arguments: object, _given: object) -> None:
        inside.pop()

    handles = []
    for part in {part for module in modules for part in module.modules()}:
        handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.register_forward_hook(leave, always_call=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _ready(thing: Any) -> Any:
    if not isinstance(thing, Tensor):
        return thing
    return thing.detach().requires_grad_(thing.requires_grad)
