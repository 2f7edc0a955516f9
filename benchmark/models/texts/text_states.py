"""What text encoders make of texts: what the families that read by more than one of them share.

states, pooled = clip_states(reader, ["a dog"])         # (1, 77, 768), (1, 768)
states = t5_states(reader, ["a dog"])                   # (1, 256, 4096)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from benchmark.models.precision import autocast
from benchmark.models.texts.text_reader import TextReader


def clip_states(reader: TextReader, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(n, length, width) the last but one hidden states; and what the text encoder makes of them.

    Taken by a hook of our own: those of transformers stay on the model.
    """
    found: list[Tensor] = []

    def take(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])

    layers = [part for part in reader.encoder.modules() if isinstance(part, CLIPEncoderLayer)]
    handle = layers[-1].register_forward_pre_hook(take)
    try:
        made = reader.encoder(reader.ids(texts))[0]
    finally:
        handle.remove()
    [states] = found
    return states, made


def t5_states(reader: TextReader, texts: Sequence[str]) -> Tensor:
    """(n, length, width) its last hidden states, of the padding too, as diffusers' pipelines.

    Its numbers are too large for float16; there it reads in float32.
    """
    ids = reader.ids(texts)
    kind = ids.device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16:
        with autocast(ids.device, "fp32"):
            states: Tensor = reader.encoder(ids)[0]
    else:
        states = reader.encoder(ids)[0]
    return states
