"""Stable unCLIP: Stable Diffusion 2.1, told of an image by its CLIP embedding, with noise on it.

As DALL-E 2's decoder (Ramesh et al., 2204.06125), but beside a text, in latents. Without an image
the U-Net is told zeros, as it was for a part of its training.

backbone = load_backbone("stable-unclip")
texts = backbone.encode(["a dog in the snow"])
images = backbone.sample(backbone.with_image(texts, image, 0), [7])
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor, nn

from benchmark.api import UserError
from benchmark.models.backbones.assembly import assemble
from benchmark.models.backbones.latent_diffusion import LatentDiffusion, forward_process
from benchmark.models.files.checkpoints import Parts
from benchmark.models.loading import Wanted
from benchmark.models.memory.aside import put_aside
from benchmark.models.precision import autocast
from benchmark.models.rows import TensorRows
from benchmark.models.texts.text_reader import TextReader

NO_IMAGE = -1.0  #: in a noise level's place


@dataclass(frozen=True, eq=False)
class PicturedTexts(TensorRows):
    """The condition: n texts, each with an image beside it or none."""

    embeddings: Tensor  #: (n, length, width) float32
    #: (n, 1 + width of an image's embedding) float32: a noise level, and the embedding without it;
    #: NO_IMAGE and zeros where there is no image
    pictures: Tensor

    def for_denoiser(self) -> dict[str, Any]:
        """Of texts alone, since noise on an image belongs to a seed. Raises ValueError."""
        if not (self.pictures[:, 0] == NO_IMAGE).all():
            raise ValueError("an image beside a text is drawn from, and not learned from")
        told = self.pictures.new_zeros(len(self), 2 * (self.pictures.shape[1] - 1))
        return {"encoder_hidden_states": self.embeddings, "class_labels": told}

    def for_pipeline(self) -> dict[str, Tensor]:
        return {"prompt_embeds": self.embeddings, "image_embeds": self.pictures}


class Pipeline(StableUnCLIPImg2ImgPipeline):
    """diffusers' pipeline, in which each row has a noise level of its own, or no image."""

    def __call__(self, *, negative_image_embeds: Tensor | None = None, **given: Any) -> Any:
        """As diffusers'; guidance leads away from no image. Raises ValueError for another."""
        away = negative_image_embeds
        if away is not None and not (away[:, 0] == NO_IMAGE).all():
            raise ValueError("guidance leads away from an image, which the pipeline cannot")
        return super().__call__(**given)

    def noise_image_embeddings(
        self,
        image_embeds: Tensor,
        noise_level: Tensor,
        noise: Tensor | None = None,
        generator: Sequence[Generator] = (),
    ) -> Tensor:
        """(n, 2 widths): each row's embedding with noise on it, and its noise level as sinusoids.

        A row's noise is what its generator gives first, before its latents, whether it has an image
        or not: so latents begin alike. Without an image it is zeros.
        """
        there, levels = image_embeds[:, :1] != NO_IMAGE, image_embeds[:, 0].clamp(min=0).long()
        clean = self.image_normalizer.scale(image_embeds[:, 1:])
        drawn = randn_tensor(clean.shape, generator=[*generator], device=clean.device)
        noisy = self.image_noising_scheduler.add_noise(clean, drawn, levels)
        sinusoids = get_timestep_embedding(
            levels, clean.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        told = torch.cat([self.image_normalizer.unscale(noisy), sinusoids], dim=1)
        return torch.where(there, told, 0.0)


@dataclass(frozen=True)
class Reading:
    """How texts are read: by the text encoder's last hidden states, without an image."""

    width: int  #: of an image's embedding

    def __call__(self, readers: Sequence[TextReader], texts: Sequence[str]) -> PicturedTexts:
        [reader] = readers
        states = reader.encoder(reader.ids(texts))[0].float()
        pictures = states.new_zeros(len(texts), 1 + self.width)
        pictures[:, 0] = NO_IMAGE
        return PicturedTexts(states, pictures)


@dataclass(eq=False)
class StableUnclip(LatentDiffusion):
    """A LatentDiffusion that looks at images, too."""

    #: Of what the image encoder takes: (3, 1, 1) mean and standard deviation of each channel.
    image_mean: Tensor = field(kw_only=True)
    image_std: Tensor = field(kw_only=True)

    @property
    def image_resolution(self) -> int:
        """Height and width of the images that `with_image` takes, in pixels."""
        return int(self.pipeline.image_encoder.config.image_size)

    def modules(self) -> dict[str, nn.Module]:
        """Every module, by diffusers' names of them."""
        own = ("image_encoder", "image_normalizer")
        return super().modules() | {name: getattr(self.pipeline, name) for name in own}

    def set_aside(
        self, used: Sequence[nn.Module] | None = None, *, narrow: bool = False
    ) -> AbstractContextManager[None]:
        """As `benchmark.api.Backbone` says: what is drawn from has looked at its image before."""
        if used is None:
            looking = (*self.text_encoders.values(), self.pipeline.image_encoder)
            used = [one for one in self.modules().values() if not any(one is e for e in looking)]
        return put_aside(self, used, narrow=narrow)

    @torch.no_grad()
    def with_image(
        self, condition: PicturedTexts, image: Tensor, noise_level: int
    ) -> PicturedTexts:
        """The same texts with `image` beside each: (3, image_resolution, image_resolution).

        float32 in [0, 1]; it is looked at in float32, as all that happens once. Raises UserError
        for a noise level that the model does not know, and ValueError for an image of another size.
        """
        levels = self.pipeline.image_noising_scheduler.config.num_train_timesteps
        if not 0 <= noise_level < levels:
            raise UserError(f"noise_level is {noise_level}: it should be from 0 to {levels - 1}")
        side = self.image_resolution
        if image.shape != (3, side, side):
            raise ValueError(f"an image of {tuple(image.shape)}, and not of (3, {side}, {side})")
        pixels = ((image.to(self.device) - self.image_mean) / self.image_std)[None]
        with autocast(self.device, "fp32"):
            embedding = self.pipeline.image_encoder(pixels).image_embeds
        picture = torch.cat([embedding.new_full((1, 1), noise_level), embedding], dim=1)
        return replace(condition, pictures=picture.repeat(len(condition), 1))


def build(parts: Parts, wanted: Wanted) -> StableUnclip:
    """The model of these parts, in diffusers' pipeline."""
    noising = DDPMScheduler.from_config(parts.schedulers["image_noising_scheduler"])
    noising.alphas_cumprod = noising.alphas_cumprod.to(wanted.device)
    pipeline = Pipeline(
        **parts.modules,
        **parts.tokenizers,
        feature_extractor=None,
        image_noising_scheduler=noising,
        scheduler=forward_process(parts, wanted.device),
    )
    width = pipeline.image_encoder.config.projection_dim
    drawn = assemble(pipeline, Reading(width), parts, wanted)
    said = parts.processors["feature_extractor"]
    mean, std = (
        torch.tensor(said[key], device=wanted.device)[:, None, None]
        for key in ("image_mean", "image_std")
    )
    shared = {one.name: getattr(drawn, one.name) for one in fields(drawn) if one.init}
    return StableUnclip(**shared, image_mean=mean, image_std=std)
