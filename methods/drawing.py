"""What methods share when they draw: the requests' texts encoded once, then sampled in order.

draw(backbone, ["a sks dog in the snow"], requests)       # (1, 3, height, width)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.api import Backbone, Edit, Request, Start, Weights, Word
from benchmark.models.aside import aside


def draw(
    backbone: Backbone,
    texts: Sequence[str],
    requests: Sequence[Request],
    *,
    words: Sequence[Word] = (),
    start: Start | Edit | None = None,
    narrow: bool = False,
) -> Tensor:
    """An image for each text, from its request's noise: (n, 3, height, width) in [0, 1].

    `start`: what it begins with beside noise, where the backbone is IMAGE_TO_IMAGE or EDITING.
    `narrow`: the denoiser's frozen weights lie in the precision that is computed with.
    """
    begun: dict[str, Any] = {} if start is None else {"start": start}
    rows = {text: row for row, text in enumerate(dict.fromkeys(["", *texts]))}
    with torch.no_grad():
        table = backbone.encode(list(rows), words=words)
    with aside(backbone, narrow=narrow):
        return backbone.sample(
            table[[rows[text] for text in texts]],
            [request.noise_seed for request in requests],
            unconditional=table[[0]],
            **begun,
        )


@torch.no_grad()
def put_in_place(weights: Weights, live: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the `live` tensors of the same names, unless they are these.

    Raises ValueError if the names differ: the weights were learned on another model.
    """
    if weights.keys() != live.keys():
        odd = min(weights.keys() ^ live.keys())
        raise ValueError(f"these weights are not of this model and method: '{odd}' is in one alone")
    for name, place in live.items():
        if place.data_ptr() != weights[name].data_ptr():
            place.copy_(weights[name])
