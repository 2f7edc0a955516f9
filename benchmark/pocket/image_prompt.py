"""Pretraining the pocket IP-Adapter (Ye et al., 2308.06721) on the pocket generator.

The generator and the guide, which is its image encoder, are frozen. What is trained, by the
generator's own loss: a projection of the guide's embedding, and keys and values for it in every
cross-attention, which begin as the text's. The image prompt is another picture of the individual
that is drawn, in a scene of its own: of the same picture an adapter also learns the place, which
prompts name.

It is written as h94/IP-Adapter is, without its image encoder.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection
from transformers.utils.logging import disable_progress_bar

from benchmark.models.assets.image_adapters import PROJECTION
from benchmark.models.assets.ip_adapter import ATTENTION, load_image_encoder, parted
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.backbones.latent_stage import LatentDraw
from benchmark.models.loading import load_backbone
from benchmark.models.texts.text_reader import EncodedTexts
from benchmark.pocket.captions import Mentions, caption
from benchmark.pocket.guide import normalised
from benchmark.pocket.pictures import SCENE_RATES, rolling
from benchmark.pocket.training import (
    Recipe,
    digest,
    inner_matrices,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.world import (
    Batch,
    Identities,
    Scenes,
    plain_scenes,
    render,
    sample_identities,
    sample_scenes,
)

ADAPTER_RECIPE = Recipe(
    steps=1500,
    batch=32,
    learning_rate=3e-3,
    muon_rate=0.02,
    cooldown=0.4,
    ema=0.99,
    validation_steps=250,
)
WEIGHTS = "ip-adapter.safetensors"
WORDS = 4  #: that an image is projected to
#: The paper's share of examples without the text, and as many without both, or the image.
DROPPED = 0.05
#: Captions name nobody, and leave much for the image to say.
MENTIONS = Mentions(name=0.0)
POOL, MEETINGS = 2048, 8
VALIDATED = 256


@dataclass(frozen=True)
class Frozen:
    """The generator and the guide's half that sees."""

    backbone: LatentDiffusion
    encoder: CLIPVisionModelWithProjection

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.backbone.pipeline.unet

    @property
    def digest(self) -> str:
        """What identifies what an adapter is trained on."""
        parts = self.backbone.modules().values()
        return digest(*parts, self.encoder)


@dataclass(frozen=True)
class Seen(Batch):
    """n individuals, each in two pictures: one to draw, and one to look at."""

    identities: Identities
    scenes: Scenes  #: of the one that is drawn
    latents: Tensor  #: (n, channels, h, w) float16, of the same
    embeddings: Tensor  #: (n, width) float16: the guide's, of the other


@dataclass(frozen=True, eq=False)
class Prompted(EncodedTexts):
    """n texts, and an image beside each."""

    images: Tensor  #: (n, 1, width): embeddings, or zeros

    def for_denoiser(self) -> dict[str, Any]:
        return super().for_denoiser() | {"added_cond_kwargs": {"image_embeds": [self.images]}}


@dataclass(frozen=True)
class Examples:
    """n training examples, on the device."""

    draw: LatentDraw
    condition: Prompted

    def errors(self, frozen: Frozen) -> Tensor:
        """(n,) squared errors of the U-Net, each the mean over its latents."""
        return frozen.backbone.stages[0].loss(self.draw, self.condition)


class Adapter(nn.Module):
    """What is trained, laid into a U-Net."""

    def __init__(self, unet: UNet2DConditionModel, width: int) -> None:
        super().__init__()
        unet._load_ip_adapter_weights([parted(beginning(unet, width))], low_cpu_mem_usage=False)
        [self.projection] = unet.encoder_hid_proj.image_projection_layers
        processors = unet.attn_processors.values()
        self.attention = nn.ModuleList(p for p in processors if hasattr(p, "to_k_ip"))

    def weights(self) -> dict[str, Tensor]:
        """By the names in an IP-Adapter's file."""
        projection: Any = self.projection
        tensors = {
            f"{PROJECTION}{theirs}.{kind}": getattr(getattr(projection, ours), kind)
            for theirs, ours in (("proj", "image_embeds"), ("norm", "norm"))
            for kind in ("weight", "bias")
        }
        for number, one in enumerate(self.attention):
            name = f"{ATTENTION}{2 * number + 1}"
            for what in ("to_k_ip", "to_v_ip"):
                tensors[f"{name}.{what}.weight"] = one.get_parameter(f"{what}.0.weight")
        return tensors


def beginning(unet: UNet2DConditionModel, width: int) -> dict[str, Tensor]:
    """What training begins with: keys and values as those of the text."""
    read = unet.config.cross_attention_dim
    projection, norm = nn.Linear(width, WORDS * read), nn.LayerNorm(read)
    found = {
        f"{PROJECTION}{name}.{kind}": tensor
        for name, module in (("proj", projection), ("norm", norm))
        for kind, tensor in module.state_dict().items()
    }
    others = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    for number, name in enumerate(others):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for what in ("k", "v"):
            own = layer.get_submodule(f"to_{what}").weight
            found[f"{ATTENTION}{2 * number + 1}.to_{what}_ip.weight"] = own
    return found


