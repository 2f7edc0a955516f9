"""What drawing begins with in place of pure noise: checks, and diffusers' pipelines for it.

pipeline = beginning_with_latents(pipeline)
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from benchmark.api import EDITING, Sampler, Start, UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def check_start(start: Start, texts: int, sampler: Sampler) -> None:
    """Raise UserError if it has no whole step, and ValueError unless there is an image a text.

    And UserError for an edit, or anything else that is no `Start`.
    """
    if not isinstance(start, Start):
        kind = type(start).__name__
        raise UserError(
            f"start is of the kind {kind}, and this model begins with a Start or with noise alone: "
            f"a method that needs '{EDITING}' says so in its `needs`"
        )
    if len(start.clean) != texts:
        raise ValueError(f"{texts} texts, but {len(start.clean)} images to start from")
    if int(sampler.steps * start.strength) < 1:
        raise UserError(
            f"strength is {start.strength:g}, which of {sampler.steps} steps is not one: it should "
            f"be at least {1 / sampler.steps:.3g}"
        )


def beginning_with_latents(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline of these parts that begins with `image`, and takes latents for that."""
    from diffusers import AutoPipelineForImage2Image  # it imports some forty pipelines

    found = AutoPipelineForImage2Image.from_pipe(pipeline)
    found.set_progress_bar_config(disable=True)
    if hasattr(found, "unet"):  # these take nothing but four channels for latents

        def noised(  # as the pipeline calls it
            image: Tensor,
            timestep: Tensor,
            batch_size: int,
            num_images_per_prompt: int,
            dtype: torch.dtype,
            device: torch.device,
            generator: list[Generator],
            *_: Any,
        ) -> Tensor:
            noise = randn_tensor(image.shape, generator=generator, device=device, dtype=dtype)
            latents: Tensor = found.scheduler.add_noise(image.to(device, dtype), noise, timestep)
            return latents

        found.image_processor = AsTheyAre()
        found.prepare_latents = noised
    return found


class AsTheyAre(VaeImageProcessor):
    """Leaves latents what they are."""

    def preprocess(self, image: Tensor, *_: Any, **__: Any) -> Tensor:
        return image


def takes(pipeline: DiffusionPipeline, name: str) -> bool:
    """Whether a call of `pipeline` has this parameter."""
    return name in signature(type(pipeline).__call__).parameters
