"""Trial of U-Net shapes and recipes for the pocket generator, on equal processor time.

    python -m benchmark.pocket.trial --minutes 6 48-96-144:DCC:adamw:plain 64-128:DD

An arm is WIDTHS:LEVELS, with `:adamw` for AdamW alone, without Muon, and `:plain` for a loss
without min-SNR weights; `x2:` before it folds 2 x 2 latents into channels, a U-Net for a VAE of
twice the factor. All arms meet the same pictures in the same order, encoded by the shipped VAE and
text encoder, for as many minutes of processor time, and end with the rate at 0. The table has what
a step costs and the validation loss, also for the fifth of the timesteps with the least noise and
that with the most. The shipped U-Net stands first, as it is.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn.functional import pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode

from benchmark.api import UserError
from benchmark.pocket.text_encoder import Texts
from benchmark.pocket.training import Optimizers, Recipe, inner_matrices
from benchmark.pocket.unet import (
    ENDS,
    Examples,
    Frozen,
    Shape,
    batches,
    snr_weights,
    validation,
    validation_errors,
)

BATCH, WARMUP, COOLDOWN, EMA = 48, 100, 0.4, 0.995
RATES = Recipe(steps=0, batch=BATCH, learning_rate=6e-4)
FLAGS = ("adamw", "plain")
COLUMNS = (
    "arm", "parameters, M", "GFLOP", "training step of 8, ms: bf16", "fp32", "denoising of 32, ms",
    "pictures/s", "pictures", "validation loss", "least noise", "most noise",
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    text: str
    shape: Shape
    fold: int
    flags: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read `[x2:]WIDTHS:LEVELS[:adamw][:plain]`; raise UserError for anything else."""
        parts = text.split(":")
        fold = 2 if parts[0] == "x2" else 1
        shape, flags = parts[fold - 1 : fold + 1], parts[fold + 1 :]
        if len(shape) != 2 or set(flags) - set(FLAGS) or set(shape[1]) - {"C", "D"}:
            raise UserError(f"'{text}' is no arm: write, for example, 64-128:DC or 64-128:DC:plain")
        widths = tuple(int(w) if w.isdecimal() else 0 for w in shape[0].split("-"))
        if len(widths) != len(shape[1]) or any(w < 16 or w % 16 for w in widths):
            raise UserError(f"'{text}' needs a width, a multiple of 16, for each of '{shape[1]}'")
        return cls(text, Shape(widths, shape[1]), fold, tuple(flags))

    def folded(self, examples: Examples) -> Examples:
        """The examples as this arm's U-Net takes them."""
        return Examples(
            pixel_unshuffle(examples.noisy, self.fold),
            examples.timesteps,
            examples.texts,
            pixel_unshuffle(examples.target, self.fold),
        )


def run_arm(
    arm: Arm, examples: Callable[[int], Examples], held_out: Examples, minutes: float
) -> list[str]:
    """Train for `minutes` of processor time; return the table's row."""
    torch.manual_seed(1)
    held_out = arm.folded(held_out)
    _, channels, size, _ = held_out.noisy.shape
    unet = arm.shape.build(channels, size, held_out.texts.shape[-1])
    costs = measure(unet, held_out)
    average = copy.deepcopy(unet).eval()
    muon = [] if "adamw" in arm.flags else inner_matrices(unet, *ENDS)
    optimizers = Optimizers(unet, muon, RATES)
    step, spent = 0, 0.0
    while (share := spent / 60 / minutes) < 1:
        batch = arm.folded(examples(step))  # drawing is no part of the time: it is alike for all
        start = time.process_time()
        weights = 1.0 if "plain" in arm.flags else snr_weights(batch.timesteps)
        (batch.errors(unet) * weights).mean().backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizers.step(min(1.0, (step + 1) / WARMUP, (1 - share) / COOLDOWN))
        step += 1
        with torch.no_grad():
            decay = min(EMA, step / (step + 9))
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)
        spent += time.process_time() - start
    pictures = step * BATCH
    speed = f"{pictures / spent:.0f}"
    return [arm.text, *costs, speed, f"{pictures}", *validated(average, held_out)]


def validated(unet: UNet2DConditionModel, held_out: Examples) -> list[str]:
    """The validation loss: over all timesteps, over the least noisy fifth, over the noisiest."""
    errors = validation_errors(unet, held_out)
    fifth = len(errors) // 5
    losses = [errors.mean(), errors[:fifth].mean(), errors[-fifth:].mean()]
    return [f"{loss.item():.4f}" for loss in losses]


def measure(unet: UNet2DConditionModel, examples: Examples) -> list[str]:
    """Parameters, GFLOP an image, and milliseconds: a training step in both precisions, a call."""
    one, eight, many = examples[:1], examples[:8], examples[:32]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        one.errors(unet)

    def train() -> None:
        eight.errors(unet).mean().backward()

    def train_fp32() -> None:
        predicted = unet(eight.noisy, eight.timesteps, eight.texts).sample
        (predicted - eight.target).square().mean().backward()

    @torch.no_grad()
    def denoise() -> None:
        many.errors(unet)

    times = [_milliseconds(call) for call in (train, train_fp32, denoise)]
    unet.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in unet.parameters())
    return [
        f"{parameters / 1e6:.1f}",
        f"{counter.get_total_flops() / 1e9:.2f}",
        *(f"{t:.0f}" for t in times),
    ]


def _milliseconds(call: Callable[[], None]) -> float:
    call()
    times = []
    for _ in range(7):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * median(times)


def main(
    arms: Annotated[
        list[str], typer.Argument(metavar="ARM...", help="[x2:]WIDTHS:LEVELS[:adamw][:plain]")
    ],
    minutes: Annotated[float, typer.Option(min=0.01, help="Of processor time, for each.")] = 6.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Where the table goes, too.")
    ] = None,
) -> None:
    """Train U-Nets of several shapes for equal processor time, and compare them."""
    from benchmark.models.backbones.latent_diffusion import LatentDiffusion
    from benchmark.models.loading import load_backbone

    torch.set_num_threads(1)
    parsed = [Arm.parse(arm) for arm in arms]
    backbone = load_backbone("pocket", device="cpu")
    assert isinstance(backbone, LatentDiffusion)
    pipeline = backbone.pipeline
    frozen = Frozen(pipeline.vae, Texts(pipeline.text_encoder, pipeline.tokenizer))
    examples, held_out = batches(frozen, BATCH, "cpu"), validation(frozen, "cpu")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    shipped = pipeline.unet.eval().requires_grad_(True)  # a step of it is measured, too
    cells = [
        "shipped, as it is",
        *measure(shipped, held_out),
        "-",
        "-",
        *validated(shipped, held_out),
    ]
    lines.append("| " + " | ".join(cells) + " |")
    print("\n".join(lines), flush=True)
    for arm in parsed:
        lines.append("| " + " | ".join(run_arm(arm, examples, held_out, minutes)) + " |")
        print(lines[-1], flush=True)
    if out:
        out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
