"""What a tensor was like: its bits, its storage, whether it wants a gradient; put back later."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether both have the same shape, type and bits, on whatever devices: NaN equals itself."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    a, b = a.detach(), b.detach().to(a.device)
    if a.layout != torch.strided or a.is_quantized:
        return torch.equal(a, b)
    whole = _INTEGERS.get(a.element_size(), torch.int64)
    return torch.equal(a.reshape(-1).view(whole), b.reshape(-1).view(whole))


@dataclass(eq=False)
class TensorState:
    """A tensor, and a copy of its content on the CPU, in full or as its file stores it."""

    tensor: Tensor
    content: Tensor
    storage: Tensor  #: the tensor's own, kept so that it can be given back
    wants_gradient: bool

    @classmethod
    def of(cls, tensor: Tensor, stored: Tensor | None) -> TensorState:
        """`stored`, where it is given, has the content already, perhaps as another type."""
        content = tensor.detach().to("cpu", copy=True) if stored is None else stored
        return cls(tensor, content, tensor.detach(), tensor.requires_grad)

    @torch.no_grad()
    def put_back(self) -> bool:
        """Put everything back; whether it is as it was.

        What has not changed is not written to.
        """
        tensor = self.tensor
        try:
            if tensor.data_ptr() != self.storage.data_ptr() or not _alike(tensor, self.storage):
                tensor.data = self.storage
            content = self.content.to(tensor.device).to(tensor.dtype)
            if not same_bits(tensor, content):
                tensor.copy_(content)
            tensor.grad = None
            if tensor.requires_grad != self.wants_gradient:
                tensor.requires_grad_(self.wants_gradient)
            return same_bits(tensor, content)
        except RuntimeError:  # torch's word for a tensor that cannot take these back
            return False

    def take_hooks(self) -> bool:
        """Take hooks off; whether there were any. There were none when it was recorded."""
        found = False
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            hooks = getattr(self.tensor, name, None)
            if hooks:
                hooks.clear()
                found = True
        return found


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device, a.layout) == (b.shape, b.dtype, b.device, b.layout) and (
        a.layout != torch.strided or a.stride() == b.stride()
    )
