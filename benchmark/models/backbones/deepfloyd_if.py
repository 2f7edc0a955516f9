"""DeepFloyd IF (2023): a cascade of pixel models, as Imagen is: 64 pixels, then from there to 256.

    backbone = load_backbone("if")
    images = backbone.sample(backbone.encode(["a dog in the snow"]), [7])   # (1, 3, 256, 256)

Both U-Nets read one text encoder, T5; any of CLIP's architecture does as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from torch import Generator, Tensor, nn
from transformers import T5EncoderModel

from benchmark.api import Sampler, UserError, Word
from benchmark.models.backbones.pixel_stage import Enlarging, PixelStage, noise_level
from benchmark.models.diffusion.drawing import in_batches
from benchmark.models.diffusion.sampling import build_scheduler, check_guidance
from benchmark.models.files.checkpoints import Parts
from benchmark.models.finite import check_finite
from benchmark.models.loading import Wanted
from benchmark.models.memory.aside import put_aside
from benchmark.models.precision import autocast, float32_output
from benchmark.models.resolution import check_cascade_size
from benchmark.models.texts.text_reader import EncodedTexts, TextReader

#: The two models, by their folders.
BASE, LARGER = "base", "super_resolution"
#: Of what is enlarged: DeepFloyd's own code draws with it, as diffusers' pipeline does.
NOISE = 0.25


@dataclass(frozen=True)
class Model:
    """One model of the cascade."""

    pipeline: IFPipeline | IFSuperResolutionPipeline
    scheduler: Mapping[str, Any]  #: its own configuration, from which samplers are built

    def drawn(self, sampler: Sampler, **given: Any) -> Tensor:
        """(n, 3, height, width) in about [-1, 1], drawn so."""
        pipeline = self.pipeline
        before = pipeline.scheduler
        pipeline.scheduler = build_scheduler(sampler, self.scheduler)
        try:
            with float32_output(pipeline.unet):
                images: Tensor = pipeline(
                    num_inference_steps=sampler.steps,
                    guidance_scale=sampler.guidance,
                    output_type="pt",
                    **given,
                ).images
        finally:
            pipeline.scheduler = before
        return images


@dataclass(eq=False)
class Cascade:
    """diffusers' two pipelines with float32 weights, as a Backbone."""

    id: str
    base: Model
    larger: Model
    reader: TextReader
    stages: tuple[PixelStage, ...]  #: as the pipelines
    device: torch.device
    precision: str
    sampler: Sampler
    #: The weights as they lie in the files, mapped: "base/unet.conv_in.weight" -> on the CPU.
    stored_weights: Mapping[str, Tensor] = field(repr=False, default_factory=dict)

    @property
    def resolution(self) -> int:
        """Of the last stage."""
        return self.stages[-1].resolution

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        return {self.reader.name: self.reader.encoder}

    def modules(self) -> dict[str, nn.Module]:
        """Every module, by its folder."""
        return {
            f"{BASE}/unet": self.base.pipeline.unet,
            f"{LARGER}/unet": self.larger.pipeline.unet,
            f"{BASE}/text_encoder": self.reader.encoder,
        }

    def set_aside(
        self, used: Sequence[nn.Module] | None = None, *, narrow: bool = False
    ) -> AbstractContextManager[None]:
        """As `benchmark.api.Backbone` says."""
        return put_aside(self, used, narrow=narrow)

    def encode(self, texts: Sequence[str], *, words: Sequence[Word] = ()) -> EncodedTexts:
        """One row a text; the embeddings of a word's tokens are replaced, the table left alone."""
        reader, precision = self.reader, self.precision
        given: dict[str, Tensor] = {}
        ids = reader.ids(texts)
        if isinstance(reader.encoder, T5EncoderModel):
            # What follows the text is hidden from T5, and was not from CLIP's when it was taught.
            given["attention_mask"] = (ids != reader.tokenizer.pad_token_id).long()
            precision = "fp32" if precision == "fp16" else precision  # T5's numbers overflow it
        with reader.learned(words), autocast(self.device, precision):
            return EncodedTexts(reader.encoder(ids, **given)[0].float())

    def new_word(self, text: str, *, init: str) -> Word:
        """`text` has to be one token of the vocabulary; of an `init` of several, the mean."""
        self.reader.token(text)
        return Word(text, {self.reader.name: self.reader.new_vector(init)})

    @torch.no_grad()
    def sample(
        self,
        condition: EncodedTexts,
        seeds: Sequence[int],
        *,
        unconditional: EncodedTexts | None = None,
        sampler: Sampler | None = None,
    ) -> Tensor:
        """Images of diffusers' two pipelines, with a CPU generator for each, which serves both.

        With a guidance of 1 or less there is none, and no unconditional pass. Raises UserError for
        images that are not finite, if memory does not do for one, and for a `true_guidance`.
        """
        sampler = sampler or self.sampler
        check_guidance(sampler, frozenset())
        blank = self.encode([""]) if unconditional is None else unconditional

        def drawn(rows: slice) -> Tensor:
            return self._drawn(condition[rows], blank, seeds[rows], sampler)

        return in_batches(len(condition), seeds, self.resolution, drawn)

    def _drawn(
        self,
        condition: EncodedTexts,
        unconditional: EncodedTexts,
        seeds: Sequence[int],
        sampler: Sampler,
    ) -> Tensor:
        blank = unconditional[[0] * len(seeds)]
        given = {
            "prompt_embeds": condition.embeddings,
            "negative_prompt_embeds": blank.embeddings,
            "generator": [Generator().manual_seed(seed) for seed in seeds],
        }
        noise = sampler.super_resolution_noise
        noise = NOISE if noise is None else noise
        with autocast(self.device, self.precision):
            small = self.base.drawn(sampler, **given)
            images = self.larger.drawn(
                sampler.enlarging(),
                image=small,
                noise_level=noise_level(self.larger.pipeline.image_noising_scheduler, noise),
                **given,
            )
        check_finite(
            f"images drawn by scheduler '{sampler.scheduler}' in {self.precision}",
            images,
            "choose another scheduler or precision (fp32), or train more gently: learned weights "
            "may have diverged",
        )
        return (images.float() / 2 + 0.5).clamp(0, 1)


