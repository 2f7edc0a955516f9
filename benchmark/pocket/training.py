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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.api import UserError
from benchmark.models.precision import autocast, resolve_precision
from benchmark.pocket.muon import Muon
from benchmark.store.files import check_regular

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How long and how fast one part trains."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    #: The share of the steps, the last ones, over which the rate falls to 0 in a straight line;
    #: before, it stays, and `steps` may still be changed. None: half a cosine.
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


def quick_autocast(device: str | torch.device) -> torch.autocast:
    """The context of every forward pass: bf16 where `device` is quick at it, else float32.

    A CPU without instructions for bf16 emulates it, at twenty times the time of float32.
    """
    device = torch.device(device)
    precision = resolve_precision("auto", device.type)
    return autocast(device, "bf16" if precision == "bf16" else "fp32")


def train_part(
    name: str,
    module: Model,
    loss_at: Callable[[int], Tensor],
    recipe: Recipe,
    directory: Path,
    validate: Callable[[Model], dict[str, float]] | None = None,
    by_muon: Sequence[str] = (),
    made_on: str = "",
) -> Model:
    """Minimise `loss_at(step)` over `module`'s parameters; return the EMA copy, in eval mode.

    Checkpoints and the log go to `directory`; a finished or interrupted part is taken up there.
    `validate` is given the EMA copy now and then; what it returns is logged. `by_muon` names the
    matrices and convolutions that Muon trains; AdamW trains the others. `made_on` identifies the
    frozen models that the loss sees. Raises FloatingPointError when the loss is not finite, and
    UserError for a checkpoint of another model, recipe or frozen model.
    """
    directory.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(module).eval().requires_grad_(False)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizers = Optimizers(module, by_muon, recipe)
    checkpoint = Checkpoint(directory / f"{name}.safetensors", made_on)
    start = checkpoint.resume(module, average, optimizers, recipe.steps)
    module.train()
    log, saved, losses = Log(directory / f"{name}.jsonl"), time.monotonic(), []
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
            due = time.monotonic() - saved > recipe.checkpoint_seconds
            if (step + 1) % 50 == 0 or due or step + 1 == recipe.steps:
                log.loss(step + 1, torch.stack(losses))  # no checkpoint of what is not finite
                losses = []
            if validate and (step + 1) % recipe.validation_steps == 0:
                measured = {k: round(v, 6) for k, v in validate(average).items()}
                log.write(step=step + 1, **measured)
            if due or step + 1 == recipe.steps:
                checkpoint.save(module, average, optimizers, step + 1)
                saved = time.monotonic()
    return average


def inner_matrices(module: nn.Module, *ends: str) -> list[str]:
    """The names of the matrices and convolutions, but for those that start with one of `ends`."""
    return [n for n, p in module.named_parameters() if p.ndim > 1 and not n.startswith(ends)]


class Optimizers:
    """AdamW for a module's parameters, but Muon (Jordan et al., 2024) for those named in `by_muon`.

    These have two dimensions or more: a convolution is a matrix, a row for each channel that comes
    out. The module must be on its device already.
    """

    def __init__(self, module: nn.Module, by_muon: Sequence[str], recipe: Recipe) -> None:
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._matrices = {name: named[name] for name in by_muon}
        # Muon takes matrices only: views (never copies) that share the weights' memory.
        flat = {
            name: nn.Parameter(p.detach().view(len(p), -1)) for name, p in self._matrices.items()
        }
        rest = {name: p for name, p in named.items() if name not in flat}
        decay = recipe.weight_decay
        adamw = torch.optim.AdamW(
            rest.values(), lr=recipe.learning_rate, weight_decay=decay, betas=(0.9, 0.99)
        )
        self._groups: list[tuple[torch.optim.Optimizer, float, dict[str, nn.Parameter]]]
        self._groups = [(adamw, recipe.learning_rate, rest)]
        if flat:
            muon = Muon(flat.values(), lr=recipe.muon_rate, weight_decay=decay)
            self._groups.append((muon, recipe.muon_rate, flat))

    def step(self, share: float) -> None:
        """Step at `share` of the rates; forget the gradients."""
        for optimizer, rate, parameters in self._groups:
            for name, parameter in parameters.items():
                if name in self._matrices:
                    weight = self._matrices[name]
                    parameter.grad = None if weight.grad is None else weight.grad.flatten(1)
                    weight.grad = None
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on: "conv.weight/momentum_buffer" -> tensor."""
        return {
            f"{name}/{kind}": torch.as_tensor(value)
            for optimizer, _, parameters in self._groups
            for name, parameter in parameters.items()
            for kind, value in optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave; nothing of it: begin anew. Raises ValueError for other state.

        Which is that of another recipe, where Muon trains other weights.
        """
        taken = 0
        for optimizer, _, parameters in self._groups:
            state = {
                i: found
                for i, name in enumerate(parameters)
                if (found := _under(tensors, f"{name}/"))
            }
            kinds = {"momentum_buffer"} if parameters.keys() <= self._matrices.keys() else _ADAMW
            if any(found.keys() != kinds for found in state.values()):
                raise ValueError("state of other optimizers")
            taken += sum(map(len, state.values()))
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        if taken != len(tensors):
            raise ValueError("state of other parameters")


