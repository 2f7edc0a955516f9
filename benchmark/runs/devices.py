"""Whether what is asked for runs on a device, asked before anything is trained or drawn."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.api import UserError
from benchmark.config.suite import BackboneChoice, Suite
from benchmark.runs.agenda import Work
from benchmark.runs.machine import Switch
from benchmark.store.records import Job


def check_devices(suite: Suite, left: Sequence[Work], device: str) -> None:
    """Refuse methods that do not run on `device`, of those that have something left to do.

    Asked are methods that have `check_device`. Raises UserError naming the method.
    """
    for name in dict.fromkeys(w.task.method for w in left if isinstance(w.task, Job) and w.draws):
        check = getattr(suite.method(name), "check_device", None)
        if check is not None:
            try:
                check(device)
            except UserError as error:
                raise UserError(f"method '{name}': {error}") from error


def gradient_checkpointing(backbone: BackboneChoice, choice: Switch, device: str) -> bool:
    """Whether trainings on `device` compute activations twice instead of keeping them.

    Raises UserError if that is asked for and the backbone's kind knows no such thing.
    """
    advice = getattr(backbone.load_kind(), "gradient_checkpointing", None)
    if advice is None:
        if choice == "on":
            raise UserError(
                f"backbone kind '{backbone.kind}' knows no gradient checkpointing: leave "
                "--gradient-checkpointing out"
            )
        return False
    if choice == "auto":
        return device.startswith("cuda") and bool(advice(backbone.model))
    return choice == "on"
