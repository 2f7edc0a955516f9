"""Pretraining the pocket generator: a small Stable Diffusion in diffusers layout.

Four parts: the text encoder (`text_encoder.py`); a VAE (64 x 64 x 3 to 16 x 16 x 8); its decoder
once more alone, for sharper pictures of the same latents; then the U-Net, with the text encoder
frozen, on latents that are drawn and encoded once. v-prediction, caption dropout for guidance, EMA.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from benchmark.models import rare_words
from benchmark.pocket.captions import IDENTIFIERS, caption, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.text_encoder import TEXT_RECIPE, TEXT_WIDTH, train_text_encoder
from benchmark.pocket.training import Recipe, step_generator, train_part
from benchmark.pocket.vocabulary import build_tokenizer, save_tokenizer
from benchmark.pocket.world import (
    Identities,
    Scenes,
    render,
    sample_identities,
    sample_scenes,
)

LATENT_CHANNELS = 8
DRAWN_BATCHES = 64
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
#: Share of pictures that show a known individual, and of live subjects that wear something.
NAMED_SHARE, ACCESSORY_RATE = 0.4, 0.5
#: Share of strangers that are called by an identifier, where a name may be mentioned at all.
IDENTIFIER_SHARE = 0.15
#: Share of captions dropped for guidance.
DROPPED_CAPTIONS = 0.1


@dataclass(frozen=True)
class GeneratorRecipe:
    """Sizes of the four trainings; the defaults are for two CPU cores."""

    text: Recipe = TEXT_RECIPE
    vae: Recipe = Recipe(steps=10000, batch=8, learning_rate=1.5e-3, weight_decay=0.0)
    decoder: Recipe = Recipe(steps=10500, batch=8, learning_rate=6e-4, weight_decay=0.0)
    unet: Recipe = Recipe(steps=13000, batch=48, learning_rate=6e-4, ema=0.999)
    pictures: int = 65536  #: latents drawn once for the U-Net


def build_vae() -> AutoencoderKL:
    """The VAE with random weights: f = 4, 8 latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
    )


