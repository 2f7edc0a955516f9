"""Stable Diffusion 1 and 2: the U-Net reads one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import StableDiffusionPipeline

from benchmark.models.backbones.assembly import assemble
from benchmark.models.backbones.latent_diffusion import LatentDiffusion, forward_process
from benchmark.models.files.checkpoints import Parts
from benchmark.models.loading import Wanted
from benchmark.models.texts.text_reader import EncodedTexts, TextReader


def read(readers: Sequence[TextReader], texts: Sequence[str]) -> EncodedTexts:
    """The text encoder's last hidden states."""
    [reader] = readers
    return EncodedTexts(reader.encoder(reader.ids(texts))[0].float())


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
