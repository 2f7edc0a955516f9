"""The one denoising loop, shared by every method that learns.

    train(Loss(stage, terms, encode=backbone.encode), parameters,
          Optimisation(steps=1000, learning_rate=5e-6), backbone.precision, tools.progress)

A loss is a sum of terms: images, the prompts they are learned under, and a weight. DreamBooth has
an instance term and a prior term (paper, Eq. 2), Textual Inversion one term.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from benchmark.api import Backbone, Clean, Condition, Draw, Stage, Word
from methods.optimisers import Optimiser, adamw

#: Texts -> a condition of as many rows.
Encode = Callable[[Sequence[str]], Condition]

#: Every how many steps the loss is looked at; in between nothing waits for the device.
CHECK_EVERY = 25
#: At most how often a training tells its losses, which waits for the device too.
TELLINGS = 40


class Progress(Protocol):
    """As `Tools.progress`."""

    def __call__(
        self, done: int, steps: int, /, *, losses: Mapping[str, float] | None = None
    ) -> None: ...


def part(progress: Progress, name: str, before: int, steps: int) -> Progress:
    """Of the part of a training that is called `name`, after `before` of all `steps`."""

    def tell(done: int, _: int, /, *, losses: Mapping[str, float] | None = None) -> None:
        named = losses and {f"{name}: {term}": loss for term, loss in losses.items()}
        progress(before + done, steps, losses=named)

    return tell


@dataclass(frozen=True)
class Term:
    """One term of the loss. Each step draws a batch of images and a prompt for each of them.

    Draws come from `generator` (on the CPU), in `draw`'s order, so that a term sees the same
    ones whatever other terms stand beside it, on every device.
    """

    clean: Clean  #: as from `Stage.prepare`
    prompts: Sequence[str]
    generator: Generator
    name: str  #: what its losses are told by; no two terms of a training are called alike
    batch_size: int = 1
    weight: float = 1.0

    def draw(self, stage: Stage) -> tuple[Draw, list[str]]:
        """What the stage draws (images, timesteps, noise), and then a prompt for each row."""
        draw = stage.draw(self.clean, self.batch_size, self.generator)
        chosen = [0] * self.batch_size
        if len(self.prompts) > 1:
            size = (self.batch_size,)
            chosen = torch.randint(len(self.prompts), size, generator=self.generator).tolist()
        return draw, [self.prompts[i] for i in chosen]


@dataclass(frozen=True)
class Loss:
    """The weighted sum of terms (paper, Eq. 2), through one stage."""

    stage: Stage
    terms: Sequence[Term]
    encode: Encode  #: with gradients if they are to flow there

    def of_terms(self, passes: int = 1) -> Iterator[list[Tensor]]:
        """Draw, and give each term's denoising loss (Eq. 1), unweighted: a float32 scalar a term.

        The rows of all terms go through the denoiser in so many `passes`, as even as can be, or one
        each where there are fewer rows. What is drawn is the same, and the losses of the passes add
        up to those of one.
        """
        draws, prompts = zip(*(term.draw(self.stage) for term in self.terms), strict=True)
        drawn = draws[0].join(*draws[1:])
        texts = [text for chosen in prompts for text in chosen]
        count = min(passes, len(texts))
        ends = [len(texts) * number // count for number in range(count + 1)]
        for part in itertools.starmap(slice, itertools.pairwise(ends)):
            losses = self.stage.loss(drawn[part], self.encode(texts[part]))
            yield self._by_term(losses, part)

    def _by_term(self, losses: Tensor, part: slice) -> list[Tensor]:
        """What those rows of a step add to each term's mean."""
        found, begin = [], 0
        for term in self.terms:
            end = begin + term.batch_size
            own = losses[max(begin, part.start) - part.start : max(end - part.start, 0)]
            found.append(own.mean() * (len(own) / term.batch_size) if len(own) else own.sum())
            begin = end
        return found

    def weighted(self, losses: Sequence[Tensor]) -> Tensor:
        """What training lowers, a float32 scalar."""
        weights = [term.weight for term in self.terms]
        return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()


@dataclass(frozen=True)
class Optimisation:
    """AdamW with a constant learning rate; a `max_grad_norm` of 0 is no clipping."""

    steps: int
    learning_rate: float
    weight_decay: float = 1e-2
    max_grad_norm: float = 0.0
    passes: int = 1  #: through the denoiser a step: its rows are split, their gradients add up
    optimiser: Optimiser | None = None  #: None: plain AdamW


