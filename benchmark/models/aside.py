"""Weights that are not needed for a while lie in main memory, and their GPU's memory is free.

with aside(backbone, [stage.denoiser]):         # no text encoder, no VAE: a training's steps
    ...
with aside(backbone):                           # no text encoder: images are drawn
    ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, UntypedStorage, nn

from benchmark.api import Backbone


def aside(
    backbone: Backbone, used: Sequence[nn.Module] | None = None
) -> AbstractContextManager[None]:
    """As `Backbone.set_aside`; nothing, where a backbone has none."""
    set_aside = getattr(backbone, "set_aside", None)
    return nullcontext() if set_aside is None else set_aside(used)


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
def emptied(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within, the tensors of `modules` keep no memory of a GPU, and cannot be computed with.

    Their storages are emptied and filled again, so that whoever holds a tensor of them (a loan)
    holds the same one afterwards. Tensors on a CPU are left alone.
    """
    tensors = [tensor for module in modules for tensor in _tensors(module)]
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


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Its parameters and buffers that lie on a GPU."""
    for tensor in (*module.parameters(), *module.buffers()):
        if _on_a_gpu(tensor):
            yield tensor.detach()


def _on_a_gpu(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _storages(tensors: Iterable[Tensor]) -> list[UntypedStorage]:
    """Each once, though several tensors may share it."""
    found = {storage._cdata: storage for storage in (one.untyped_storage() for one in tensors)}
    return [*found.values()]
