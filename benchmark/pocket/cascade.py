"""Pretraining the pocket cascade, in the layout of DeepFloyd IF's two repositories.

The text encoder is the pocket generator's, trained by then. Two U-Nets follow (`pixels.py`): `base`
at 32 px, and `super_resolution` from there to 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging

from benchmark.models.texts import rare_words
from benchmark.pocket.captions import IDENTIFIERS
from benchmark.pocket.pixels import ENLARGED_NOISE, NOISE, PixelShape, train_pixels
from benchmark.pocket.text_encoder import TEXT_WIDTH, Texts, read_texts
from benchmark.pocket.training import Recipe, digest, load_average
from benchmark.pocket.vocabulary import save_tokenizer

#: The U-Nets by what their checkpoints are called.
SHAPES = {
    "base": PixelShape((32, 64, 128), "DDC"),
    "super_resolution": PixelShape((32, 64, 96), "DDD", enlarges=True),
}


@dataclass(frozen=True)
class CascadeRecipe:
    """Sizes of the two trainings; the defaults are for hours of one CPU core."""

    base: Recipe = Recipe(steps=24000, batch=64, learning_rate=6e-4, cooldown=0.3, ema=0.9995)
    super_resolution: Recipe = Recipe(
        steps=8000, batch=64, learning_rate=6e-4, cooldown=0.3, ema=0.999
    )


def pretrain_cascade(sizes: CascadeRecipe, directory: Path, output: Path, device: str) -> None:
    """Train (or take up) the two U-Nets in `directory`, write both pipelines to `output`.

    Raises UserError if the text encoder has not been trained there.
    """
    texts = read_texts(directory, device)
    recipes = {"base": sizes.base, "super_resolution": sizes.super_resolution}
    for name, shape in SHAPES.items():
        recipe, made_on = recipes[name], digest(texts.text_encoder)
        train_pixels(name, shape, texts.encode, TEXT_WIDTH, recipe, directory, device, made_on)
    export_cascade(directory, output)


def export_cascade(directory: Path, output: Path) -> None:
    """Write the pipelines of the averaged weights that the checkpoints in `directory` hold now."""
    texts = read_texts(directory, "cpu")
    made_on = digest(texts.text_encoder)
    unets = {
        name: load_average(directory / f"{name}.safetensors", shape.build(TEXT_WIDTH), made_on)
        for name, shape in SHAPES.items()
    }
    save_cascade(texts, unets, output)


def save_cascade(texts: Texts, unets: Mapping[str, UNet2DConditionModel], directory: Path) -> None:
    """Write both pipelines in diffusers' layout, weights as fp16 safetensors."""
    diffusers_logging.set_verbosity_error()  # it warns of half precision on a CPU
    bare = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    base = IFPipeline(
        tokenizer=texts.tokenizer,
        text_encoder=texts.text_encoder,
        unet=unets["base"],
        scheduler=DDPMScheduler(**NOISE),
        requires_safety_checker=False,
        **bare,
    )
    larger = IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=unets["super_resolution"],
        scheduler=DDPMScheduler(**NOISE),
        image_noising_scheduler=DDPMScheduler(**ENLARGED_NOISE),
        requires_safety_checker=False,
        **bare,
    )
    pipelines: dict[str, DiffusionPipeline] = {"base": base, "super_resolution": larger}
    for name, pipeline in pipelines.items():
        pipeline.to("cpu", torch.float16).save_pretrained(directory / name, safe_serialization=True)
    for weights in directory.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them for the owner alone
    # transformers computes in the precision a configuration names, diffusers in float32.
    config = directory / "base" / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    save_tokenizer(texts.tokenizer, directory / "base" / "tokenizer")
    (directory / "base" / rare_words.IDENTIFIERS).write_text("\n".join(IDENTIFIERS) + "\n", "utf-8")
