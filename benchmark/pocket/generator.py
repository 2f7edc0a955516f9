"""Pretraining the pocket generator: a small Stable Diffusion in diffusers layout.

Four parts: the text encoder (`text_encoder.py`); a VAE (`vae.py`); the U-Net on its latents, with
both frozen (`unet.py`); and the VAE's decoder once more alone, for sharper pictures of the same
latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.utils.logging import disable_progress_bar

from benchmark.models.texts import rare_words
from benchmark.pocket.captions import IDENTIFIERS, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.text_encoder import (
    TEXT_RECIPE,
    TEXT_WIDTH,
    Texts,
    read_texts,
    train_text_encoder,
)
from benchmark.pocket.training import Recipe, load_average
from benchmark.pocket.unet import NOISE, Frozen, Shape, train_unet
from benchmark.pocket.vae import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    Decoder,
    build_vae,
    latents_digest,
    replace_decoder,
    set_latent_scale,
    train_decoder,
    train_vae,
)
from benchmark.pocket.vocabulary import build_tokenizer, save_tokenizer

SHAPE = Shape((64, 128), "DD")


@dataclass(frozen=True)
class GeneratorRecipe:
    """Sizes of the four trainings; the defaults are for days of one CPU core."""

    text: Recipe = TEXT_RECIPE
    vae: Recipe = Recipe(
        steps=24000,
        batch=8,
        learning_rate=1e-3,
        muon_rate=5e-3,
        weight_decay=0.0,
        cooldown=0.4,
        ema=0.999,
    )
    decoder: Recipe = Recipe(
        steps=6000, batch=8, learning_rate=6e-4, muon_rate=2e-3, weight_decay=0.0, cooldown=0.8
    )
    unet: Recipe = Recipe(steps=80000, batch=64, learning_rate=6e-4, cooldown=0.2, ema=0.9995)


def pretrain_generator(sizes: GeneratorRecipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) the four parts in `directory`, write the pipeline to `output`."""
    tokenizer = build_tokenizer(vocabulary(named()[0]))
    text_encoder = train_text_encoder(tokenizer, sizes.text, directory, device)
    vae = train_vae(sizes.vae, directory, device)
    set_latent_scale(vae, device)
    frozen = Frozen(vae, Texts(text_encoder, tokenizer))
    train_unet(SHAPE, frozen, sizes.unet, directory, device)
    train_decoder(vae, sizes.decoder, directory, device)
    export_generator(directory, output)


def export_generator(directory: Path, output: Path) -> None:
    """Write the pipeline of the averaged weights that the checkpoints in `directory` hold now.

    Raises UserError if a part has none. The decoder is trained last: before, it is the VAE's own.
    """
    texts = read_texts(directory, "cpu")
    vae = load_average(directory / "vae.safetensors", build_vae())
    set_latent_scale(vae, "cpu")
    unet = SHAPE.build(LATENT_CHANNELS, LATENT_SIZE, TEXT_WIDTH)
    frozen = Frozen(vae, texts)
    load_average(directory / "unet.safetensors", unet, frozen.digest)
    decoder = directory / "decoder.safetensors"
    if decoder.exists():
        replace_decoder(vae, load_average(decoder, Decoder(vae), latents_digest(vae)))
    save_generator(frozen, unet, output)


def save_generator(frozen: Frozen, unet: UNet2DConditionModel, directory: Path) -> None:
    """Write the pipeline in diffusers layout, weights as fp16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=frozen.vae,
        text_encoder=frozen.texts.text_encoder,
        tokenizer=frozen.texts.tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    diffusers_logging.set_verbosity_error()  # it warns of half precision on a CPU
    disable_progress_bar()
    pipeline.to("cpu", torch.float16).save_pretrained(directory, safe_serialization=True)
    for weights in directory.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them for the owner alone
    # transformers computes in the precision a configuration names, diffusers in float32: without
    # this the pipeline's parts would not fit together on a plain `from_pretrained`.
    config = directory / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    save_tokenizer(frozen.texts.tokenizer, directory / "tokenizer")
    (directory / rare_words.IDENTIFIERS).write_text("\n".join(IDENTIFIERS) + "\n", "utf-8")
