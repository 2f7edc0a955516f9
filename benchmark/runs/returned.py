"""What a method's `fit` and `generate` return, checked here so that an error names the method.

weights = checked_weights("my_method:METHOD", method.fit(subject, backbone, tools))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.api import Weights
from benchmark.data.images import as_pixels


def checked_weights(method: str, returned: Any) -> Weights:
    """What `fit` returned. Raises TypeError unless it is a mapping of names to tensors."""
    from torch import Tensor

    wanted = f"fit of '{method}' must return a mapping of names to tensors"
    if not isinstance(returned, Mapping):
        raise TypeError(f"{wanted}, and it returned {_kind(returned)}")
    for name, value in returned.items():
        if not isinstance(name, str):
            raise TypeError(f"{wanted}, and one name is {name!r:.80}, {_kind(name)}")
        if not isinstance(value, Tensor):
            raise TypeError(f"{wanted}, and for '{name:.80}' it returned {_kind(value)}")
    return returned


def drawn_pixels(method: str, returned: Any, count: int) -> list[np.ndarray]:
    """What `generate` returned for `count` requests, as `as_pixels` has it. Raises ValueError."""
    wanted = f"generate of '{method}' must return {count} images"
    try:
        images = as_pixels(returned)
    except ValueError as error:
        raise ValueError(f"{wanted}: {error}") from error
    if len(images) != count:
        raise ValueError(f"{wanted}: {count} images were asked for, {len(images)} came")
    return images


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
