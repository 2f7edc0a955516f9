"""Fine-tuning steps written out plainly with diffusers' modules, one term at a time.

Nothing here comes from `methods` or `benchmark`: the forward process is computed from the betas,
the optimiser is PyTorch's plain loop, instance and prior images go through the U-Net apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

Pipeline = (
    StableDiffusionPipeline | StableDiffusionXLPipeline | StableDiffusion3Pipeline | FluxPipeline
)
GUIDANCE = 3.5  #: that a FLUX.1 dev is told in training


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


def pipeline(directory: Path) -> Pipeline:
    index = json.loads((directory / "model_index.json").read_text())["_class_name"]
    if index == "FluxPipeline":
        pipe = FluxPipeline.from_pretrained(directory, use_safetensors=True)
    elif index == "StableDiffusion3Pipeline":
        pipe = StableDiffusion3Pipeline.from_pretrained(directory, use_safetensors=True)
    elif index == "StableDiffusionXLPipeline":
        pipe = StableDiffusionXLPipeline.from_pretrained(directory, use_safetensors=True)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(
            directory, use_safetensors=True, requires_safety_checker=False
        )
    for module in (denoiser(pipe)[1], pipe.vae, *text_encoders(pipe).values()):
        module.float()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoiser(pipe: Pipeline) -> tuple[str, torch.nn.Module]:
    name = "transformer" if hasattr(pipe, "transformer") else "unet"
    return name, getattr(pipe, name)


def text_encoders(pipe: Pipeline) -> dict[str, torch.nn.Module]:
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: encoder for name, encoder in found.items() if encoder is not None}


def tokenizers(pipe: Pipeline) -> list:
    return [getattr(pipe, n.replace("text_encoder", "tokenizer")) for n in text_encoders(pipe)]


def t5_length(pipe: Pipeline) -> int:
    """Tokens that T5 reads: 256 in Stable Diffusion 3 and FLUX.1 schnell, 512 in FLUX.1 dev."""
    return 512 if pipe.transformer.config.get("guidance_embeds") else 256


def alphas_cumprod(pipe: Pipeline) -> np.ndarray:
    """Of the "scaled linear" schedule: betas whose square roots are evenly spaced."""
    c = pipe.scheduler.config
    roots = np.linspace(c.beta_start**0.5, c.beta_end**0.5, c.num_train_timesteps)
    return np.cumprod(1 - roots**2)


def noised(pipe: Pipeline, given: Given) -> tuple[torch.Tensor, torch.Tensor]:
    """The noisy latents and what the denoiser should say about them."""
    if isinstance(pipe, StableDiffusion3Pipeline | FluxPipeline):
        sigma = (given.timesteps / 1000).view(-1, 1, 1, 1)
        noisy = (1.0 - sigma) * given.latents + sigma * given.noise
        return noisy, given.noise - given.latents
    alpha_bar = alphas_cumprod(pipe)[given.timesteps.numpy()]
    alpha = torch.tensor(alpha_bar**0.5, dtype=torch.float32).view(-1, 1, 1, 1)
    sigma = torch.tensor((1 - alpha_bar) ** 0.5, dtype=torch.float32).view(-1, 1, 1, 1)
    noisy = alpha * given.latents + sigma * given.noise
    if pipe.scheduler.config.prediction_type == "v_prediction":
        return noisy, alpha * given.noise - sigma * given.latents
    return noisy, given.noise


def token_ids(pipe: Pipeline, prompts: list[str], tokenizer=None, length=None) -> torch.Tensor:
    tokenizer = tokenizer or pipe.tokenizer
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def term_loss(pipe: Pipeline, given: Given) -> torch.Tensor:
    noisy, target = noised(pipe, given)
    if isinstance(pipe, StableDiffusionXLPipeline):
        predicted = predicted_by_xl(pipe, noisy, given)
    elif isinstance(pipe, StableDiffusion3Pipeline):
        predicted = predicted_by_3(pipe, noisy, given)
    elif isinstance(pipe, FluxPipeline):
        predicted = predicted_by_flux(pipe, noisy, given)
    else:
        conditions = pipe.text_encoder(token_ids(pipe, given.prompts))[0]
        predicted = pipe.unet(noisy, given.timesteps, conditions).sample
    return ((predicted - target) ** 2).mean()


def predicted_by_xl(
    pipe: StableDiffusionXLPipeline, noisy: torch.Tensor, given: Given
) -> torch.Tensor:
    """The last but one hidden states of both text encoders, the pooled text of the second, and the
    whole image's size."""
    states = []
    for tokenizer, encoder in zip(tokenizers(pipe), text_encoders(pipe).values(), strict=True):
        ids = token_ids(pipe, given.prompts, tokenizer)
        read = encoder(ids, output_hidden_states=True)
        states.append(read.hidden_states[-2])
    side = noisy.shape[-1] * pipe.vae_scale_factor
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(noisy), dtype=torch.float32)
    return pipe.unet(
        noisy,
        given.timesteps,
        encoder_hidden_states=torch.cat(states, dim=2),
        added_cond_kwargs={"text_embeds": read.text_embeds, "time_ids": sizes},
    ).sample


