"""The one loop that pretrains every pocket model: resumable, with an EMA and a log.

A part is a set of modules and a loss that depends on the step alone (each step draws its own data
from a seed made of it), so a run that is stopped and started again sees the same data as one that
was not. Checkpoints are safetensors; the log is one JSON line per 50 steps.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How long and how fast one part trains."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.998
    clip: float = 1.0
    checkpoint_seconds: float = 120.0


def step_generator(name: str, step: int) -> torch.Generator:
    """A CPU generator seeded by the part's name and the step, and by nothing else."""
    # 32 bits of a hash: torch's generator reads no more than the low 32 bits of its seed.
    digest = hashlib.sha256(f"{name} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def train_part(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    recipe: Recipe,
    directory: Path,
) -> nn.Module:
    """Minimise `loss_at(step)` over `module`'s parameters; return the EMA copy, in eval mode.

    Checkpoints and the log go to `directory`; a finished or interrupted part is taken up there.
    Raises FloatingPointError when the loss is not finite.
    """
    directory.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(module).eval().requires_grad_(False)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    start = _resume(directory / f"{name}.safetensors", module, average, optimizer, parameters)
    module.train()
    log, saved, losses = directory / f"{name}.jsonl", time.monotonic(), []
    with _progress() as bar:
        task = bar.add_task(name, total=recipe.steps, completed=start)
        for step in range(start, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, recipe)
            loss = loss_at(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            _average(average, module, min(recipe.ema, (step + 1) / (step + 10)))
            losses.append(loss.detach())
            bar.advance(task)
            if (step + 1) % 50 == 0:
                _log(log, step + 1, torch.stack(losses))
                losses = []
            if time.monotonic() - saved > recipe.checkpoint_seconds:
                _save(directory / f"{name}.safetensors", module, average, optimizer, step + 1)
                saved = time.monotonic()
    if start < recipe.steps:
        _save(directory / f"{name}.safetensors", module, average, optimizer, recipe.steps)
    return average


def _schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to 2 % at the last step."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    kept: list[Tensor] = list(average.parameters())
    now: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(kept, now, 1 - decay)
    for old, new in zip(average.buffers(), module.buffers(), strict=True):
        old.copy_(new)


def _log(path: Path, step: int, losses: Tensor) -> None:
    loss = losses.mean().item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"{path.stem}: the loss is {loss} before step {step}")
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "loss": round(loss, 6), "time": time.time()}) + "\n")


def _save(
    path: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    unfinished = path.with_suffix(".tmp")
    save_file(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()},
        unfinished,
        {"step": str(step)},
    )
    unfinished.replace(path)


def _resume(
    path: Path,
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> int:
    if not path.exists():
        return 0
    device = parameters[0].device
    tensors = load_file(path, device=str(device))
    module.load_state_dict(_under(tensors, "module."))
    average.load_state_dict(_under(tensors, "average."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer.").items():
        index, _, part = key.partition(".")
        state.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