def build(parts: Parts, wanted: Wanted) -> Cascade:
    """The model of these parts, in diffusers' pipelines, without watermark or safety checker."""
    units = {stage: parts.modules[f"{stage}/unet"] for stage in (BASE, LARGER)}
    sides = {stage: _side(unet, stage, wanted) for stage, unet in units.items()}
    check_cascade_size(wanted.resolution, {"sample_size": sides[LARGER]})
    forward = {
        name: _forward(configuration, wanted.device)
        for name, configuration in parts.schedulers.items()
    }
    enlarged = forward[f"{LARGER}/image_noising_scheduler"]
    bare = dict.fromkeys(
        ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
    )
    shared = bare | {"requires_safety_checker": False}
    base = IFPipeline(unet=units[BASE], scheduler=forward[f"{BASE}/scheduler"], **shared)
    larger = IFSuperResolutionPipeline(
        unet=units[LARGER],
        scheduler=forward[f"{LARGER}/scheduler"],
        image_noising_scheduler=enlarged,
        **shared,
    )
    for pipeline in (base, larger):
        pipeline.set_progress_bar_config(disable=True)
    enlarging = {BASE: None, LARGER: Enlarging(sides[BASE], enlarged, NOISE)}
    stages = tuple(
        PixelStage(
            name, sides[name], units[name], pipeline.scheduler, wanted.precision, enlarging[name]
        )
        for name, pipeline in ((BASE, base), (LARGER, larger))
    )
    return Cascade(
        id=wanted.id,
        base=Model(base, parts.schedulers[f"{BASE}/scheduler"]),
        larger=Model(larger, parts.schedulers[f"{LARGER}/scheduler"]),
        reader=TextReader(
            "text_encoder",
            parts.tokenizers[f"{BASE}/tokenizer"],
            parts.modules[f"{BASE}/text_encoder"],
            wanted.id,
        ),
        stages=stages,
        device=torch.device(wanted.device),
        precision=wanted.precision,
        sampler=wanted.sampler,
        stored_weights=parts.stored,
    )


def _side(unet: UNet2DConditionModel, stage: str, wanted: Wanted) -> int:
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise UserError(
            f"model '{wanted.model}': sample_size in {stage}/unet/config.json is {size!r}: write "
            "the height and width of the images that it makes there"
        )
    return size


def _forward(configuration: Mapping[str, Any], device: str) -> DDPMScheduler:
    """How noise is added: the same timesteps whatever sampler draws."""
    scheduler = DDPMScheduler.from_config(configuration)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    return scheduler
