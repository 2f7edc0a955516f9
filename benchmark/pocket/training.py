"""The one loop that pretrains every pocket model: resumable, with an EMA and a log.

A part is a set of modules and a loss that depends on the step alone (each step draws its own data
from a seed made of it), so a run that is stopped and started again sees the same data as one that
was not. Checkpoints are safetensors; the log is one JSON line per 50 steps, and one for each
validation of the averaged weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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

from benchmark.api import UserError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How long and how fast one part trains."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    #: The share of the steps, the last ones, over which the rate falls to 0 in a straight line;
    #: before, it stays. So `steps` may be changed while a part trains. None: half a cosine.
    cooldown: float | None = None
    weight_decay: float = 0.01
    #: The rate of the weights that `train_part` is told to train by Muon.
    muon_rate: float = 0.012
    ema: float = 0.998
    clip: float = 1.0
    checkpoint_seconds: float = 120.0
    validation_steps: int = 1000  #: between two validations, where a part has one


def step_generator(name: str, step: int) -> torch.Generator:
    """A CPU generator seeded by the part's name and the step, and by nothing else."""
    # 32 bits of a hash: torch's generator reads no more than the low 32 bits of its seed.
    digest = hashlib.sha256(f"{name} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def train_part(
    name: str,
    module: Model,
    loss_at: Callable[[int], Tensor],
    recipe: Recipe,
    directory: Path,
    validate: Callable[[Model], float] | None = None,
    by_muon: Sequence[nn.Parameter] = (),
) -> Model:
    """Minimise `loss_at(step)` over `module`'s parameters; return the EMA copy, in eval mode.

    Checkpoints and the log go to `directory`; a finished or interrupted part is taken up there.
    `validate` is given the EMA copy now and then; what it returns is logged. `by_muon` are the
    matrices and convolutions that Muon trains; AdamW trains the others. Raises FloatingPointError
    when the loss is not finite, UserError for another model's checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(module).eval().requires_grad_(False)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizers = Optimizers(parameters, by_muon, recipe)
    start = _resume(directory / f"{name}.safetensors", module, average, optimizers)
    module.train()
    log, saved, losses = directory / f"{name}.jsonl", time.monotonic(), []
    with _progress() as bar:
        task = bar.add_task(name, total=recipe.steps, completed=start)
        for step in range(start, recipe.steps):
            loss = loss_at(step)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizers.step(_schedule(step, recipe))
            _average(average, module, min(recipe.ema, (step + 1) / (step + 10)))
            losses.append(loss.detach())
            bar.advance(task)
            if (step + 1) % 50 == 0:
                _log_loss(log, step + 1, torch.stack(losses))
                losses = []
            if validate and (step + 1) % recipe.validation_steps == 0:
                _log(log, step=step + 1, validation=round(validate(average), 6))
            if time.monotonic() - saved > recipe.checkpoint_seconds:
                _save(directory / f"{name}.safetensors", module, average, optimizers, step + 1)
                saved = time.monotonic()
    if start < recipe.steps:
        _save(directory / f"{name}.safetensors", module, average, optimizers, recipe.steps)
    return average


class Optimizers:
    """AdamW for a module's parameters, but Muon (Jordan et al., 2024) for some of two dimensions
    or more: a convolution is a matrix, a row for each channel that comes out."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], by_muon: Sequence[nn.Parameter], recipe: Recipe
    ) -> None:
        self._convolved = list(by_muon)
        # torch's Muon takes matrices only: views that share the weights' memory.
        self._flat = [nn.Parameter(p.detach().flatten(1)) for p in by_muon]
        chosen = {id(p) for p in by_muon}
        rest = [p for p in parameters if id(p) not in chosen]
        decay = recipe.weight_decay
        adamw = torch.optim.AdamW(
            rest, lr=recipe.learning_rate, weight_decay=decay, betas=(0.9, 0.99)
        )
        self._rates: list[tuple[torch.optim.Optimizer, float]] = [(adamw, recipe.learning_rate)]
        if self._flat:
            muon = torch.optim.Muon(self._flat, lr=recipe.muon_rate, weight_decay=decay)
            self._rates.append((muon, recipe.muon_rate))

    def step(self, share: float) -> None:
        """Step at `share` of the rates; forget the gradients."""
        for flat, weight in zip(self._flat, self._convolved, strict=True):
            flat.grad = None if weight.grad is None else weight.grad.flatten(1)
            weight.grad = None
        for optimizer, rate in self._rates:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        return {
            f"{n}.{i}.{name}": torch.as_tensor(value)
            for n, (optimizer, _) in enumerate(self._rates)
            for i, own in optimizer.state_dict()["state"].items()
            for name, value in own.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave; nothing of it: begin anew."""
        for n, (optimizer, _) in enumerate(self._rates):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(tensors, f"{n}.").items():
                index, _, name = key.partition(".")
                state.setdefault(int(index), {})[name] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then the recipe's cooldown, or half a cosine down to 2 % at the last step."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if recipe.cooldown is not None:
        return min(1.0, (recipe.steps - step) / max(1.0, recipe.cooldown * recipe.steps))
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    kept: list[Tensor] = list(average.parameters())
    now: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(kept, now, 1 - decay)
    for old, new in zip(average.buffers(), module.buffers(), strict=True):
        old.copy_(new)


def _log_loss(path: Path, step: int, losses: Tensor) -> None:
    loss = losses.mean().item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"{path.stem}: the loss is {loss} before step {step}")
    _log(path, step=step, loss=round(loss, 6))


def _log(path: Path, **values: float) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values | {"time": time.time()}) + "\n")


def _save(
    path: Path, module: nn.Module, average: nn.Module, optimizers: Optimizers, step: int
) -> None:
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizers.state().items()}
    unfinished = path.with_suffix(".tmp")
    save_file(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()},
        unfinished,
        {"step": str(step)},
    )
    unfinished.replace(path)


def _resume(path: Path, module: nn.Module, average: nn.Module, optimizers: Optimizers) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path, device=str(next(module.parameters()).device))
    averaged = _under(tensors, "average.")
    _check(path, averaged, module)
    average.load_state_dict(averaged)
    module.load_state_dict(_under(tensors, "module.") or averaged)
    optimizers.load_state(_under(tensors, "optimizer."))
    return checkpoint_step(path)


def checkpoint_step(path: Path) -> int:
    """How many steps the checkpoint's part has had."""
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def load_average(path: Path, module: Model) -> Model:
    """`module` with the checkpoint's averaged weights. Raises UserError if they do not fit."""
    if not path.exists():
        raise UserError(f"{path} is missing: '{path.stem}' has not been trained so far")
    averaged = _under(load_file(path), "average.")
    _check(path, averaged, module)
    module.load_state_dict(averaged)
    return module


def pack(path: Path, output: Path) -> None:
    """Write the checkpoint's averaged weights to `output` as a checkpoint of their own, in fp16.

    Training goes on from it with a fresh optimizer.
    """
    averaged = {
        k: v.half() if v.is_floating_point() else v
        for k, v in load_file(path).items()
        if k.startswith("average.")
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(averaged, output, {"step": str(checkpoint_step(path))})
    output.chmod(0o644)  # safetensors writes it for the owner alone


def _check(path: Path, tensors: dict[str, Tensor], module: nn.Module) -> None:
    own = module.state_dict()
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in own.items()}:
        raise UserError(f"{path} is a checkpoint of another model: give another --work")


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
