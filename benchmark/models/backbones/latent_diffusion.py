"""A denoiser of a VAE's latents as a Backbone: what the families that are drawn so share.

A family's module says how texts are read (`read`) and which of diffusers' pipelines draws.

backbone = load_backbone("pocket")                      # from benchmark.models.loading
condition = backbone.encode(["a dog in the snow"])
images = backbone.sample(condition, [7])                # (1, 3, 64, 64) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Generator, Tensor, nn

from benchmark.api import ImagePrompt, Sampler, Start, Word
from benchmark.models.assets.ip_adapter import looking_at, pipeline_embeddings
from benchmark.models.backbones.latent_stage import (
    PLAIN,
    Calls,
    LatentCondition,
    LatentStage,
    Moments,
    scaling,
    vae_batch,
)
from benchmark.models.diffusion.drawing import in_batches
from benchmark.models.diffusion.noising import Process
from benchmark.models.diffusion.sampling import build_scheduler
from benchmark.models.diffusion.starting import beginning_with_latents, check_start, takes
from benchmark.models.files.checkpoints import Parts
from benchmark.models.files.lora_files import add_lora, check_lora
from benchmark.models.finite import check_finite
from benchmark.models.memory.aside import put_aside
from benchmark.models.memory.halving import SMALLER, BatchSize
from benchmark.models.precision import autocast, float32_output
from benchmark.models.texts.text_reader import TextReader

#: Texts as the readers of a model give them to its denoiser, one row a text.
Read = Callable[[Sequence[TextReader], Sequence[str]], LatentCondition]


@dataclass(frozen=True)
class Beside:
    """What images are drawn from beside texts and noise."""

    start: Start | None
    prompt: ImagePrompt | None


@dataclass(eq=False)
class LatentDiffusion:
    """diffusers' pipeline with float32 weights, as a Backbone."""

    id: str
    pipeline: DiffusionPipeline
    process: Process  #: that of the pipeline's scheduler
    readers: Sequence[TextReader]
    read: Read
    resolution: int
    device: torch.device
    precision: str
    sampler: Sampler
    scheduler: Mapping[str, Any]  #: the model's own configuration, from which samplers are built
    calls: Calls = PLAIN
    decoding: str = ""  #: the VAE's precision when it decodes; by default that of the others
    #: The weights as they lie in the files, mapped: "unet.conv_in.weight" -> on the CPU, as stored.
    stored_weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict)
    stages: tuple[LatentStage, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        name, denoiser = denoiser_of(self.pipeline)
        self.stages = (
            LatentStage(
                name,
                self.resolution,
                denoiser,
                self.pipeline.vae,
                self.process,
                self.precision,
                self.calls,
            ),
        )

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        return {reader.name: reader.encoder for reader in self.readers}

    def modules(self) -> dict[str, nn.Module]:
        """Every module, by diffusers' names of them."""
        name, denoiser = denoiser_of(self.pipeline)
        return {name: denoiser, "vae": self.pipeline.vae, **self.text_encoders}

    @property
    def _learners(self) -> list[TextReader]:
        return [reader for reader in self.readers if reader.learns]

    def set_aside(
        self, used: Sequence[nn.Module] | None = None, *, narrow: bool = False
    ) -> AbstractContextManager[None]:
        """As `benchmark.api.Backbone` says."""
        return put_aside(self, used, narrow=narrow)

    # Texts -----------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], *, words: Sequence[Word] = ()) -> LatentCondition:
        """One row a text; the embeddings of a word's tokens are replaced, the tables left alone."""
        with ExitStack() as stack:
            for reader in self._learners:
                stack.enter_context(reader.learned(words))
            stack.enter_context(autocast(self.device, self.precision))
            return self.read(self.readers, texts)

    def new_word(self, text: str, *, init: str) -> Word:
        """`text` has to be one token of each vocabulary; of an `init` of several, the mean.

        Where not all text encoders learn words, the others read `text` as it is written.
        """
        for reader in self._learners:
            reader.token(text)
        return Word(text, {reader.name: reader.new_vector(init) for reader in self._learners})

    # Files that others trained -----------------------------------------------------------------

    def check_lora(self, file: Path) -> None:
        """As `benchmark.api.Backbone` says."""
        check_lora(self.pipeline, file)

    def add_lora(self, file: Path) -> dict[str, Tensor]:
        """As `benchmark.api.Backbone` says."""
        return add_lora(self.pipeline, file)

    # Images ----------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        condition: LatentCondition,
        seeds: Sequence[int],
        *,
        unconditional: LatentCondition | None = None,
        sampler: Sampler | None = None,
        start: Start | None = None,
        image_prompt: ImagePrompt | None = None,
    ) -> Tensor:
        """Images of diffusers' pipeline, with a CPU generator for each.

        Without guidance (of 1 or less) there is no unconditional pass. Raises UserError for latents
        and images that are not finite, for a start that is an edit or whose strength is no whole
        step, and if memory does not do for one image.
        """
        sampler = sampler or self.sampler
        blank = self.encode([""]) if unconditional is None else unconditional
        if start is not None:
            check_start(start, len(condition), sampler)

        def drawn(rows: slice) -> Tensor:
            begun = start and replace(start, clean=start.clean[rows])
            beside = Beside(begun, image_prompt)
            latents = self._latents(condition[rows], blank, seeds[rows], sampler, beside)
            return self._decode(latents)

        with looking_at(denoiser_of(self.pipeline)[1], image_prompt):
            return in_batches(len(condition), seeds, self.resolution, drawn)

    def _given(
        self,
        condition: LatentCondition,
        unconditional: LatentCondition,
        seeds: Sequence[int],
        sampler: Sampler,
    ) -> dict[str, Any]:
        """What a pipeline is called with, whatever it begins with."""
        given: dict[str, Any] = condition.for_pipeline()
        if self.calls.guided(sampler):
            blank = unconditional[[0] * len(seeds)].for_pipeline()
            given |= {f"negative_{name}": tensor for name, tensor in blank.items()}
        given |= self.calls.guidance(sampler)
        given["generator"] = [Generator().manual_seed(seed) for seed in seeds]
        given["num_inference_steps"] = sampler.steps
        return given

    def _latents(
        self,
        condition: LatentCondition,
        unconditional: LatentCondition,
        seeds: Sequence[int],
        sampler: Sampler,
        beside: Beside,
    ) -> Tensor:
        given = self._given(condition, unconditional, seeds, sampler)
        if beside.prompt is not None:
            guided = self.calls.guided(sampler)
            given["ip_adapter_image_embeds"] = pipeline_embeddings(beside.prompt, guided)
        pipeline, start = self.pipeline, beside.start
        if start is not None:
            assert isinstance(start.clean, Moments)
            pipeline = beginning_with_latents(pipeline)
            given |= {
                "image": start.clean.sample(given["generator"]),
                "strength": start.strength,
            }
        return self._called(pipeline, given, sampler)

    def _called(
        self, pipeline: DiffusionPipeline, given: dict[str, Any], sampler: Sampler
    ) -> Tensor:
        """The latents that `pipeline` draws."""
        size = {"height": self.resolution, "width": self.resolution}
        size = {name: side for name, side in size.items() if takes(pipeline, name)}
        scheduler = pipeline.scheduler
        pipeline.scheduler = build_scheduler(sampler, self.scheduler)
        try:
            _, denoiser = denoiser_of(pipeline)
            with float32_output(denoiser), autocast(self.device, self.precision):
                latents: Tensor = pipeline(**given, **size, output_type="latent").images
        finally:
            pipeline.scheduler = scheduler
        side = self.resolution // 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        latents = self.calls.unpacked(latents, side)
        check_finite(
            f"latents drawn by scheduler '{sampler.scheduler}' in {self.precision}",
            latents,
            "choose another scheduler or precision (fp32), or train more gently: learned weights "
            "may have diverged",
        )
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
        # By hand, since the pipeline would decode the whole batch at once.
        vae, precision = self.pipeline.vae, self.decoding or self.precision
        scale, shift = scaling(vae)
        scaled = latents / scale + shift

        def decoded(size: int) -> Tensor:
            chunks = scaled.split(size)
            return torch.cat([vae.decode(chunk, return_dict=False)[0] for chunk in chunks])

        with autocast(self.device, precision):
            batch = BatchSize("decoding", vae_batch(self.resolution), SMALLER)
            images = batch.halved(len(scaled), decoded)
        way_out = "choose another precision: fp32 or bf16"
        check_finite(f"the VAE's images in {precision}", images, way_out)
        return (images.float() / 2 + 0.5).clamp(0, 1)


def forward_process(parts: Parts, device: str) -> DDPMScheduler:
    """How noise is added in training: the same timesteps whatever sampler draws."""
    scheduler = DDPMScheduler.from_config(parts.scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    return scheduler


def denoiser_of(pipeline: DiffusionPipeline) -> tuple[str, Any]:
    """What `pipeline` calls its denoiser, and that."""
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    return name, getattr(pipeline, name)