def pretrain_ip_adapter(
    recipe: Recipe, directory: Path, parts: tuple[Path, Path], output: Path, device: str
) -> None:
    """Train (or take up) the adapter in `directory`; write it to `output`.

    `parts`: the folders of the generator and of the guide. Raises UserError if there are none.
    """
    frozen = read_frozen(*parts, device)
    torch.manual_seed(6)
    made_on = frozen.digest
    adapter = Adapter(frozen.unet, frozen.encoder.config.projection_dim).to(device)
    examples = _batches(frozen, recipe.batch, device)
    fresh = see(frozen, VALIDATED, step_generator("adapter validation", 0), device)
    held_out = prompted(frozen, fresh, step_generator("adapter validation", 1), device, drop=False)
    zeros = torch.zeros_like(held_out.condition.images)
    blank = replace(held_out, condition=replace(held_out.condition, images=zeros))

    def loss_at(step: int) -> Tensor:
        # Not by min-SNR: what an image tells counts where there is most noise.
        return examples(step).errors(frozen).mean()

    def validate(averaged: Adapter) -> dict[str, float]:
        own = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
        adapter.load_state_dict(averaged.state_dict())
        with torch.no_grad():
            found = {
                "validation_loss": held_out.errors(frozen).mean().item(),
                "without_image": blank.errors(frozen).mean().item(),
            }
        adapter.load_state_dict(own)
        return found

    matrices = inner_matrices(adapter)
    trained = train_part(
        "ip-adapter", adapter, loss_at, recipe, directory, validate, matrices, made_on
    )
    save_adapter(trained, output)


def read_frozen(generator: Path, guide: Path, device: str) -> Frozen:
    """The models of these folders. Raises UserError."""
    disable_progress_bar()
    backbone = load_backbone(str(generator), precision="auto", device=device)
    assert isinstance(backbone, LatentDiffusion)
    return Frozen(backbone, load_image_encoder(guide).to(device))


@torch.no_grad()
def see(frozen: Frozen, count: int, generator: torch.Generator, device: str) -> Seen:
    """As many strangers: each drawn in any scene, and looked at as in a photograph."""
    identities = sample_identities(count, generator).to(device)
    scenes = sample_scenes(identities, generator, **SCENE_RATES)
    others = plain_scenes(identities, generator)
    vae = frozen.backbone.pipeline.vae
    latents, embeddings = [], []
    for start in range(0, count, 256):
        part = slice(start, start + 256)
        pictures = render(identities[part], scenes[part])
        looked_at = render(identities[part], others[part])
        with quick_autocast(device):
            mean = vae.encode(pictures * 2 - 1).latent_dist.mean.half()
            embeddings.append(frozen.encoder(normalised(looked_at)).image_embeds.half())
        latents.append(mean * vae.config.scaling_factor)
    return Seen(identities, scenes, torch.cat(latents), torch.cat(embeddings))


def prompted(
    frozen: Frozen, seen: Seen, generator: torch.Generator, device: str, *, drop: bool
) -> Examples:
    """Training examples of individuals, captioned; with `drop`, some without text or image."""
    count = len(seen)
    latents = seen.latents.float()
    noise = torch.randn(latents.shape, generator=generator).to(device)
    timesteps = frozen.backbone.process.timesteps(count, generator).to(device)
    chance = random.Random(int(torch.randint(2**31, (), generator=generator)))
    texts = caption(seen.identities, seen.scenes, chance, mentions=MENTIONS)
    images = seen.embeddings.float()
    if drop:
        share = torch.rand(count, generator=generator)
        no_text = share < 2 * DROPPED
        no_image = (share >= DROPPED) & (share < 3 * DROPPED)
        texts = ["" if without else text for text, without in zip(texts, no_text, strict=True)]
        images = images.masked_fill(no_image.to(device)[:, None], 0.0)
    with torch.no_grad():
        read = frozen.backbone.encode(texts)
    assert isinstance(read, EncodedTexts)
    draw = LatentDraw(latents, noise, timesteps)
    return Examples(draw, Prompted(read.embeddings, images[:, None]))


def _batches(frozen: Frozen, batch: int, device: str) -> Callable[[int], Examples]:
    """step -> its training examples, of a pool that is drawn anew after some meetings."""

    def pool(index: int) -> Seen:
        return see(frozen, POOL, step_generator("adapter pool", index), device)

    some = rolling(pool, POOL, MEETINGS, batch)

    def examples(step: int) -> Examples:
        generator = step_generator("adapter", step)
        return prompted(frozen, some(step, generator), generator, device, drop=True)

    return examples


def save_adapter(adapter: Adapter, directory: Path) -> None:
    """Write the weights as fp16 safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in adapter.weights().items()}
    unfinished = directory / f"{WEIGHTS}.tmp"
    save_file(tensors, unfinished, {"format": "pt"})
    unfinished.replace(directory / WEIGHTS)
    (directory / WEIGHTS).chmod(0o644)
