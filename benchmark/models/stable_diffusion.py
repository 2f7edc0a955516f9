"""A Stable-Diffusion-shaped model: loaded once, changed in place by methods, put back after jobs.

backbone = load_backbone("pocket")      # from benchmark.models.loading
images = backbone.sample(["a dog in the snow"], [7])        # (1, 3, 64, 64) in [0, 1]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from benchmark.api import UserError, noise_seed
from benchmark.models.prior_images import stored
from benchmark.models.sampling import Sampler, denoise

#: The VAE takes at most about so many pixels at once: its memory grows with them.
VAE_PIXELS = 2**20
#: So many prior images are drawn and encoded at once; the others wait as bytes.
PRIOR_BATCH = 16

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(eq=False)
class Backbone:
    """The parts of a text-to-image model, with float32 weights, and what methods do with them.

    Forward passes run under `autocast()` in `precision`; the float32 weights are what is trained.
    A method may change the weights of `unet`, `vae` and `text_encoder` in place; a method that adds
    modules of its own must take them out again before its job ends.
    """

    id: str  #: "<model>@<12 hexadecimal digits>", see `model_files.backbone_id`
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    noise_scheduler: DDPMScheduler  #: the forward process: `add_noise`, `get_velocity`
    device: torch.device
    precision: str  #: "fp32", "bf16" or "fp16"
    sampler: Sampler  #: the suite's, for the scored images
    prior_directory: Path | None = None  #: where prior images are kept, shared by every job
    #: The weights by part, as they were loaded; where a part is missing here, a copy is made.
    pristine: dict[str, dict[str, Tensor]] = field(repr=False, default_factory=dict)
    _tokens: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)
    _prior: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)
    _moments: dict[Any, tuple[Tensor, Tensor]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.pristine = {
            name: {k: v.detach().to("cpu", copy=True) for k, v in module.state_dict().items()}
            for name, module in self._modules().items()
            if name not in self.pristine
        } | self.pristine
        self.freeze()

    def _modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def resolution(self) -> int:
        """Height and width of the images it reads and draws, in pixels."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def autocast(self) -> torch.autocast:
        """The context in which forward passes run at the backbone's precision."""
        return torch.autocast(
            self.device.type,
            dtype=PRECISIONS[self.precision],
            enabled=self.precision != "fp32",
        )

    def freeze(self) -> None:
        """Evaluation mode, no gradients wanted, none kept; the weights stay as they are."""
        for module in self._modules().values():
            module.eval().requires_grad_(False)
            module.zero_grad(set_to_none=True)

    def restore(self) -> None:
        """Put the pristine weights back in place, bit for bit, and freeze them."""
        for name, module in self._modules().items():
            module.load_state_dict(self.pristine[name], strict=True)
        self.freeze()

    def is_pristine(self) -> bool:
        """Whether every weight is, bit for bit, what it was when the backbone was loaded."""
        return all(
            torch.equal(tensor.cpu(), self.pristine[name][key].to(tensor.dtype))
            for name, module in self._modules().items()
            for key, tensor in module.state_dict().items()
        )

    def token_ids(self, text: str) -> list[int]:
        """The ids of `text` without the marks for start and end.

        Raises UserError if the vocabulary has no tokens for it.
        """
        words = self.tokenizer
        ids = words(text, add_special_tokens=False).input_ids
        # Stable Diffusion 2 pads with "!", a special token that is a word as well.
        if not ids or set(ids) & {words.bos_token_id, words.eos_token_id, words.unk_token_id}:
            raise UserError(f"the vocabulary of '{self.id}' has no tokens for '{text}'")
        return ids

    def token_embedding(self, text: str) -> Tensor:
        """(width,) the embedding of `text`; of a text of several tokens, their mean."""
        table = self.text_encoder.get_input_embeddings().weight.detach()
        return table[self.token_ids(text)].mean(dim=0).clone()

    def encode_prompts(
        self, texts: Sequence[str], *, replace: dict[int, Tensor] | None = None
    ) -> Tensor:
        """(n, length, width) float32 text conditions; gradients flow where they are wanted.

        `replace` maps a token id to the (width,) vector that stands in for its embedding, as
        Textual Inversion needs; the embedding table is not touched. Raises UserError for a prompt
        that is longer than the model reads or has a word that its vocabulary lacks.
        """
        ids = torch.stack([self._token_row(text) for text in texts]).to(self.device)
        with _replaced(self.text_encoder, replace or {}), self.autocast():
            return self.text_encoder(ids)[0].float()

    def _token_row(self, text: str) -> Tensor:
        if text not in self._tokens:
            length = self.tokenizer.model_max_length
            ids = self.tokenizer(text, padding="max_length", max_length=length).input_ids
            if len(ids) > length:
                raise UserError(
                    f"prompt '{text}' has {len(ids)} tokens, but '{self.id}' reads {length}: "
                    "shorten it"
                )
            if text:
                self.token_ids(text)
            self._tokens[text] = torch.tensor(ids)
        return self._tokens[text]

    @torch.no_grad()
    def latent_moments(self, images: Tensor, *, batch: int = 16) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of images (n, 3, height, width) in [0, 1].

        Each is (n, channels, height', width') float32, in the scale the U-Net works in:
        `mean + std * noise` is distributed as the VAE's own sample. Always computed in float32:
        it happens once, and every training step lives off it.
        """
        means, deviations = [], []
        for chunk in images.split(min(batch, self._vae_batch)):
            posterior = self.vae.encode(chunk.to(self.device) * 2 - 1).latent_dist
            means.append(posterior.mean)
            deviations.append(posterior.std)
        scale = self.vae.config.scaling_factor
        return torch.cat(means) * scale, torch.cat(deviations) * scale

    @torch.no_grad()
    def sample(
        self,
        texts: Sequence[str],
        noise_seeds: Sequence[int],
        *,
        sampler: Sampler | None = None,
        replace: dict[int, Tensor] | None = None,
        batch: int = 16,
    ) -> Tensor:
        """Draw one image per text: (n, 3, height, width) float32 in [0, 1] on the CPU.

        Equals diffusers' StableDiffusionPipeline with one CPU generator per image, seeded with
        `noise_seeds`; `sampler` defaults to the suite's, `replace` is as in `encode_prompts`.
        """
        if len(texts) != len(noise_seeds):
            raise ValueError(f"{len(texts)} texts, but {len(noise_seeds)} noise seeds")
        sampler = sampler or self.sampler
        rows = {text: row for row, text in enumerate(dict.fromkeys(["", *texts]))}
        order = [rows[text] for text in texts]
        images = [torch.empty(0, 3, self.resolution, self.resolution)]
        with self.autocast():
            conditions = self.encode_prompts(list(rows), replace=replace)
            for start in range(0, len(texts), batch):
                seeds = noise_seeds[start : start + batch]
                latents = denoise(
                    self.unet,
                    sampler.build(self.noise_scheduler.config),
                    conditions=conditions[order[start : start + batch]],
                    unconditional=conditions[:1],
                    generators=[torch.Generator().manual_seed(seed) for seed in seeds],
                    sampler=sampler,
                )
                images.append(self._decode(latents).cpu())
        return torch.cat(images)

    @property
    def _vae_batch(self) -> int:
        return max(1, VAE_PIXELS // self.resolution**2)

    def _decode(self, latents: Tensor) -> Tensor:
        chunks = (latents / self.vae.config.scaling_factor).split(self._vae_batch)
        images = torch.cat([self.vae.decode(chunk, return_dict=False)[0] for chunk in chunks])
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def prior_images(self, class_noun: str, count: int, *, sampler: Sampler, seed: int) -> Tensor:
        """(count, 3, height, width) images of "a [class noun]" by the pristine model, in [0, 1].

        Every value is a multiple of 1/255. Drawn at most once per (backbone, precision, resolution,
        class noun, count, sampler, seed), whoever asks, and kept in `prior_directory`, or in memory
        where there is none. Raises RuntimeError if they would have to be drawn from changed
        weights: ask before training.
        """
        return self._prior_pixels(class_noun, count, sampler, seed).float() / 255

    def _prior_pixels(self, class_noun: str, count: int, sampler: Sampler, seed: int) -> Tensor:
        key = {
            "backbone": self.id,
            "precision": self.precision,
            "resolution": self.resolution,
            "class_noun": class_noun,
            "count": count,
            "sampler": asdict(sampler),
            "seed": seed,
        }
        draw = partial(self._draw_prior, class_noun, count, sampler, seed)
        if self.prior_directory is not None:
            return stored(self.prior_directory, key, draw)
        name = json.dumps(key)
        if name not in self._prior:
            self._prior[name] = draw()
        return self._prior[name]

    def _draw_prior(self, class_noun: str, count: int, sampler: Sampler, seed: int) -> Tensor:
        if not self.is_pristine():
            raise RuntimeError(
                f"prior images of '{class_noun}' would come from changed weights: "
                "ask for them before training, or restore the backbone first"
            )
        text = f"a {class_noun}"
        seeds = [noise_seed("prior", text, index, seed) for index in range(count)]
        drawn = [torch.empty(0, 3, self.resolution, self.resolution, dtype=torch.uint8)]
        for start in range(0, count, PRIOR_BATCH):  # a thousand large images in float32 are 3 GB
            some = seeds[start : start + PRIOR_BATCH]
            images = self.sample([text] * len(some), some, sampler=sampler, batch=PRIOR_BATCH)
            drawn.append((images * 255).round().to(torch.uint8))
        return torch.cat(drawn)

    def prior_moments(
        self, class_noun: str, count: int, *, sampler: Sampler, seed: int
    ) -> tuple[Tensor, Tensor]:
        """`latent_moments` of `prior_images`, kept in memory for the jobs that follow."""
        key = (class_noun, count, sampler, seed)
        if key not in self._moments:
            pixels = self._prior_pixels(class_noun, count, sampler, seed)
            chunks = [self.latent_moments(c.float() / 255) for c in pixels.split(PRIOR_BATCH)]
            mean, std = (torch.cat(parts).cpu() for parts in zip(*chunks, strict=True))
            self._moments[key] = (mean, std)
        mean, std = self._moments[key]
        return mean.to(self.device), std.to(self.device)


@contextmanager
def _replaced(text_encoder: CLIPTextModel, vectors: dict[int, Tensor]) -> Iterator[None]:
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