def seeded(seed: int, *names: str) -> Generator:
    """A CPU generator whose numbers depend on exactly the run seed and the names."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def at_guidance(stage: Any, guidance: float | None) -> Any:
    """The stage that is told this guidance while it learns; None: what it usually is."""
    return stage if guidance is None else stage.with_guidance(guidance)


def fixed_conditions(
    backbone: Backbone, texts: Sequence[str], *, words: Sequence[Word] = ()
) -> Encode:
    """An `encode` for text encoders that do not change: each text is encoded once, now."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    with torch.no_grad():
        table = backbone.encode(list(rows), words=words)
    return lambda texts: table[[rows[text] for text in texts]]


@dataclass(frozen=True)
class Learned:
    """What learns of one module."""

    parameters: Sequence[nn.Parameter]
    kept: Mapping[str, Tensor]  #: what has to be kept to draw from it, live, by name


def learned_weights(learned: Mapping[str, Learned]) -> dict[str, Tensor]:
    """All that is kept, live: "denoiser.unet.conv_in.weight" -> tensor."""
    return {
        f"{module}.{key}": tensor.detach()
        for module, one in learned.items()
        for key, tensor in one.kept.items()
    }


@contextmanager
def learning(modules: Sequence[nn.Module], parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, `modules` are in training mode and `parameters` want gradients; then neither."""
    for module in modules:
        module.train()
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for module in modules:
            module.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def train(
    loss: Loss,
    parameters: Sequence[Tensor],
    optimisation: Optimisation,
    precision: str,
    progress: Progress,
) -> None:
    """Change `parameters` in place so that `loss` falls.

    `progress` is told of every step, and some 40 times of each term's unweighted loss, the mean
    since the time before. Where `precision`, the backbone's, is fp16, a step whose scaled gradients
    overflow is left out, as GradScaler does, and the scale is halved. Raises FloatingPointError if
    the loss stops being finite, or no scale helps.
    """
    device = parameters[0].device
    optimiser = adamw(
        optimisation.optimiser,
        parameters,
        learning_rate=optimisation.learning_rate,
        weight_decay=optimisation.weight_decay,
    )
    # Only float16 needs its loss scaled; otherwise this passes everything through.
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    seen = torch.zeros((), device=device)
    untold = _Untold(loss.terms, device)
    every = math.ceil(optimisation.steps / TELLINGS)
    for step in range(1, optimisation.steps + 1):
        for losses in loss.of_terms(optimisation.passes):
            total = loss.weighted(losses)
            scaler.scale(total).backward()
            seen += total.detach()
            untold.add(losses)
        if optimisation.max_grad_norm:
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(parameters, optimisation.max_grad_norm)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        untold.step()
        if step % CHECK_EVERY == 0 or step == optimisation.steps:
            _check(seen, scaler, step, optimisation)
        due = step % every == 0 or step == optimisation.steps
        progress(step, optimisation.steps, losses=untold.tell() if due else None)


def _check(
    seen: Tensor, scaler: torch.amp.GradScaler, step: int, optimisation: Optimisation
) -> None:
    if not seen.isfinite():
        raise FloatingPointError(
            f"the loss was no longer finite by step {step}: "
            f"lower learning_rate, now {optimisation.learning_rate}"
        )
    if scaler.get_scale() < 1:
        # Such steps are left out, so nothing would be learned, and nobody would be told.
        raise FloatingPointError(
            f"gradients overflow float16 at every scale by step {step}: use bf16 or fp32"
        )


class _Untold:
    """The terms' losses since they were last told, summed on the device."""

    def __init__(self, terms: Sequence[Term], device: torch.device) -> None:
        self._names = [term.name for term in terms]
        self._sums = torch.zeros(len(terms), device=device)
        self._steps = 0

    def add(self, losses: list[Tensor]) -> None:
        """Of one pass."""
        self._sums += torch.stack(losses).detach()

    def step(self) -> None:
        """All passes of a step were added."""
        self._steps += 1

    def tell(self) -> dict[str, float]:
        """Each term's mean since the time before. Waits for the device."""
        means = (self._sums / self._steps).tolist()
        self._sums.zero_()
        self._steps = 0
        return dict(zip(self._names, means, strict=True))
