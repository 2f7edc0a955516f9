"""A LatentDiffusion of pipeline, parts and readers: what all families on latents have in common."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline

from benchmark.api import EDITING
from benchmark.models.backbones.editing import EditingDiffusion
from benchmark.models.backbones.latent_diffusion import LatentDiffusion, Read, denoiser_of
from benchmark.models.backbones.latent_stage import PLAIN, Calls
from benchmark.models.diffusion.noising import process_of
from benchmark.models.files.checkpoints import Parts
from benchmark.models.loading import Wanted
from benchmark.models.resolution import drawn_size
from benchmark.models.texts.text_reader import TextReader


def assemble(
    pipeline: DiffusionPipeline,
    read: Read,
    parts: Parts,
    wanted: Wanted,
    *,
    calls: Calls = PLAIN,
    decoding: str = "",
) -> LatentDiffusion:
    """The backbone that draws by `pipeline`, made of `parts`, from texts that `read` reads.

    `decoding`: the VAE's precision when it decodes; by default that of the others.
    """
    pipeline.set_progress_bar_config(disable=True)
    family = parts.family
    kind = EditingDiffusion if EDITING in family.capabilities else LatentDiffusion
    return kind(
        id=wanted.id,
        pipeline=pipeline,
        process=process_of(pipeline.scheduler, family.timesteps),
        readers=tuple(
            TextReader(
                name,
                parts.tokenizers[words],
                parts.modules[name],
                wanted.id,
                learns=name in family.learners,
            )
            for name, words in family.texts.items()
        ),
        read=read,
        resolution=size_of(pipeline, parts, wanted),
        device=torch.device(wanted.device),
        precision=wanted.precision,
        sampler=wanted.sampler,
        scheduler=parts.scheduler,
        calls=calls,
        decoding=decoding,
        stored_weights=parts.stored,
    )


def size_of(pipeline: DiffusionPipeline, parts: Parts, wanted: Wanted) -> int:
    """Height and width of its images in pixels, as wanted, else its own. Raises UserError."""
    part, denoiser = denoiser_of(pipeline)
    configuration = {**denoiser.config, **parts.family.drawing}
    return drawn_size(wanted.resolution, configuration, pipeline.vae.config, part=part)
