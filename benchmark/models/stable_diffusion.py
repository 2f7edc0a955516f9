"""Stable Diffusion 1 and 2 as a Backbone: one stage, a U-Net on the latents of a VAE.

backbone = load_backbone("pocket")                      # from benchmark.models.loading
condition = backbone.encode(["a dog in the snow"])
images = backbone.sample(condition, [7])                # (1, 3, 64, 64) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Generator, Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from benchmark.api import Sampler, Word
from benchmark.models import latent_stage
from benchmark.models.finite import check_finite
from benchmark.models.halving import SMALLER, BatchSize
from benchmark.models.latent_stage import LatentStage, Texts, vae_batch
from benchmark.models.precision import autocast
from benchmark.models.sampling import build_scheduler
from benchmark.models.tokens import padded_ids, plain_ids, word_id

#: What the one text encoder is called in `text_encoders`, and so in a word's vectors.
TEXT_ENCODER = "text_encoder"


@dataclass(eq=False)
class StableDiffusion:
    """diffusers' pipeline with float32 weights, as a Backbone."""

    id: str
    pipeline: StableDiffusionPipeline
    resolution: int
    device: torch.device
    precision: str
    sampler: Sampler
    scheduler: Mapping[str, Any]  #: the model's own configuration, from which samplers are built
    #: The weights as they lie in the files, mapped: "unet.conv_in.weight" -> on the CPU, as stored.
    stored_weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict)
    stages: tuple[LatentStage, ...] = field(init=False, repr=False)
    _token_rows: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        parts = self.pipeline
        stage = LatentStage(
            "unet", self.resolution, parts.unet, parts.vae, parts.scheduler, self.precision
        )
        self.stages = (stage,)

    @property
    def text_encoders(self) -> dict[str, CLIPTextModel]:
        return {TEXT_ENCODER: self.pipeline.text_encoder}

    def modules(self) -> dict[str, nn.Module]:
        """Every module, by diffusers' names of them."""
        parts = self.pipeline
        return {"unet": parts.unet, "vae": parts.vae, TEXT_ENCODER: parts.text_encoder}

    # Texts -----------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], *, words: Sequence[Word] = ()) -> Texts:
        """One row a text; the embedding of a word's token is replaced, the table left alone."""
        text_encoder = self.pipeline.text_encoder
        learned = {self._token(word.text): word.vectors[TEXT_ENCODER] for word in words}
        ids = torch.stack([self._token_row(text) for text in texts]).to(self.device)
        with _replaced(text_encoder, learned), autocast(self.device, self.precision):
            return Texts(text_encoder(ids)[0].float())

    def new_word(self, text: str, *, init: str) -> Word:
        """`text` has to be one token; of an `init` of several tokens, their mean is taken."""
        self._token(text)
        table = self.pipeline.text_encoder.get_input_embeddings().weight.detach()
        vector = table[self._token_ids(init)].mean(dim=0).clone()
        return Word(text, {TEXT_ENCODER: nn.Parameter(vector)})

    def _token(self, word: str) -> int:
        return word_id(self.pipeline.tokenizer, word, self.id)

    def _token_ids(self, text: str) -> list[int]:
        return plain_ids(self.pipeline.tokenizer, text, self.id)

    def _token_row(self, text: str) -> Tensor:
        """(length,) int64, padded."""
        if text not in self._token_rows:
            ids = padded_ids(self.pipeline.tokenizer, text, self.id)
            self._token_rows[text] = torch.tensor(ids)
        return self._token_rows[text]

    # Images ----------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        condition: Texts,
        seeds: Sequence[int],
        *,
        unconditional: Texts | None = None,
        sampler: Sampler | None = None,
    ) -> Tensor:
        """Images of diffusers' StableDiffusionPipeline, with a CPU generator for each.

        With a guidance of 1 or less there is none, and no unconditional pass. Raises UserError for
        latents and images that are not finite, and if memory does not do for one image.
        """
        if len(condition) != len(seeds):
            raise ValueError(f"{len(condition)} texts, but {len(seeds)} seeds")
        sampler = sampler or self.sampler
        blank = self.encode([""]) if unconditional is None else unconditional

        def drawn(size: int) -> Tensor:
            images = [torch.empty(0, 3, self.resolution, self.resolution)]
            for start in range(0, len(seeds), size):
                rows = slice(start, start + size)
                latents = self._latents(condition[rows], blank, seeds[rows], sampler)
                images.append(self._decode(latents).cpu())
            return torch.cat(images)

        return BatchSize("sampling", latent_stage.BATCH, SMALLER).halved(len(seeds), drawn)

    def _latents(
        self, condition: Texts, unconditional: Texts, seeds: Sequence[int], sampler: Sampler
    ) -> Tensor:
        blank = unconditional.embeddings.expand(len(seeds), -1, -1)
        scheduler = self.pipeline.scheduler
        self.pipeline.scheduler = build_scheduler(sampler, self.scheduler)
        try:
            with _float32_output(self.pipeline.unet), autocast(self.device, self.precision):
                latents: Tensor = self.pipeline(
                    prompt_embeds=condition.embeddings,
                    negative_prompt_embeds=blank if sampler.guidance > 1 else None,
                    height=self.resolution,
                    width=self.resolution,
                    num_inference_steps=sampler.steps,
                    guidance_scale=sampler.guidance,
                    generator=[Generator().manual_seed(seed) for seed in seeds],
                    output_type="latent",
                ).images
        finally:
            self.pipeline.scheduler = scheduler
        check_finite(
            f"latents drawn by scheduler '{sampler.scheduler}' in {self.precision}",
            latents,
            "choose another scheduler or precision (fp32), or train more gently: learned weights "
            "may have diverged",
        )
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
        # By hand, since the pipeline would decode the whole batch at once.
        vae = self.pipeline.vae
        scaled = latents / vae.config.scaling_factor

        def decoded(size: int) -> Tensor:
            chunks = scaled.split(size)
            return torch.cat([vae.decode(chunk, return_dict=False)[0] for chunk in chunks])

        with autocast(self.device, self.precision):
            batch = BatchSize("decoding", vae_batch(self.resolution), SMALLER)
            images = batch.halved(len(scaled), decoded)
        way_out = "choose another precision: fp32 or bf16"
        check_finite(f"the VAE's images in {self.precision}", images, way_out)
        return (images.float() / 2 + 0.5).clamp(0, 1)


def build_pipeline(
    *,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    noise_scheduler: DDPMScheduler,
) -> StableDiffusionPipeline:
    """The parts that `checkpoints.read_parts` read, as diffusers' pipeline."""
    built = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=noise_scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    built.set_progress_bar_config(disable=True)
    return built


@contextmanager
def _replaced(text_encoder: CLIPTextModel, vectors: Mapping[int, Tensor]) -> Iterator[None]:
    """Within, each token id in `vectors` is embedded as its vector, the table left alone."""

    def substitute(_module: nn.Module, inputs: tuple[Tensor], embedded: Tensor) -> Tensor:
        for token_id, vector in vectors.items():
            chosen = (inputs[0] == token_id).unsqueeze(-1)
            embedded = torch.where(chosen, vector.to(embedded.dtype), embedded)
        return embedded

    handle = text_encoder.get_input_embeddings().register_forward_hook(substitute)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _float32_output(unet: nn.Module) -> Iterator[None]:
    """Within, `unet` gives float32: autocast gives half, too coarse for the scheduler's sums."""
    handle = unet.register_forward_hook(lambda _module, _inputs, output: (output[0].float(),))
    try:
        yield
    finally:
        handle.remove()
