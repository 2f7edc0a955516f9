"""Pretraining the pocket generator: a small Stable Diffusion in diffusers layout.

Two parts: a VAE (64 x 64 x 3 to 16 x 16 x 8), then the U-Net together with its text encoder, on
latents that are drawn and encoded once. v-prediction, caption dropout for guidance, EMA.
"""

from __future__ import annotations

import random
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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmark.pocket.captions import IDENTIFIERS, caption, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.training import Recipe, step_generator, train_part
from benchmark.pocket.vocabulary import END, MAX_LENGTH, START, build_tokenizer, save_tokenizer
from benchmark.pocket.world import (
    Identities,
    Scenes,
    render,
    sample_identities,
    sample_scenes,
)

TEXT_WIDTH = 128
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
#: Share of pictures that show a known individual, and of captions dropped for guidance.
NAMED_SHARE, DROPPED_CAPTIONS = 0.4, 0.1


@dataclass(frozen=True)
class GeneratorRecipe:
    """Sizes of the two trainings; the defaults are for two CPU cores."""

    vae: Recipe = Recipe(steps=5000, batch=8, learning_rate=1.5e-3, weight_decay=0.0)
    unet: Recipe = Recipe(steps=4400, batch=48, learning_rate=6e-4, ema=0.999)
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


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder with random weights: 4 layers of width 128."""
    vocabulary_ids = tokenizer.get_vocab()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary_ids),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=vocabulary_ids[START],
            eos_token_id=vocabulary_ids[END],
            pad_token_id=vocabulary_ids[END],
        )
    )


def train_vae(recipe: Recipe, directory: Path, device: str) -> AutoencoderKL:
    """Reconstruct fresh renders: L1 and its gradient's L1, and a light KL term."""
    torch.manual_seed(0)
    vae = build_vae().to(device)

    @lru_cache(maxsize=1)
    def pictures(block: int) -> tuple[Tensor, ...]:
        # Drawn many batches at a time: the renderer is slow at few pictures a call.
        _, _, drawn = draw(DRAWN_BATCHES * recipe.batch, step_generator("vae", block), device)
        return drawn.split(recipe.batch)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("vae noise", step)
        target = pictures(step // DRAWN_BATCHES)[step % DRAWN_BATCHES] * 2 - 1
        with torch.autocast(device, torch.bfloat16):
            moments = vae.encode(target).latent_dist
            noise = torch.randn(moments.mean.shape, generator=generator).to(device)
            decoded = vae.decode(moments.mean + moments.std * noise).sample
        error = decoded.float() - target
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = moments.kl().float().mean() / target[0].numel()
        return error.abs().mean() + error.square().mean() + 0.5 * edges + 1e-3 * kl

    return train_part("vae", vae, loss_at, recipe, directory)


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
    scenes = sample_scenes(identities, generator)
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


class Conditioned(nn.Module):
    """U-Net and text encoder as one trainable module: (latents, timesteps, token ids) -> v."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        return self.unet(latents, timesteps, self.text_encoder(ids)[0]).sample


def train_unet(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    sizes: GeneratorRecipe,
    directory: Path,
    device: str,
) -> Conditioned:
    """Train U-Net and text encoder together on the pool, v-prediction."""
    torch.manual_seed(1)
    model = Conditioned(build_unet(), build_text_encoder(tokenizer)).to(device)
    pool = draw_pool(vae, sizes.pictures, device)
    schedule = DDPMScheduler(**NOISE)
    recipe = sizes.unet

    def loss_at(step: int) -> Tensor:
        generator = step_generator("unet", step)
        chosen = torch.randint(len(pool.names), (recipe.batch,), generator=generator)
        texts = caption(
            pool.identities[chosen],
            pool.scenes[chosen],
            random.Random(step),
            names=tuple(pool.names[i] for i in chosen.tolist()),
        )
        dropped = torch.rand(recipe.batch, generator=generator) < DROPPED_CAPTIONS
        texts = ["" if d else t for t, d in zip(texts, dropped.tolist(), strict=True)]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        latents = pool.latents[chosen].float()
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (recipe.batch,), generator=generator)
        noisy = schedule.add_noise(latents, noise, timesteps)
        target = schedule.get_velocity(latents, noise, timesteps)
        with torch.autocast(device, torch.bfloat16):
            predicted = model(noisy.to(device), timesteps.to(device), ids.to(device))
        return F.mse_loss(predicted.float(), target.to(device))

    return train_part("unet", model, loss_at, recipe, directory)  # type: ignore[return-value]


@torch.no_grad()
def place_identifiers(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Give each identifier the mean embedding of a random half of the names.

    The aim: as well trained as any name, encoding away from the bare class prompt, looking like
    nobody in particular. A rare token that training never used would encode as nothing. The model
    card says how far the aim is reached.
    """
    table = text_encoder.get_input_embeddings().weight
    names, _ = named()
    ids = torch.tensor(tokenizer.convert_tokens_to_ids([n + "</w>" for n in names]))
    generator = step_generator("identifiers", 0)
    for identifier in IDENTIFIERS:
        half = ids[torch.randperm(len(ids), generator=generator)[: len(ids) // 2]]
        table[tokenizer.convert_tokens_to_ids(identifier + "</w>")] = table[half].mean(dim=0)


def save_generator(
    vae: AutoencoderKL, model: Conditioned, tokenizer: CLIPTokenizer, directory: Path
) -> None:
    """Write the pipeline in diffusers layout, weights as fp16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
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


def pretrain_generator(sizes: GeneratorRecipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) VAE and U-Net in `directory`, write the pipeline to `output`."""
    names, _ = named()
    tokenizer = build_tokenizer(vocabulary(names))
    vae = train_vae(sizes.vae, directory, device)
    set_latent_scale(vae, device)
    model = train_unet(vae, tokenizer, sizes, directory, device)
    place_identifiers(model.text_encoder, tokenizer)
    save_generator(vae.cpu(), model.cpu(), tokenizer, output)
