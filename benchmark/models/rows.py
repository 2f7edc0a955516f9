"""Dataclasses of tensors as rows: what a backbone hands to methods, who take rows and join them.

@dataclass(frozen=True, eq=False)
class Texts(TensorRows):
    embeddings: Tensor  # (n, length, width)

Texts(a).join(Texts(b))[[0, 2]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TensorRows:
    """n rows: every field is a tensor of n rows. Raises ValueError if they are not as many."""

    def __post_init__(self) -> None:
        sizes = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"{type(self).__name__} has fields of different numbers of rows: {sizes}"
            )

    def __len__(self) -> int:
        return len(self._tensors()[0])

    def __getitem__(self, rows: Sequence[int] | slice) -> Self:
        chosen = rows if isinstance(rows, slice) else list(rows)  # a tuple would index dimensions
        return type(self)(*(tensor[chosen] for tensor in self._tensors()))

    def join(self, *others: Self) -> Self:
        """These rows, then those of `others`."""
        columns = zip(*(rows._tensors() for rows in (self, *others)), strict=True)
        return type(self)(*map(torch.cat, columns))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]
