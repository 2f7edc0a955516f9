"""Stable Diffusion 1 and 2: the U-Net reads one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor

from benchmark.models.checkpoints import Parts
from benchmark.models.clip_reader import ClipReader
from benchmark.models.latent_diffusion import LatentDiffusion, assemble, forward_process
from benchmark.models.loading import Wanted
from benchmark.models.rows import TensorRows


@dataclass(frozen=True, eq=False)
class Texts(TensorRows):
    """The condition: n texts as the U-Net reads them."""

    embeddings: Tensor  #: (n, length, width) float32

    def for_denoiser(self) -> dict[str, Any]:
        return {"encoder_hidden_states": self.embeddings}

    def for_pipeline(self) -> dict[str, Tensor]:
        return {"prompt_embeds": self.embeddings}


def read(readers: Sequence[ClipReader], texts: Sequence[str]) -> Texts:
    """The text encoder's last hidden states."""
    [reader] = readers
    return Texts(reader.encoder(reader.ids(texts))[0].float())


def build(parts: Parts, wanted: Wanted) -> LatentDiffusion:
    """The model of these parts, in diffusers' pipeline."""
    pipeline = StableDiffusionPipeline(
        **parts.modules,
        **parts.tokenizers,
        scheduler=forward_process(parts, wanted.device),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return assemble(pipeline, read, parts, wanted)
