"""A backbone that is no U-Net and has no VAE: flow matching on 16 x 16 pixels, by an MLP.

It is untrained: fine-tuned long enough on a subject it paints the subject's colours.
"""

import hashlib
from dataclasses import dataclass, field

import torch
from torch import nn

from benchmark.api import UserError
from benchmark.models.rows import TensorRows

SIZE, WIDTH = 16, 32


@dataclass(frozen=True, eq=False)
class Texts(TensorRows):
    vectors: torch.Tensor  # (n, WIDTH)


@dataclass(frozen=True, eq=False)
class Pixels(TensorRows):
    images: torch.Tensor  # (n, 3, SIZE, SIZE) in [-1, 1]


@dataclass(frozen=True, eq=False)
class Noisy(TensorRows):
    images: torch.Tensor  # (n, 3, SIZE, SIZE)
    velocities: torch.Tensor  # the same shape: from the image to the noise
    times: torch.Tensor  # (n,) in [0, 1]; 1 is noise


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        inside = 3 * SIZE * SIZE + WIDTH + 1
        self.enter, self.leave = nn.Linear(inside, 128), nn.Linear(128, 3 * SIZE * SIZE)

    def forward(self, images, times, vectors):
        flat = torch.cat([images.flatten(1), times[:, None], vectors], dim=1)
        return self.leave(torch.tanh(self.enter(flat))).view_as(images)


class Stage:
    name, resolution = "pixels", SIZE

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def prepare(self, images):
        return Pixels(images * 2 - 1)

    def draw(self, clean, n, generator):
        images = clean.images[torch.randint(len(clean), (n,), generator=generator)]
        noise = torch.randn(images.shape, generator=generator)
        times = torch.rand(n, generator=generator)
        mixed = torch.lerp(images, noise, times[:, None, None, None])
        return Noisy(mixed, noise - images, times)

    def loss(self, draw, condition):
        found = self.denoiser(draw.images, draw.times, condition.vectors)
        return (found - draw.velocities).square().mean(dim=(1, 2, 3))


@dataclass(eq=False)
class Backbone:
    id: str
    sampler: object
    denoiser: Denoiser
    resolution: int = SIZE
    device: torch.device = torch.device("cpu")
    precision: str = "fp32"
    text_encoders: dict = field(default_factory=dict)

    def __post_init__(self):
        self.stages = (Stage(self.denoiser),)

    def modules(self):
        return {"denoiser": self.denoiser}

    def encode(self, texts, *, words=()):
        rows = [hashlib.shake_256(text.encode()).digest(WIDTH) for text in texts]
        return Texts(torch.tensor([list(row) for row in rows]) / 127.5 - 1)

    @torch.no_grad()
    def sample(self, condition, seeds, *, unconditional=None, sampler=None):
        steps = (sampler or self.sampler).steps
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        images = torch.stack([torch.randn(3, SIZE, SIZE, generator=g) for g in noise])
        for step in range(steps, 0, -1):
            times = torch.full((len(seeds),), step / steps)
            images = images - self.denoiser(images, times, condition.vectors) / steps
        return (images / 2 + 0.5).clamp(0, 1)


class Kind:
    version = "1"  # raise it when the numbers change

    def identify(self, model):
        if model != "mlp":
            raise UserError(f"unknown model '{model}' of kind 'pixels'; known: mlp")
        return "mlp@000000000001"

    def fetch(self, model):
        pass

    def memory(self, model):
        return None

    def capabilities(self, model):
        return frozenset({"text-to-image", "training"})

    def check_sampler(self, model, sampler):
        if sampler.scheduler != "euler":
            raise UserError(f"unknown scheduler '{sampler.scheduler}'; known: euler")

    def load(self, model, *, sampler, precision="fp32", device="cpu", resolution=None):
        if precision != "fp32":
            raise UserError(f"'{model}' computes in fp32, not {precision}: set precision = 'fp32'")
        torch.manual_seed(0)
        return Backbone(self.identify(model), sampler, Denoiser().requires_grad_(False).eval())


PIXELS = Kind()
