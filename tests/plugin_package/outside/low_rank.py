from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    def __init__(self, up, down):
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)

    def forward(self, weight):
        return weight + self.up @ self.down


@dataclass(frozen=True)
class Lora:
    version: ClassVar[str] = "1"  # raise it when the numbers change
    role: ClassVar[str] = "method"
    variant_of: ClassVar[None] = None
    draws: ClassVar[str] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({"text-to-image", "training"})
    description: str = "LoRA on the denoiser's linear layers, without prior images"
    identifier: str | None = None  # None: the suite's
    rank: Annotated[int, Ge(1)] = 4
    steps: Annotated[int, Ge(1)] = 200
    learning_rate: Annotated[float, Gt(0)] = 1e-3

    def prior(self, subject):
        return None

    def fit(self, subject, backbone, tools):
        stage, random = backbone.stages[0], torch.Generator().manual_seed(tools.seed)
        clean = stage.prepare(tools.images(stage.resolution))
        row = backbone.encode([f"a {self.identifier} {subject.class_noun}"])
        weights = {}
        for name, layer in linear_layers(stage.denoiser):
            down = torch.randn(self.rank, layer.in_features, generator=random) / self.rank
            weights[f"{name}.up"] = layer.weight.new_zeros(layer.out_features, self.rank)
            weights[f"{name}.down"] = down.to(backbone.device)
        with attached(stage.denoiser, weights) as parameters:
            optimiser = torch.optim.AdamW(parameters, lr=self.learning_rate)
            for step in range(1, self.steps + 1):
                loss = stage.loss(stage.draw(clean, 1, random), row).mean()
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
                tools.progress(step, self.steps)
        return weights

    def generate(self, weights, subject, requests, backbone, tools):
        mine, noun = f"{self.identifier} {subject.class_noun}", subject.class_noun
        texts = [request.text(noun, mine) for request in requests]  # prior prompt: the noun alone
        with attached(backbone.stages[0].denoiser, weights):
            return backbone.sample(backbone.encode(texts), [r.noise_seed for r in requests])


def linear_layers(denoiser):
    return [(n, m) for n, m in denoiser.named_modules() if isinstance(m, nn.Linear)]


@contextmanager
def attached(denoiser, weights):
    layers = linear_layers(denoiser)
    added = [LowRank(weights[f"{n}.up"], weights[f"{n}.down"]) for n, _ in layers]
    for (_, layer), part in zip(layers, added, strict=True):
        parametrize.register_parametrization(layer, "weight", part)
    try:
        yield [parameter for part in added for parameter in part.parameters()]
    finally:  # a job gives the backbone back as it was lent
        for _, layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


METHOD = Lora()
