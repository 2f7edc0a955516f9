"""What a job hands a method beside the subject and the backbone: `benchmark.api.Tools`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmark.api import ASSET, SEGMENTER, Clean, Stage, Subject, UserError
from benchmark.data.images import read_image
from benchmark.data.masks import read_mask

if TYPE_CHECKING:
    from torch import Tensor

#: Called with (done, in all) as a phase goes on.
StepListener = Callable[[int, int], None]

#: The way out where a segmenter fails.
OWN_MASKS = "draw masks of your own (docs/your-own-data.md), or leave the image out"
_LOSSES = 40  #: at most so many points of a term's losses are kept


@dataclass
class Pace:
    """Passes a fit's steps on, measures them from the end of the first one, and keeps its losses.

    So neither what goes before them counts in the pace, nor what only the first step has to do.
    """

    listen: StepListener
    _seen: list[tuple[int, float]] = field(default_factory=list)  # the first and the last step
    _told: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def __call__(
        self, done: int, steps: int, /, *, losses: Mapping[str, float] | None = None
    ) -> None:
        self._seen[1:] = [(done, time.perf_counter())]
        for term, loss in (losses or {}).items():
            if math.isfinite(loss):
                self._told.setdefault(term, []).append((done, float(loss)))
        self.listen(done, steps)

    @property
    def steps_per_second(self) -> float | None:
        """None if there were fewer than two steps."""
        if len(self._seen) < 2:
            return None
        (first, start), (last, end) = self._seen
        return (last - first) / (end - start) if end > start else None

    @property
    def losses(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """As a record has them: to 4 digits, and of a term told more often, means of several."""
        kept = {}
        for term, told in self._told.items():
            size = math.ceil(len(told) / _LOSSES)
            parts = [told[i : i + size] for i in range(0, len(told), size)]
            means = [(part[-1][0], fmean(loss for _, loss in part)) for part in parts]
            kept[term] = tuple((step, float(f"{mean:.4g}")) for step, mean in means)
        return kept


@dataclass
class JobTools:
    """One job's tools."""

    seed: int
    subject: Subject  #: with the images that are learned
    progress: Pace
    prepared: Mapping[str, Clean]  #: stage -> the job's prior images, shared with other jobs
    assets: Mapping[str, Any] = field(default_factory=dict)  #: by role, those that the job uses
    counts: dict[str, int] = field(default_factory=dict)  #: what was told to `count`

    def images(self, resolution: int) -> Tensor:
        """The subject's images, as `benchmark.api.Tools.images` says. Raises UserError."""
        import torch

        from benchmark.models.fitting import fitted

        return torch.stack([fitted(read_image(path), resolution) for path in self.subject.images])

    def masks(self, resolution: int, images: Sequence[int] | None = None) -> Tensor:
        """Their masks, as `benchmark.api.Tools.masks` says. Raises UserError."""
        import torch

        from benchmark.models.fitting import fitted_mask

        asked = [*range(len(self.subject.images))] if images is None else [*images]
        if self.subject.masks:
            where = [self.subject.masks[index] for index in asked]
            found = torch.stack([fitted_mask(read_mask(path), resolution) for path in where])
            why = "shows nothing of the subject once it is cropped to a square: choose others"
        else:
            where = [self.subject.images[index] for index in asked]
            shown = self.images(resolution)[asked]
            found = self.asset(SEGMENTER).segment(shown, self.subject.class_noun)
            why = f"shows no '{self.subject.class_noun}' that the segmenter finds: " + OWN_MASKS
        for path, mask in zip(where, found, strict=True):
            if not mask.any():
                raise UserError(f"{path} {why}")
        return found

    def asset(self, need: str) -> Any:
        """As `benchmark.api.Tools.asset` says. Raises UserError if the method does not need it."""
        role = need.removeprefix(ASSET)
        if role not in self.assets:
            raise UserError(f"no {role}: the method's `needs` does not name '{ASSET}{role}'")
        return self.assets[role]

    def count(self, what: str, number: int) -> None:
        """As `benchmark.api.Tools.count` says."""
        if number:
            self.counts[what] = self.counts.get(what, 0) + number

    def prior(self, stage: Stage) -> Clean:
        """A copy of the prior images as `stage` prepared them. Raises UserError if none are."""
        if stage.name not in self.prepared:
            raise UserError(
                f"no prior images for stage '{stage.name}': the method's `prior` asked for none"
            )
        shared = self.prepared[stage.name]
        return shared[list(range(len(shared)))]  # by rows, so that the numbers are copied
