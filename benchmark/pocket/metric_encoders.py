"""Pretraining the pocket metric encoders, apart from the generator: a CLIP and a DINO.

Both are written as directories that open_clip and timm load as `local-dir:`, so that they plug into
the encoder code that loads ViT-B/32 and ViT-S/16.

The "DINO" is a timm ViT of DINO's shape, but not trained by DINO's self-distillation: its objective
is contrastive (InfoNCE) over two re-rendered views of one individual, which are known to share
their identity; self-distillation was not tried. Half of each batch are
colour-matched classmates, so that colour alone does not tell two subjects apart.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.pocket.captions import METRIC_MENTIONS, caption, vocabulary
from benchmark.pocket.individuals import named
from benchmark.pocket.pictures import distort, draw
from benchmark.pocket.training import (
    Recipe,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.vocabulary import MAX_LENGTH, build_tokenizer, save_tokenizer
from benchmark.pocket.world import Identities, classmates, render, sample_identities, sample_scenes

CLIP_RECIPE = Recipe(steps=1600, batch=128, learning_rate=1e-3, weight_decay=0.05)
DINO_RECIPE = Recipe(steps=1200, batch=128, learning_rate=7e-4, weight_decay=0.05)
#: Temperature of the identity objective.
TEMPERATURE = 0.1

DINO_ARCHITECTURE = "vit_tiny_patch16_224"
DINO_ARGUMENTS: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 160,
    "depth": 6,
    "num_heads": 4,
    "num_classes": 0,
}
PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}


def clip_config(vocabulary_size: int) -> dict:
    """open_clip's configuration of the metric CLIP: a small ModifiedResNet and a text tower."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "head_width": 64},
        "text_cfg": {
            "context_length": MAX_LENGTH,
            "vocab_size": vocabulary_size,
            "hf_tokenizer_name": "pocket",
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


def pretrain_clip(recipe: Recipe, directory: Path, output: Path, device: str) -> None:
    """Contrastive training on fresh renders with full captions; write it to `output`."""
    torch.manual_seed(2)
    names, _ = named()
    tokenizer = build_tokenizer(vocabulary(names))
    config = clip_config(len(tokenizer))
    model = open_clip.CLIP(**config).to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("clip", step)
        identities, scenes, pictures = draw(recipe.batch, generator, device)
        texts = caption(identities, scenes, random.Random(step), mentions=METRIC_MENTIONS)
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        pictures = distort(pictures, generator)
        with quick_autocast(device):
            image, text, scale = model(pictures * 2 - 1, ids.to(device))
        logits = scale.float().clamp(max=100) * image.float() @ text.float().T
        truth = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    model = train_part("clip", model, loss_at, recipe, directory)
    save_tokenizer(tokenizer, output)
    _save_weights(model, output / "open_clip_model.safetensors")
    (output / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING}, indent=2) + "\n"
    )


def pretrain_dino(recipe: Recipe, directory: Path, output: Path, device: str) -> None:
    """InfoNCE over two views of each individual; write the ViT to `output`."""
    torch.manual_seed(3)
    model = timm.create_model(DINO_ARCHITECTURE, pretrained=False, **DINO_ARGUMENTS).to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator("dino", step)
        first, second = two_views(recipe.batch // 2, generator, device)
        views = distort(torch.cat([first, second]), generator)
        with quick_autocast(device):
            features = model(views * 2 - 1)
        a, b = F.normalize(features.float(), dim=-1).chunk(2)
        logits = a @ b.T / TEMPERATURE
        truth = torch.arange(len(a), device=logits.device)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    model = train_part("dino", model, loss_at, recipe, directory)
    output.mkdir(parents=True, exist_ok=True)
    _save_weights(model, output / "model.safetensors")
    config = {
        "architecture": DINO_ARCHITECTURE,
        "num_classes": 0,
        "num_features": DINO_ARGUMENTS["embed_dim"],
        "model_args": DINO_ARGUMENTS,
        "pretrained_cfg": {
            "tag": "pocket",
            "input_size": [3, 64, 64],
            "crop_pct": 1.0,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            **PREPROCESSING,
        },
    }
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def two_views(individuals: int, generator: torch.Generator, device: str) -> tuple[Tensor, Tensor]:
    """Two pictures of each individual in scenes of their own, each (n, 3, 64, 64) in [0, 1].

    The second half of the individuals are colour-matched classmates of the first half. Colours are
    never changed by a scene here: a recoloured subject is not told apart by its looks.
    """
    half = sample_identities(individuals // 2, generator)
    mates = classmates(half, generator, same_colours=True)
    identities = Identities.cat([half, mates])
    views = []
    for _ in range(2):
        scenes = sample_scenes(identities, generator, colour_rate=0.0)
        views.append(render(identities.to(device), scenes.to(device)))
    return views[0], views[1]


def _save_weights(model: nn.Module, path: Path) -> None:
    """fp16 safetensors; counters stay integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: (v.half() if v.is_floating_point() else v).cpu().contiguous()
        for k, v in model.state_dict().items()
    }
    unfinished = path.with_name(path.name + ".tmp")
    save_file(tensors, unfinished, {"format": "pt"})
    unfinished.replace(path)
    path.chmod(0o644)
