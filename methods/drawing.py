"""What methods share when they draw: the requests' texts encoded once, then sampled in order.

draw(backbone, ["a sks dog in the snow"], requests)       # (1, 3, height, width)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from benchmark.api import PRIOR, Backbone, Request, Weights, Word
from benchmark.models.memory.aside import aside


def draw(
    backbone: Backbone,
    texts: Sequence[str],
    requests: Sequence[Request],
    *,
    words: Sequence[Word] = (),
    beside: Mapping[str, Any] = MappingProxyType({}),
    narrow: bool = False,
) -> Tensor:
    """An image for each text, from its request's noise: (n, 3, height, width) in [0, 1].

    `beside`: what else a capability of the backbone has `sample` take, such as a `start`.
    `narrow`: the denoiser's frozen weights lie in the precision that is computed with.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(["", *texts]))}
    with torch.no_grad():
        table = backbone.encode(list(rows), words=words)
    with aside(backbone, narrow=narrow):
        return backbone.sample(
            table[[rows[text] for text in texts]],
            [request.noise_seed for request in requests],
            unconditional=table[[0]],
            **beside,
        )


def draw_apart(
    backbone: Backbone,
    texts: Sequence[str],
    requests: Sequence[Request],
    beside: Callable[[int], Mapping[str, Any]],
) -> Tensor:
    """As `draw`; images of the prior prompt with nothing beside the text.

    `beside` is asked for that of so many images.
    """
    drawn = dict[int, Tensor]()
    for prior in (False, True):
        rows = [n for n, request in enumerate(requests) if (request.prompt.kind == PRIOR) == prior]
        if rows:
            chosen = [requests[n] for n in rows]
            more = {} if prior else beside(len(rows))
            images = draw(backbone, [texts[n] for n in rows], chosen, beside=more)
            drawn |= dict(zip(rows, images, strict=True))
    return torch.stack([drawn[n] for n in range(len(requests))])


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
