"""Attention maps of one image in the place of others' (Prompt-to-Prompt: Hertz et al., 2208.01626).

    control = Control(places, cross_steps=40, self_steps=20)
    with controlled(unet, control):
        ...                                         # control.step += 1 after each step

The last rows of the U-Net's batch are the source and then its edits. Those before, which guidance
leads away from, keep their own maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

#: Self-attention among more places than these stays the edit's own, as in the authors' code.
MOST_PLACES = 32**2


class Processor(Protocol):
    """How diffusers computes an attention layer."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor: ...


@dataclass
class Control:
    """What the source's maps replace, and until when."""

    #: For each edit, the place of each of its tokens among the source's; None: it is new.
    places: Sequence[Sequence[int | None]]
    cross_steps: int  #: so many steps, from the first, have the source's cross-attention
    self_steps: int  #: the same of self-attention
    step: int = 0  #: of the sampler, from 0

    def replaces(self, crossing: bool, places: int) -> bool:
        """Whether it does now, in a layer of so many places; `crossing`: that reads the text."""
        if crossing:
            return self.step < self.cross_steps
        return self.step < self.self_steps and places <= MOST_PLACES

    def replaced(self, maps: Tensor, crossing: bool) -> Tensor:
        """`maps`, (rows, heads, places, tokens or places), the last of them with the source's."""
        edits = len(self.places)
        others, source, own = maps.split([len(maps) - edits - 1, 1, edits])
        theirs = source.expand_as(own)
        if crossing:
            columns = [[place or 0 for place in row] for row in self.places]
            shared = [[place is not None for place in row] for row in self.places]
            theirs = theirs.gather(-1, _by_token(columns, own).expand_as(own))
            theirs = torch.where(_by_token(shared, own), theirs, own)
        return torch.cat([others, source, theirs])


def _by_token(values: Sequence[Sequence[int]], maps: Tensor) -> Tensor:
    """(edits, 1, 1, tokens), on the device of `maps`."""
    return torch.tensor(values, device=maps.device)[:, None, None, :]


@dataclass
class Replacing:
    """An attention processor of diffusers: the `usual` one, but for the maps."""

    usual: Processor
    control: Control

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        crossing = encoder_hidden_states is not None
        if not self.control.replaces(crossing, hidden_states.shape[1]):
            return self.usual(attn, hidden_states, encoder_hidden_states, attention_mask, **more)
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(projected)
            for projected in (attn.to_q(hidden_states), attn.to_k(read), attn.to_v(read))
        )
        maps = attn.get_attention_scores(query, key, attention_mask)
        by_row = maps.unflatten(0, (len(hidden_states), attn.heads))
        maps = self.control.replaced(by_row, crossing).flatten(0, 1)
        hidden: Tensor = attn.batch_to_head_dim(torch.bmm(maps, value))
        for layer in attn.to_out:
            hidden = layer(hidden)
        return hidden


@contextmanager
def controlled(unet: UNet2DConditionModel, control: Control) -> Iterator[None]:
    """Within, the attention layers of `unet` heed `control`."""
    usual: dict[str, Processor] = unet.attn_processors
    unet.set_attn_processor({name: Replacing(one, control) for name, one in usual.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(dict(usual))
