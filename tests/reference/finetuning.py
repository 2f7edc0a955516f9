"""Fine-tuning steps written out plainly with diffusers' modules, one term at a time.

Nothing here comes from `methods` or `benchmark`: the forward process is computed from the betas,
the optimiser is PyTorch's plain loop, instance and prior images go through the U-Net apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline


@dataclass
class Given:
    """The random numbers of one term at one step, and its prompts."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    prompts: list[str]


@dataclass
class Result:
    losses: list[float] = field(default_factory=list)
    terms: list[list[float]] = field(default_factory=list)  #: the same before they are weighted
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    #: The smallest gradient magnitude an entry has had. AdamW divides by it: where it is nothing
    #: but rounding noise, the direction of the update is noise as well.
    smallest: dict[str, torch.Tensor] = field(default_factory=dict)


def pipeline(directory: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(
        directory, use_safetensors=True, requires_safety_checker=False
    )
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.float()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def alphas_cumprod(pipe: StableDiffusionPipeline) -> np.ndarray:
    """Of the "scaled linear" schedule: betas whose square roots are evenly spaced."""
    c = pipe.scheduler.config
    roots = np.linspace(c.beta_start**0.5, c.beta_end**0.5, c.num_train_timesteps)
    return np.cumprod(1 - roots**2)


def noised(pipe: StableDiffusionPipeline, given: Given) -> tuple[torch.Tensor, torch.Tensor]:
    """The noisy latents and what the U-Net should say about them."""
    alpha_bar = alphas_cumprod(pipe)[given.timesteps.numpy()]
    alpha = torch.tensor(alpha_bar**0.5, dtype=torch.float32).view(-1, 1, 1, 1)
    sigma = torch.tensor((1 - alpha_bar) ** 0.5, dtype=torch.float32).view(-1, 1, 1, 1)
    noisy = alpha * given.latents + sigma * given.noise
    if pipe.scheduler.config.prediction_type == "v_prediction":
        return noisy, alpha * given.noise - sigma * given.latents
    return noisy, given.noise


def token_ids(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    return pipe.tokenizer(
        prompts,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def term_loss(pipe: StableDiffusionPipeline, given: Given) -> torch.Tensor:
    noisy, target = noised(pipe, given)
    conditions = pipe.text_encoder(token_ids(pipe, given.prompts))[0]
    predicted = pipe.unet(noisy, given.timesteps, conditions).sample
    return ((predicted - target) ** 2).mean()


def dreambooth_steps(
    directory: Path,
    steps: list[list[Given]],
    *,
    prior_weight: float,
    learning_rate: float,
    weight_decay: float,
    max_grad_norm: float,
    train_text_encoder: bool,
) -> Result:
    """Eq. 2 of the DreamBooth paper, as many optimiser steps as `steps` has entries.

    Each entry is the instance term's numbers and, with prior preservation, the prior term's.
    """
    pipe = pipeline(directory)
    named = {f"unet.{k}": v for k, v in pipe.unet.named_parameters()}
    if train_text_encoder:
        named |= {f"text_encoder.{k}": v for k, v in pipe.text_encoder.named_parameters()}
    pipe.text_encoder.requires_grad_(train_text_encoder)
    optimiser = torch.optim.AdamW(
        named.values(), lr=learning_rate, weight_decay=weight_decay, foreach=False, fused=False
    )
    result = Result()
    for terms in steps:
        optimiser.zero_grad()
        loss = instance_loss = term_loss(pipe, terms[0])
        result.terms.append([instance_loss.item()])
        if len(terms) == 2:
            prior_loss = term_loss(pipe, terms[1])
            result.terms[-1].append(prior_loss.item())
            loss = loss + prior_weight * prior_loss
        loss.backward()
        for name, parameter in named.items():
            size = parameter.grad.abs()
            result.smallest[name] = torch.minimum(result.smallest.get(name, size), size)
        if max_grad_norm:
            norm = sum((p.grad.double() ** 2).sum() for p in named.values()) ** 0.5
            for parameter in named.values():
                parameter.grad.mul_(min(1.0, max_grad_norm / (float(norm) + 1e-6)))
        optimiser.step()
        result.losses.append(loss.item())
    result.weights = {name: parameter.detach() for name, parameter in named.items()}
    return result


def textual_inversion_steps(
    directory: Path,
    steps: list[Given],
    *,
    identifier: str,
    class_noun: str,
    learning_rate: float,
    weight_decay: float,
) -> tuple[torch.Tensor, list[float]]:
    """The learned vector and the losses: the vector is written into the table before each step."""
    pipe = pipeline(directory)
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    table = pipe.text_encoder.get_input_embeddings().weight
    new, noun = (
        pipe.tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in (identifier, class_noun)
    )
    vector = torch.nn.Parameter(table[noun].clone())
    optimiser = torch.optim.AdamW(
        [vector], lr=learning_rate, weight_decay=weight_decay, foreach=False, fused=False
    )
    losses = []
    for given in steps:
        with torch.no_grad():
            table[new] = vector
        table.requires_grad_(True)
        table.grad = None
        loss = term_loss(pipe, given)
        loss.backward()
        vector.grad = table.grad[new].clone()
        table.requires_grad_(False)
        optimiser.step()
        losses.append(loss.item())
    return vector.detach(), losses
