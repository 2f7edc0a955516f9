"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer that is taught by flow matching.

It reads a text as two CLIP text encoders give it, side by side, and then as T5 does; and the pooled
texts of both CLIPs. T5 reads 256 tokens, in training as in drawing: the default of diffusers'
pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor
from torch.nn.functional import pad

from benchmark.models.backbones.assembly import assemble
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.files.checkpoints import Parts
from benchmark.models.loading import Wanted
from benchmark.models.rows import TensorRows
from benchmark.models.texts.text_reader import TextReader
from benchmark.models.texts.text_states import clip_states, t5_states


@dataclass(frozen=True, eq=False)
class JointTexts(TensorRows):
    """The condition: n texts as the transformer reads them."""

    embeddings: Tensor  #: (n, CLIP's length and T5's, T5's width) float32
    pooled: Tensor  #: (n, the widths of both CLIPs) float32: each text as one vector

    def for_denoiser(self) -> dict[str, Any]:
        return {"encoder_hidden_states": self.embeddings, "pooled_projections": self.pooled}

    def for_pipeline(self) -> dict[str, Tensor]:
        return {"prompt_embeds": self.embeddings, "pooled_prompt_embeds": self.pooled}


def read(readers: Sequence[TextReader], texts: Sequence[str]) -> JointTexts:
    """CLIP's last but one hidden states, filled up with zeros to T5's width, then T5's last."""
    *clips, t5 = readers
    states, pooled = zip(*(clip_states(reader, texts) for reader in clips), strict=True)
    first, second = torch.cat(states, dim=-1).float(), t5_states(t5, texts).float()
    first = pad(first, (0, second.shape[-1] - first.shape[-1]))
    return JointTexts(torch.cat([first, second], dim=1), torch.cat(pooled, dim=-1).float())


def build(parts: Parts, wanted: Wanted) -> LatentDiffusion:
    """The model of these parts, in diffusers' pipeline."""
    pipeline = StableDiffusion3Pipeline(
        **parts.modules,
        **parts.tokenizers,
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler),
    )
    return assemble(pipeline, read, parts, wanted)
