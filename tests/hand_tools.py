"""What a job hands a method, by hand: the subject's images, prior images of noise, and an ear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from benchmark.api import Clean, Method, Stage, Subject
from benchmark.data.images import read_image
from benchmark.models.fitting import fitted


@dataclass
class HandTools:
    """Tools for one job of `method` on `subject`."""

    method: Method
    subject: Subject
    seed: int = 0
    steps: list[tuple[int, int]] = field(default_factory=list)  #: what was told of progress
    losses: dict[int, Mapping[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  #: the stages that prior images were asked for

    def images(self, resolution: int) -> torch.Tensor:
        return torch.stack([fitted(read_image(path), resolution) for path in self.subject.images])

    def prior(self, stage: Stage) -> Clean:
        asked = self.method.prior(self.subject)
        assert asked is not None, "it asked for none before it was fitted"
        self.asked.append(stage.name)
        shape = (asked.count, 3, stage.resolution, stage.resolution)
        noise = torch.randint(256, shape, generator=torch.Generator().manual_seed(self.seed))
        return stage.prepare(noise.float() / 255)

    def count(self, what: str, number: int) -> None:
        if number:
            self.counts[what] = self.counts.get(what, 0) + number

    def progress(
        self, done: int, steps: int, /, *, losses: Mapping[str, float] | None = None
    ) -> None:
        self.steps.append((done, steps))
        if losses is not None:
            self.losses[done] = losses
