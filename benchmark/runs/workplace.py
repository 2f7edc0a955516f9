"""What a worker loads once, at first use, and lends to its jobs one after the other."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmark.api import Backbone, Clean, Stage, UserError
from benchmark.config.registry import is_ours
from benchmark.config.suite import Suite
from benchmark.runs import assets
from benchmark.runs.box import LeftBehind
from benchmark.runs.prior import BATCH, read_prior
from benchmark.runs.score import Examiner
from benchmark.store.directory import RunDirectory
from benchmark.store.records import Fit, Job, Prior

if TYPE_CHECKING:
    from benchmark.models.lending.loan import Loan
    from benchmark.runs.attempt import Failed, Finished, Listener


@dataclass
class Workplace:
    """A worker's suite and directory, and the backbone that it lends to a job at a time."""

    suite: Suite
    directory: RunDirectory
    examiner: Examiner
    keep_weights: bool = False
    gradient_checkpointing: bool = False  #: as a kind that knows it takes it in `load`
    _assets: dict[str, tuple[str, Any]] = field(default_factory=dict, repr=False)
    _lent: tuple[Backbone, Loan] | None = field(default=None, repr=False)
    _prepared: tuple[str, dict[str, Clean]] | None = field(default=None, repr=False)

    def attempt(self, task: Job | Prior, listen: Listener) -> Finished | Failed:
        """Do `task` here, as `benchmark.runs.attempt.attempt` says."""
        from benchmark.runs.attempt import attempt

        return attempt(task, self, listen)

    @contextmanager
    def lend(self, task: Job | Prior) -> Iterator[Backbone | None]:
        """The backbone as it was loaded; None for a job that needs none. Put back at the end.

        Raises LeftBehind if the job left anything in it. The backbone is loaded anew for the next
        job if it could not be put back.
        """
        precision = task.precision if isinstance(task, Prior) else task.fit.precision
        if precision is None:
            yield None
            return
        backbone, loan = self._borrowed(task, precision)
        try:
            yield backbone
        except BaseException as error:
            if left := self._settle(loan, thorough=True):
                error.add_note(f"it left in the backbone: {'; '.join(left)}")
            raise
        ours = isinstance(task, Prior) or is_ours("methods", task.fit.method)
        if left := self._settle(loan, thorough=not ours):
            raise LeftBehind(f"it left in the backbone: {'; '.join(left)}")

    def _borrowed(self, task: Job | Prior, precision: str) -> tuple[Backbone, Loan]:
        if self._lent is None:
            from benchmark.models.lending.loan import Loan

            choice = self.suite.backbone
            kind = choice.load_kind()
            backbone = kind.load(
                choice.model,
                sampler=self.suite.sampler.sampler(),
                precision=precision,
                device=self.examiner.device,
                resolution=choice.resolution,
                **({"gradient_checkpointing": True} if self.gradient_checkpointing else {}),
            )
            # Once more when it is read: its files may have changed until then.
            if (now := kind.identify(choice.model)) != backbone.id:
                raise UserError(
                    f"loaded was backbone '{backbone.id}', and its files are those of '{now}' by "
                    "now: run the same command again, with another --out"
                )
            self._lent = backbone, Loan(backbone)
        _check_planned(self._lent[0], task, precision)
        return self._lent

    def _settle(self, loan: Loan, *, thorough: bool) -> list[str]:
        left = loan.settle(thorough)
        if not loan.whole:
            self._lent = None
            gc.collect()
        return left

    def assets(self, fit: Fit) -> dict[str, Any]:
        """Role -> the asset that `fit` was planned with, each loaded at first use."""
        for role, planned in fit.assets.items():
            if role not in self._assets or self._assets[role][0] != planned:
                loaded = assets.load(self.suite, role, planned, self.examiner.device)
                self._assets[role] = planned, loaded
        return {role: self._assets[role][1] for role in fit.assets}

    def prepared(self, key: str | None, backbone: Backbone | None) -> Mapping[str, Clean]:
        """Stage -> the prior images `key`, as it takes them. Raises UserError.

        Prepared once for jobs that come one after the other; those before them are let go, as a
        thousand of them are some 100 MB.
        """
        if key is None or backbone is None:
            return {}
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = None
            found = {stage.name: self._prepare(key, stage) for stage in backbone.stages}
            self._prepared = key, found
        return self._prepared[1]

    def _prepare(self, key: str, stage: Stage) -> Clean:
        import torch

        from benchmark.models.fitting import fitted

        record = self.directory.prior_record(key)
        if record is None:
            raise UserError(f"prior images {key} are not drawn: run the same command again")
        chunks = [
            stage.prepare(
                torch.stack(
                    [fitted(one.permute(1, 2, 0).numpy(), stage.resolution) for one in chunk]
                )
            )
            for chunk in read_prior(record, self.directory).split(BATCH)
        ]
        return chunks[0].join(*chunks[1:])


def _check_planned(backbone: Backbone, task: Job | Prior, precision: str) -> None:
    """Refuse a model that is not the planned one: its files were changed meanwhile."""
    model = task.backbone if isinstance(task, Prior) else task.fit.backbone
    assert model is not None
    planned = model.id, precision, model.resolution or backbone.resolution
    loaded = backbone.id, backbone.precision, backbone.resolution
    if loaded != planned:
        raise UserError(
            "planned was backbone '{}' in {} at {} px, ".format(*planned)
            + "and loaded was '{}' in {} at {} px: ".format(*loaded)
            + "run the same command again, with another --out"
        )
