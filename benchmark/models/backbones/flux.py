"""FLUX.1 (Black Forest Labs 2024): a transformer of packed latents, taught by flow matching.

It reads a text as T5 does, 512 tokens of it, and is told CLIP's pooled text. The one called dev was
taught to draw as if guided, and is told how strongly; schnell was taught to draw in few steps, is
told no guidance, and reads 256 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor, nn

from benchmark.api import EMBEDDED_GUIDANCE, TRUE_GUIDANCE, Sampler
from benchmark.models.backbones.assembly import assemble
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.backbones.latent_stage import LatentCondition
from benchmark.models.diffusion.sampling import check_guidance
from benchmark.models.files.checkpoints import Parts
from benchmark.models.loading import Wanted
from benchmark.models.rows import TensorRows
from benchmark.models.texts.text_reader import TextReader
from benchmark.models.texts.text_states import t5_states

#: What a model that is told its guidance is told in training: the default of diffusers'
#: train_dreambooth_flux.py, and of its pipeline in drawing.
GUIDANCE = 3.5
PACK = 2  #: so many places of latents, in height and in width, are one of the transformer's


@dataclass(frozen=True, eq=False)
class PooledTexts(TensorRows):
    """The condition: n texts as the transformer reads them."""

    embeddings: Tensor  #: (n, T5's length, T5's width) float32
    pooled: Tensor  #: (n, CLIP's width) float32: each text as one vector

    def for_denoiser(self) -> dict[str, Any]:
        """With the places of the tokens, which are all the same one."""
        places = torch.zeros(self.embeddings.shape[1], 3, device=self.embeddings.device)
        return {
            "encoder_hidden_states": self.embeddings,
            "pooled_projections": self.pooled,
            "txt_ids": places,
        }

    def for_pipeline(self) -> dict[str, Tensor]:
        return {"prompt_embeds": self.embeddings, "pooled_prompt_embeds": self.pooled}


def read(readers: Sequence[TextReader], texts: Sequence[str]) -> PooledTexts:
    """T5's last hidden states, and CLIP's at the end of the text."""
    clip, t5 = readers
    pooled = clip.encoder(clip.ids(texts)).pooler_output
    return PooledTexts(t5_states(t5, texts).float(), pooled.float())


@dataclass(frozen=True)
class PackedCalls:
    """2 x 2 places of latents are one of the transformer's, whose row and column it is told."""

    told: float | None  #: the guidance in training; None: the model is told none

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        condition: LatentCondition,
    ) -> Tensor:
        """The transformer takes the share of noise where others take a timestep."""
        told = None if self.told is None else torch.full_like(timesteps, self.told)
        predicted = denoiser(
            packed(noisy),
            timestep=timesteps / 1000,
            guidance=told,
            img_ids=places(noisy),
            **condition.for_denoiser(),
            return_dict=False,
        )[0]
        return self.unpacked(predicted, noisy.shape[-1])

    def guidance(self, sampler: Sampler) -> dict[str, float]:
        """The one that is told, which the pipeline drops where none is, and the second pass's."""
        told = frozenset() if self.told is None else frozenset({EMBEDDED_GUIDANCE})
        check_guidance(sampler, told | {TRUE_GUIDANCE})
        return {
            "guidance_scale": sampler.guidance,
            "true_cfg_scale": sampler.true_guidance or 1.0,
        }

    def guided(self, sampler: Sampler) -> bool:
        return sampler.true_guidance is not None

    def unpacked(self, latents: Tensor, side: int) -> Tensor:
        n, _, channels = latents.shape
        half = side // PACK
        parted = latents.view(n, half, half, channels // PACK**2, PACK, PACK)
        return parted.permute(0, 3, 1, 4, 2, 5).reshape(n, channels // PACK**2, side, side)

    def with_guidance(self, guidance: float) -> PackedCalls:
        if self.told is None:
            raise ValueError(f"the model is told no guidance, and was to be told {guidance}")
        return replace(self, told=guidance)


def packed(latents: Tensor) -> Tensor:
    """(n, channels, side, side) -> (n, places, 4 channels), row by row."""
    n, channels, side, _ = latents.shape
    parted = latents.view(n, channels, side // PACK, PACK, side // PACK, PACK)
    return parted.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * PACK**2)


def places(latents: Tensor) -> Tensor:
    """(places, 3): 0, row and column of each."""
    line = torch.arange(latents.shape[-1] // PACK, device=latents.device, dtype=torch.float32)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)


def build(parts: Parts, wanted: Wanted) -> LatentDiffusion:
    """The model of these parts, in diffusers' pipeline."""
    pipeline = FluxPipeline(
        **parts.modules,
        **parts.tokenizers,
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler),
    )
    told = GUIDANCE if pipeline.transformer.config.guidance_embeds else None
    return assemble(pipeline, read, parts, wanted, calls=PackedCalls(told))
