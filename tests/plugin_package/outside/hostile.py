"""Methods that draw as the untuned model does, and leave something behind."""

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Hostile:
    version: ClassVar[str] = "1"
    role: ClassVar[str] = "method"
    variant_of: ClassVar[None] = None
    draws: ClassVar[str] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({"text-to-image", "training"})
    description: str = "leaves something behind"

    def prior(self, subject):
        return None

    def fit(self, subject, backbone, tools):
        return {}

    def generate(self, weights, subject, requests, backbone, tools):
        texts = [request.prompt.text(subject.class_noun) for request in requests]
        images = backbone.sample(backbone.encode(texts), [r.noise_seed for r in requests])
        self.leave(backbone)
        return images

    def leave(self, backbone):
        """What the next job would find."""


@dataclass(frozen=True)
class LeavesHook(Hostile):
    def leave(self, backbone):
        denoiser = backbone.stages[0].denoiser
        layer = next(m for m in denoiser.modules() if isinstance(m, nn.Linear))
        layer.register_forward_hook(lambda module, inputs, output: output * 1.1)


@dataclass(frozen=True)
class ReplacesModule(Hostile):
    """As a LoRA that nobody took out."""

    def leave(self, backbone):
        denoiser = backbone.stages[0].denoiser
        path = next(n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear))
        parent, _, name = path.rpartition(".")
        owner = denoiser.get_submodule(parent)
        setattr(owner, name, nn.Sequential(getattr(owner, name)))


@dataclass(frozen=True)
class PatchesForward(Hostile):
    def leave(self, backbone):
        denoiser = backbone.stages[0].denoiser
        original = denoiser.forward

        def forward(*arguments, **options):
            found = original(*arguments, **options)
            return (found[0] * 0.9, *found[1:]) if isinstance(found, tuple) else found * 0.9

        denoiser.forward = forward


@dataclass(frozen=True)
class ChangesSettings(Hostile):
    """Weights, the sampler, and the process itself."""

    def leave(self, backbone):
        with torch.no_grad():
            for parameter in backbone.stages[0].denoiser.parameters():
                parameter.add_(0.01)
        backbone.sampler = type(backbone.sampler)("euler", 1, 1.0)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)


LEAVES_HOOK = LeavesHook()
REPLACES_MODULE = ReplacesModule()
PATCHES_FORWARD = PatchesForward()
CHANGES_SETTINGS = ChangesSettings()
