"""Prompt-to-Prompt on a real image, written out plainly: formulas, hooks, and alignment by trial.

Nothing here comes from `benchmark`: DDIM goes by the betas, texts are diffusers' own, attention is
computed anew in hooks on the U-Net's layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.models.attention_processor import Attention

from tests.reference.finetuning import alphas_cumprod


@dataclass
class Replaced:
    """For how many steps, and among how many places self-attention is replaced at most."""

    cross: int
    own: int
    places: int = 32**2


def aligned(source: Sequence[int], edit: Sequence[int]) -> dict[int, int]:
    """Place in `edit` -> place in `source`: the most tokens that stand in both in one order."""
    for size in range(len(edit), 0, -1):
        for places in combinations(range(len(edit)), size):
            found, begin = {}, 0
            for place in places:
                if edit[place] not in source[begin:]:
                    break
                found[place] = source.index(edit[place], begin)
                begin = found[place] + 1
            else:
                return found
    return {}


class Plain:
    """A pipeline's parts, used by hand. Its scheduler's spacing is "leading", with an offset."""

    def __init__(self, pipe, steps: int) -> None:
        self.pipe, self.bars = pipe, torch.tensor(alphas_cumprod(pipe))
        stride = 1000 // steps
        self.times = [place * stride + pipe.scheduler.config.steps_offset for place in range(steps)]

    def level(self, place: int) -> float:
        """The share of the image after `place` steps of the way to noise."""
        return float(self.bars[self.times[place - 1]] if place else self.bars[0])

    def texts(self, prompts: Sequence[str]):
        """What the U-Net is given of these, and then of none."""
        given = dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
        if not isinstance(self.pipe, StableDiffusionXLPipeline):
            return *self.pipe.encode_prompt(prompts, **given), None, None
        states, none, pooled, none_pooled = self.pipe.encode_prompt(prompts, **given)
        return states, none, pooled, none_pooled

    def unet(self, latents, time: int, states, pooled=None) -> torch.Tensor:
        added = None
        if pooled is not None:
            sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(len(latents), 1)
            added = {"text_embeds": pooled, "time_ids": sizes}
        return self.pipe.unet(
            latents, time, encoder_hidden_states=states, added_cond_kwargs=added
        ).sample

    def moved(self, latents, said, before: int, after: int) -> torch.Tensor:
        """From the level of `before` steps to that of `after`."""
        bar, other = self.level(before), self.level(after)
        signal, noise = bar**0.5, (1 - bar) ** 0.5
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            image, epsilon = signal * latents - noise * said, noise * latents + signal * said
        else:
            image, epsilon = (latents - noise * said) / signal, said
        return other**0.5 * image + (1 - other) ** 0.5 * epsilon

    def inverted(self, latents, prompt: str) -> torch.Tensor:
        states, _, pooled, _ = self.texts([prompt])
        for place, time in enumerate(self.times):
            latents = self.moved(
                latents, self.unet(latents, time, states, pooled), place, place + 1
            )
        return latents

    def edited(
        self,
        noise,
        prompts: Sequence[str],
        guidance: float,
        replaced: Replaced,
        null_texts: torch.Tensor | None = None,
    ):
        """Latents of `prompts`, the first of which is the source's.

        `null_texts`: (steps, length, width), each in the place of none.
        """
        states, none, pooled, none_pooled = self.texts(list(prompts))
        ids = [self.pipe.tokenizer(prompt).input_ids for prompt in prompts]
        maps = [aligned(ids[0], theirs) for theirs in ids[1:]]
        for theirs, found in zip(ids[1:], maps, strict=True):
            found |= {place: place for place in range(len(theirs), states.shape[1])}
        latents = noise.repeat(len(prompts), 1, 1, 1)
        for step, place in enumerate(range(len(self.times), 0, -1)):
            time = self.times[place - 1]
            if null_texts is not None:
                none = null_texts[step].expand_as(states)
            away = self.unet(latents, time, none, none_pooled)
            hooks = [
                module.register_forward_hook(
                    self.hook(maps, step < replaced.cross, step < replaced.own, replaced.places),
                    with_kwargs=True,
                )
                for module in self.pipe.unet.modules()
                if isinstance(module, Attention)
            ]
            said = self.unet(latents, time, states, pooled)
            for hook in hooks:
                hook.remove()
            latents = self.moved(latents, away + guidance * (said - away), place, place - 1)
        return latents

    def hook(self, maps: Sequence[dict[int, int]], crossing: bool, own: bool, most: int):
        def attend(layer: Attention, inputs, given, _output):
            hidden, texts = inputs[0], given.get("encoder_hidden_states")
            read = hidden if texts is None else texts

            def heads(projected):
                return projected.reshape(*projected.shape[:2], layer.heads, -1)

            query, key, value = (
                heads(one) for one in (layer.to_q(hidden), layer.to_k(read), layer.to_v(read))
            )
            scores = torch.einsum("rqhd,rkhd->rhqk", query, key) / query.shape[-1] ** 0.5
            seen = scores.softmax(-1)
            for row, found in enumerate(maps, start=1):
                if texts is None and own and hidden.shape[1] <= most:
                    seen[row] = seen[0]
                if texts is not None and crossing:
                    for theirs, ours in found.items():
                        seen[row, :, :, theirs] = seen[0, :, :, ours]
            mixed = torch.einsum("rhqk,rkhd->rqhd", seen, value).flatten(2)
            return layer.to_out[0](mixed)

        return attend

    def decoded(self, latents) -> torch.Tensor:
        images = self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1)
