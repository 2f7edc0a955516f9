"""How much memory tensors take as a program goes along, by torch's dispatcher: real ones, or fake.

    memory = LiveMemory()
    with memory:
        memory.take_note(model.parameters())
        model(images).sum().backward()
    memory.peak                                 # bytes

With `no_numbers()` around it the program takes no memory and hardly any time: torch's fake tensors
have a shape, a type and a storage that is empty. What is read off them is made up.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

#: bitsandbytes keeps moments of fewer weights than this in float32 ...
_FEW = 4096
#: ... and of others a float32 scale for so many.
_BLOCK = 256


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of storages from when an operation gives them until nobody holds them.

    What was there before is not counted unless it is told of. Each storage counts once, whoever
    shares it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0  #: bytes
        self.peak = 0  #: the most since `begin`
        self._sizes: dict[int, int] = {}
        self._references: dict[int, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.take_note(tensor for tensor in tree_iter(result) if isinstance(tensor, Tensor))
        return result

    def take_note(self, tensors: Iterable[Tensor]) -> None:
        """Count these too."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self._references[key] = weakref.ref(storage, partial(self._gone, key))
                self._add(self._sizes[key])

    def begin(self) -> None:
        """Forget the peak."""
        self.peak = self.now

    @contextmanager
    def without(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Within, `tensors` lie elsewhere."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        size = sum(self._sizes.get(key, 0) for key in keys)
        self.now -= size
        try:
            yield
        finally:
            self._add(size)

    def _gone(self, key: int, _reference: Any) -> None:
        self.now -= self._sizes.pop(key)
        del self._references[key]

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class _MadeUp(TorchDispatchMode):
    """What a program reads off a tensor that has no numbers: True, 0, 1.0; found in one place."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        try:
            return function(*args, **(kwargs or {}))
        except DataDependentOutputException:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 0
        except DynamicOutputShapeException:
            if function is not torch.ops.aten.nonzero.default:
                raise
            return torch.zeros(1, args[0].ndim, dtype=torch.int64)


@contextmanager
def _made_up_arrays() -> Iterator[None]:
    """Within, a fake tensor as an array of numpy's is all ones: schedulers compute with those."""
    kept = {name: FakeTensor.__dict__.get(name) for name in ("numpy", "__array__")}

    def ones(tensor: Tensor, *_: Any, **__: Any) -> np.ndarray:
        return np.ones(tensor.shape, np.float32 if tensor.is_floating_point() else np.int64)

    for name in kept:
        setattr(FakeTensor, name, ones)
    try:
        yield
    finally:
        for name, function in kept.items():
            if function is None:
                delattr(FakeTensor, name)
            else:
                setattr(FakeTensor, name, function)


@contextmanager
def _moved_by_data() -> Iterator[None]:
    """Within, `Module.to` gives a parameter other data, as on a GPU.

    It would change fake tensors for others, which what keeps weak references to them forbids.
    """

    def put(place: Tensor, moved: Tensor) -> None:
        place.data = moved.detach()

    kept = torch.utils.swap_tensors
    torch.utils.swap_tensors = put
    try:
        yield
    finally:
        torch.utils.swap_tensors = kept


#: What autocast computes in float32 on CUDA, and in half precision on a CPU. F.softmax, too, is
#: the tensor's.
_FLOAT32 = ((F, "group_norm"), (F, "layer_norm"), (Tensor, "softmax"))


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Within, attention is fused, and autocast leaves norms and softmax in float32.

    torch's functions are replaced, and not asked by a mode: it takes those off where a backward
    pass computes activations again.
    """
    replaced = [(place, name, _in_float32(getattr(place, name))) for place, name in _FLOAT32]
    replaced.append((F, "scaled_dot_product_attention", _fused_attention))
    kept = [getattr(place, name) for place, name, _ in replaced]
    for place, name, function in replaced:
        setattr(place, name, function)
    try:
        yield
    finally:
        for (place, name, _), function in zip(replaced, kept, strict=True):
            setattr(place, name, function)


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def computed(*args: Any, **how: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return function(*args, **how)
        floats = [one.float() if isinstance(one, Tensor) else one for one in args]
        with torch.autocast("cpu", enabled=False):
            return function(*floats, **how)

    return computed


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Of the shape of `F.scaled_dot_product_attention`, by the kernel that takes every type."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]
    return attended


@contextmanager
def no_numbers(memory: LiveMemory) -> Iterator[None]:
    """Within, all tensors are fake, counted by `memory`, and treated as on a CUDA GPU.

    They are a CPU's all the same: torch's backward pass asks a GPU's driver for its streams. And
    bitsandbytes is a stand-in that takes as much memory as its AdamW8bit.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))  # of fake tensors
        stack.enter_context(stand_in())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_MadeUp())
        stack.enter_context(_made_up_arrays())
        stack.enter_context(_moved_by_data())
        stack.enter_context(_as_on_cuda())
        stack.enter_context(memory)
        yield


class AdamW8bit(Optimizer):
    """bitsandbytes' AdamW8bit as far as its memory goes. It learns nothing."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the moments of weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and not self.state[weight]:
                    self.state[weight] = {"moments": [_moment(weight) for _ in range(2)]}


def _moment(weight: Tensor) -> Sequence[Tensor]:
    if weight.numel() < _FEW:
        return [torch.zeros_like(weight, dtype=torch.float32)]
    scales = weight.new_zeros(-(-weight.numel() // _BLOCK), dtype=torch.float32)
    return [torch.zeros_like(weight, dtype=torch.uint8), scales]


@contextmanager
def stand_in() -> Iterator[None]:
    """Within, `bitsandbytes.optim` is a module of ours that has `AdamW8bit` above, no more.

    bitsandbytes itself is there if it was before: other libraries ask for it, once and for good.
    """
    name = "bitsandbytes.optim"
    with suppress(ImportError):  # it imports that part
        import_module("bitsandbytes")
    part = ModuleType(name)
    part.AdamW8bit = AdamW8bit  # type: ignore[attr-defined]
    before = sys.modules.get(name)
    sys.modules[name] = part
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
