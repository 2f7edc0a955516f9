"""Weights that are not needed for a while lie in main memory, and their GPU's memory is free.

with aside(backbone, [stage.denoiser]):         # no text encoder, no VAE: a training's steps
    ...
with aside(backbone, narrow=True):              # no text encoder; a denoiser of half the size
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from benchmark.api import Backbone
from benchmark.models.precision import PRECISIONS

#: Tensors -> a context within which they take no memory of the GPU.
Elsewhere = Callable[[Sequence[Tensor]], AbstractContextManager[None]]

#: Layers whose weights autocast takes in its precision, whatever they lie in.
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def aside(
    backbone: Backbone, used: Sequence[nn.Module] | None = None, *, narrow: bool = False
) -> AbstractContextManager[None]:
    """As `Backbone.set_aside`; nothing, where a backbone has none."""
    set_aside = getattr(backbone, "set_aside", None)
    return nullcontext() if set_aside is None else set_aside(used, narrow=narrow)


@contextmanager
def emptied(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within, those of `tensors` that lie on a GPU take none of it, and cannot be computed with.

    Their storages are emptied and filled again, so that whoever holds a tensor of them (a loan)
    holds the same one afterwards. Tensors on a CPU are left alone.
    """
    tensors = [tensor.detach() for tensor in tensors if _on_a_gpu(tensor)]
    contents = [tensor.to("cpu", copy=True) for tensor in tensors]
    storages = _storages(tensors)
    sizes = [storage.nbytes() for storage in storages]
    for storage in storages:
        storage.resize_(0)
    try:
        yield
    finally:
        for storage, size in zip(storages, sizes, strict=True):
            storage.resize_(size)
        for tensor, content in zip(tensors, contents, strict=True):
            tensor.copy_(content)


@contextmanager
def put_aside(
    backbone: Any,
    used: Sequence[nn.Module] | None = None,
    *,
    narrow: bool = False,
    elsewhere: Elsewhere = emptied,
) -> Iterator[None]:
    """`Backbone.set_aside` for whoever has diffusers' modules."""
    away = unused(backbone.modules(), used, backbone.text_encoders)
    with elsewhere([tensor for module in away for tensor in _tensors(module)]):
        if not narrow:
            yield
            return
        denoisers = [stage.denoiser for stage in backbone.stages]
        kept = [one for one in denoisers if not any(one is other for other in away)]
        dtype = getattr(torch, PRECISIONS[backbone.precision])
        with nullcontext() if dtype == torch.float32 else narrowed(kept, dtype, elsewhere):
            yield


def unused(
    modules: Mapping[str, nn.Module],
    used: Sequence[nn.Module] | None,
    text_encoders: Mapping[str, nn.Module],
) -> list[nn.Module]:
    """Those of a backbone's `modules` that are not `used`; None: its text encoders."""
    if used is None:
        return [*text_encoders.values()]
    return [module for module in modules.values() if not any(module is one for one in used)]


@contextmanager
def narrowed(
    modules: Iterable[nn.Module], dtype: torch.dtype, elsewhere: Elsewhere = emptied
) -> Iterator[None]:
    """Within, the weights of layers of `modules` that want no gradient lie in `dtype`.

    Autocast to `dtype` makes the same of them at each use, so that no layer's output changes. They
    are the very tensors of before afterwards. The first weight of each module stays as it is: in
    its type diffusers' pipelines keep texts and images.
    """
    with ExitStack() as stack:
        for weight in [weight for module in modules for weight in _narrowable(module)]:
            stack.enter_context(_narrow(weight, dtype, elsewhere))
        yield


@contextmanager
def _narrow(weight: nn.Parameter, dtype: torch.dtype, elsewhere: Elsewhere) -> Iterator[None]:
    wide = weight.data
    weight.data = wide.to(dtype)
    try:
        with elsewhere([wide]):
            yield
    finally:
        weight.data = wide


def _narrowable(module: nn.Module) -> list[nn.Parameter]:
    first = next(module.parameters())
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    weights = [weight for layer in layers for weight in layer.parameters(recurse=False)]
    frozen = [one for one in dict.fromkeys(weights) if not one.requires_grad]
    return [one for one in frozen if one is not first and one.dtype == torch.float32]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Its parameters and buffers."""
    for tensor in (*module.parameters(), *module.buffers()):
        yield tensor.detach()


def _on_a_gpu(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _storages(tensors: Iterable[Tensor]) -> list[UntypedStorage]:
    """Each once, though several tensors may share it."""
    found = {storage._cdata: storage for storage in (one.untyped_storage() for one in tensors)}
    return [*found.values()]