def build_unet() -> UNet2DConditionModel:
    """The U-Net with random weights: 16 x 16 x 8 latents, cross-attention at 8 x 8 and 4 x 4."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 96, 144),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def train_vae(recipe: Recipe, directory: Path, device: str) -> AutoencoderKL:
    """Reconstruct fresh renders: L1, squared error, the gradient's L1, and a light KL term."""
    torch.manual_seed(0)
    vae = build_vae().to(device)
    pictures = _fresh_pictures("vae", recipe.batch, device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("vae noise", step)
        target = pictures(step) * 2 - 1
        with torch.autocast(device, torch.bfloat16):
            moments = vae.encode(target).latent_dist
            noise = torch.randn(moments.mean.shape, generator=generator).to(device)
            decoded = vae.decode(moments.mean + moments.std * noise).sample
        error = decoded.float() - target
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = moments.kl().float().mean() / target[0].numel()
        return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges + 1e-3 * kl

    return train_part("vae", vae, loss_at, recipe, directory)


def train_decoder(vae: AutoencoderKL, recipe: Recipe, directory: Path, device: str) -> None:
    """Train the decoder on alone, mostly by squared error, on the latents that `vae` now gives.

    The encoder stays as it is, so a U-Net can be trained on its latents meanwhile.
    """
    pictures = _fresh_pictures("decoder", recipe.batch, device)
    decoder = Decoder(vae)

    def loss_at(step: int) -> Tensor:
        target = pictures(step) * 2 - 1
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(target).latent_dist.mean
            decoded = decoder(latents)
        error = decoded.float() - target
        return error.square().mean() + 0.1 * error.abs().mean()

    trained = train_part("decoder", decoder, loss_at, recipe, directory)
    vae.post_quant_conv, vae.decoder = trained.post_quant_conv, trained.decoder


class Decoder(nn.Module):
    """The VAE's half that draws: latents (n, 8, 16, 16) to images (n, 3, 64, 64) in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv).requires_grad_(True)
        self.decoder = copy.deepcopy(vae.decoder).requires_grad_(True)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


def _fresh_pictures(name: str, batch: int, device: str) -> Callable[[int], Tensor]:
    """step -> (batch, 3, 64, 64) in [0, 1], drawn many batches at a time: the renderer is slow at
    few pictures a call."""

    @lru_cache(maxsize=1)
    def block(index: int) -> tuple[Tensor, ...]:
        _, _, drawn = draw(DRAWN_BATCHES * batch, step_generator(name, index), device)
        return drawn.split(batch)

    return lambda step: block(step // DRAWN_BATCHES)[step % DRAWN_BATCHES]


def draw(count: int, generator: torch.Generator, device: str) -> tuple[Identities, Scenes, Tensor]:
    """`count` pictures of anonymous individuals: (identities, scenes, (n, 3, 64, 64) in [0, 1])."""
    identities = sample_identities(count, generator)
    scenes = sample_scenes(identities, generator)
    return identities, scenes, render(identities.to(device), scenes.to(device))


@dataclass(frozen=True)
class Pool:
    """Pictures drawn once for the U-Net: who, where, and their scaled latents (n, 8, 16, 16)."""

    identities: Identities
    scenes: Scenes
    names: tuple[str, ...]
    latents: Tensor


@torch.no_grad()
def draw_pool(vae: AutoencoderKL, count: int, device: str) -> Pool:
    """Draw `count` pictures, `NAMED_SHARE` of them of known individuals, and encode them."""
    generator = step_generator("pool", 0)
    all_names, known = named()
    who = torch.randint(len(all_names), (count,), generator=generator)
    is_known = torch.rand(count, generator=generator) < NAMED_SHARE
    strangers = sample_identities(count, generator)
    both = Identities.cat([known, strangers])
    identities = both[torch.where(is_known, who, len(all_names) + torch.arange(count))]
    scenes = sample_scenes(identities, generator, accessory_rate=ACCESSORY_RATE)
    latents = []
    for start in range(0, count, 256):
        part = slice(start, start + 256)
        pictures = render(identities[part].to(device), scenes[part].to(device))
        with torch.autocast(device, torch.bfloat16):
            latents.append(vae.encode(pictures * 2 - 1).latent_dist.mean.half().cpu())
    names = tuple(
        all_names[w] if k else "" for w, k in zip(who.tolist(), is_known.tolist(), strict=True)
    )
    scaled = torch.cat(latents) * vae.config.scaling_factor
    return Pool(identities, scenes, names, scaled)


def set_latent_scale(vae: AutoencoderKL, device: str) -> None:
    """Set `scaling_factor` so that latents have unit standard deviation, as in LDM, section D."""
    with torch.no_grad():
        _, _, pictures = draw(512, step_generator("scale", 0), device)
        spread = vae.encode(pictures * 2 - 1).latent_dist.mean.std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 4))


def train_unet(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    sizes: GeneratorRecipe,
    directory: Path,
    device: str,
) -> UNet2DConditionModel:
    """Train the U-Net on the pool under frozen text encodings, v-prediction."""
    torch.manual_seed(1)
    unet = build_unet().to(device)
    pool = draw_pool(vae, sizes.pictures, device)
    schedule = DDPMScheduler(**NOISE)
    recipe = sizes.unet

    def loss_at(step: int) -> Tensor:
        generator = step_generator("unet", step)
        chosen = torch.randint(len(pool.names), (recipe.batch,), generator=generator)
        texts = say(pool, chosen, random.Random(step))
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        latents = pool.latents[chosen].float()
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (recipe.batch,), generator=generator)
        noisy = schedule.add_noise(latents, noise, timesteps)
        target = schedule.get_velocity(latents, noise, timesteps)
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                encoded = text_encoder(ids.to(device))[0]
            predicted = unet(noisy.to(device), timesteps.to(device), encoded).sample
        return F.mse_loss(predicted.float(), target.to(device))

    return train_part("unet", unet, loss_at, recipe, directory)


def say(pool: Pool, chosen: Tensor, chance: random.Random) -> list[str]:
    """Captions of the chosen pictures: some dropped, some strangers called by an identifier.

    An identifier so means nobody: each time it stands before another individual.
    """
    names = [
        pool.names[i] or (chance.choice(IDENTIFIERS) if chance.random() < IDENTIFIER_SHARE else "")
        for i in chosen.tolist()
    ]
    texts = caption(pool.identities[chosen], pool.scenes[chosen], chance, names=tuple(names))
    return ["" if chance.random() < DROPPED_CAPTIONS else t for t in texts]


def save_generator(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    directory: Path,
) -> None:
    """Write the pipeline in diffusers layout, weights as fp16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(directory, safe_serialization=True)
    for weights in directory.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them for the owner alone
    # transformers computes in the precision a configuration names, diffusers in float32: without
    # this the pipeline's parts would not fit together on a plain `from_pretrained`.
    config = directory / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    save_tokenizer(tokenizer, directory / "tokenizer")
    (directory / rare_words.IDENTIFIERS).write_text("\n".join(IDENTIFIERS) + "\n", "utf-8")


def pretrain_generator(sizes: GeneratorRecipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) the four parts in `directory`, write the pipeline to `output`."""
    names, _ = named()
    tokenizer = build_tokenizer(vocabulary(names))
    text_encoder = train_text_encoder(tokenizer, sizes.text, directory, device)
    vae = train_vae(sizes.vae, directory, device)
    set_latent_scale(vae, device)
    train_decoder(vae, sizes.decoder, directory, device)
    unet = train_unet(vae, text_encoder, tokenizer, sizes, directory, device)
    save_generator(vae.cpu(), text_encoder.cpu(), unet.cpu(), tokenizer, output)