def predicted_by_3(
    pipe: StableDiffusion3Pipeline, noisy: torch.Tensor, given: Given
) -> torch.Tensor:
    """As diffusers' train_dreambooth_sd3.py: CLIP's states padded with zeros, then T5's."""
    states, pooled = [], []
    encoders = list(text_encoders(pipe).values())
    for tokenizer, encoder in zip(tokenizers(pipe)[:2], encoders[:2], strict=True):
        read = encoder(token_ids(pipe, given.prompts, tokenizer), output_hidden_states=True)
        states.append(read.hidden_states[-2])
        pooled.append(read[0])
    clip = torch.cat(states, dim=-1)
    t5 = encoders[2](token_ids(pipe, given.prompts, pipe.tokenizer_3, t5_length(pipe)))[0]
    padded = torch.zeros(*clip.shape[:2], t5.shape[2])
    padded[:, :, : clip.shape[2]] = clip
    return pipe.transformer(
        hidden_states=noisy,
        timestep=given.timesteps,
        encoder_hidden_states=torch.cat([padded, t5], dim=1),
        pooled_projections=torch.cat(pooled, dim=1),
    ).sample


def predicted_by_flux(pipe: FluxPipeline, noisy: torch.Tensor, given: Given) -> torch.Tensor:
    """As diffusers' train_dreambooth_flux.py, with the pipeline's own packing."""
    n, channels, height, width = noisy.shape
    pooled = pipe.text_encoder(token_ids(pipe, given.prompts)).pooler_output
    ids = token_ids(pipe, given.prompts, pipe.tokenizer_2, t5_length(pipe))
    told = None
    if pipe.transformer.config.guidance_embeds:
        told = torch.tensor([GUIDANCE] * n)
    packed = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, n, channels, height, width),
        timestep=given.timesteps / 1000,
        guidance=told,
        pooled_projections=pooled,
        encoder_hidden_states=pipe.text_encoder_2(ids)[0],
        txt_ids=torch.zeros(ids.shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(n, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    scale = pipe.vae_scale_factor
    return pipe._unpack_latents(packed, height * scale, width * scale, scale)


def learning_text_encoders(pipe: Pipeline) -> list[str]:
    """Those in which Textual Inversion learns a vector."""
    if isinstance(pipe, FluxPipeline):
        return ["text_encoder_2"]
    return [name for name in text_encoders(pipe) if name != "text_encoder_3"]


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
    part, model = denoiser(pipe)
    named = {f"{part}.{k}": v for k, v in model.named_parameters()}
    for name, encoder in text_encoders(pipe).items():
        if train_text_encoder:
            named |= {f"{name}.{k}": v for k, v in encoder.named_parameters()}
        encoder.requires_grad_(train_text_encoder)
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
        learning = [parameter for parameter in named.values() if parameter.grad is not None]
        for name, parameter in named.items():
            size = torch.zeros(()) if parameter.grad is None else parameter.grad.abs()
            size = size.expand_as(parameter)
            result.smallest[name] = torch.minimum(result.smallest.get(name, size), size)
        if max_grad_norm:
            norm = sum((p.grad.double() ** 2).sum() for p in learning) ** 0.5
            for parameter in learning:
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
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The learned vectors, by text encoder, and the losses.

    The vectors are written into the tables before each step.
    """
    pipe = pipeline(directory)
    denoiser(pipe)[1].requires_grad_(False)
    tables, new, vectors = {}, {}, {}
    for tokenizer, (name, encoder) in zip(
        tokenizers(pipe), text_encoders(pipe).items(), strict=True
    ):
        encoder.requires_grad_(False)
        if name not in learning_text_encoders(pipe):
            continue
        tables[name] = encoder.get_input_embeddings().weight
        [new[name]], [noun] = (
            tokenizer(word, add_special_tokens=False).input_ids for word in (identifier, class_noun)
        )
        vectors[name] = torch.nn.Parameter(tables[name][noun].clone())
    optimiser = torch.optim.AdamW(
        vectors.values(), lr=learning_rate, weight_decay=weight_decay, foreach=False, fused=False
    )
    losses = []
    for given in steps:
        for name, table in tables.items():
            with torch.no_grad():
                table[new[name]] = vectors[name]
            table.requires_grad_(True)
            table.grad = None
        loss = term_loss(pipe, given)
        loss.backward()
        for name, table in tables.items():
            vectors[name].grad = table.grad[new[name]].clone()
            table.requires_grad_(False)
        optimiser.step()
        losses.append(loss.item())
    return {name: vector.detach() for name, vector in vectors.items()}, losses