_ADAMW = {"step", "exp_avg", "exp_avg_sq"}


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


@dataclass(frozen=True)
class Log:
    """A training's log: a JSON object a line."""

    path: Path

    def loss(self, step: int, losses: Tensor) -> None:
        """Write the mean of the latest losses; raise FloatingPointError if it is not finite."""
        loss = losses.mean().item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.path.stem}: the loss is {loss} before step {step}")
        self.write(step=step, loss=round(loss, 6))

    def write(self, **values: float) -> None:
        """Append a line, with the time."""
        with self.path.open("a") as file:
            file.write(json.dumps(values | {"time": time.time()}) + "\n")


@dataclass(frozen=True)
class Checkpoint:
    """A part's state on disk, and which frozen models it was trained on."""

    path: Path
    made_on: str

    def save(
        self, module: nn.Module, average: nn.Module, optimizers: Optimizers, step: int
    ) -> None:
        """Replace the file by this state, at once."""
        tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in optimizers.state().items()}
        unfinished = self.path.with_suffix(".tmp")
        save_file(
            {k: v.detach().clone().contiguous() for k, v in tensors.items()},
            unfinished,
            {"step": str(step), "made_on": self.made_on},
        )
        unfinished.replace(self.path)

    def resume(
        self, module: nn.Module, average: nn.Module, optimizers: Optimizers, steps: int
    ) -> int:
        """Take up what the file holds, if there is one; return the step reached."""
        if not self.path.exists():
            return 0
        average.load_state_dict(load_average(self.path, average, self.made_on).state_dict())
        step = checkpoint_step(self.path)
        if step >= steps:  # finished: its optimizers do not matter
            return step
        tensors = _tensors(self.path, str(next(module.parameters()).device))
        module.load_state_dict(_under(tensors, "module.") or average.state_dict())
        try:
            optimizers.load_state(_under(tensors, "optimizer."))
        except ValueError:
            raise UserError(
                f"{self.path} was trained by another recipe: --pack it, and --start from that"
            ) from None
        return step


def checkpoint_step(path: Path) -> int:
    """How many steps the checkpoint's part has had."""
    return int(_metadata(path)["step"])


def _metadata(path: Path) -> dict[str, str]:
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            return {"step": "0"} | dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no checkpoint that can be read ({error}): remove it") from error


def _tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    _metadata(path)  # refuses what is no checkpoint
    return load_file(path, device=device)


def load_average(path: Path, module: Model, made_on: str = "") -> Model:
    """`module` with the checkpoint's averaged weights.

    Raises UserError if there is none, or one of another model or of other frozen models.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: '{path.stem}' has not been trained so far")
    averaged = _under(_tensors(path), "average.")
    own = module.state_dict()
    if {k: v.shape for k, v in averaged.items()} != {k: v.shape for k, v in own.items()}:
        raise UserError(f"{path} is a checkpoint of another model: give another --work")
    if _metadata(path).get("made_on", "") != made_on:
        raise UserError(
            f"{path} was trained on another VAE or text encoder than those beside it: remove it, "
            "or give another --work"
        )
    module.load_state_dict(averaged)
    return module


def digest(*modules: nn.Module) -> str:
    """What identifies the weights of frozen models, in half precision, as they are packed."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(name.encode() + tensor.cpu().half().numpy().tobytes())
    return found.hexdigest()[:16]


def pack(path: Path, output: Path) -> None:
    """Write the checkpoint's averaged weights to `output` as a checkpoint of their own, in fp16.

    Training goes on from it with a fresh optimizer.
    """
    averaged = {
        k: v.half() if v.is_floating_point() else v
        for k, v in _tensors(path).items()
        if k.startswith("average.")
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(averaged, output, _metadata(path))
    output.chmod(0o644)  # safetensors writes it for the owner alone


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
