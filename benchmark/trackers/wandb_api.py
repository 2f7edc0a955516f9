"""Weights & Biases, and trackio, which has its API: a run for each job, and one for the report."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import DISTRIBUTION, UserError
from benchmark.store.names import folder_name
from benchmark.trackers.entries import Example, JobEntry, ReportEntry
from benchmark.trackers.installed import library

PROJECT = DISTRIBUTION
_ASKING = {"online", "shared"}  #: modes of wandb that need an account


@dataclass(frozen=True)
class WandbApi:
    """Either of them: `start` is given what both take, a label, and an identity."""

    library: Any
    start: Callable[[dict[str, Any], str, str], Any]

    @classmethod
    def wandb(cls, path: Path) -> WandbApi:
        """Weights & Biases, its local files in `path`. Raises UserError if it has no account."""
        wandb = library("wandb", "wandb")
        _check_account(wandb)
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )

        def start(common: dict[str, Any], label: str, identity: str) -> Any:
            return wandb.init(
                **common,
                id=identity,
                name=label,
                resume="allow",
                allow_val_change=True,  # another command may go on from another commit
                reinit="create_new",
                dir=path,
                settings=quiet,
            )

        return cls(wandb, start)

    @classmethod
    def trackio(cls, path: Path) -> WandbApi:
        """trackio, in its own local store. Raises UserError if it is not installed."""
        trackio = library("trackio", "trackio")

        def start(common: dict[str, Any], label: str, identity: str) -> Any:
            # Its runs go by their name, which becomes a folder.
            name = f"{folder_name(label)}-{identity}"
            _forget(trackio, common["project"], name)
            own = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            return trackio.init(**common, name=name, **own)

        return cls(trackio, start)

    def log_job(self, entry: JobEntry, identity: str) -> None:
        """Losses by step; after them scores, costs and images."""
        run = self._begun(entry.group, entry.config, entry.label, identity)
        for step, losses in entry.losses.items():
            run.log({f"loss/{term}": loss for term, loss in losses.items()}, step=step)
        run.log(entry.scores | entry.costs | self._shown(entry.images))
        run.finish()

    def log_report(self, entry: ReportEntry, identity: str) -> None:
        """Its tables and figures."""
        run = self._begun(entry.group, entry.config, "report", identity)
        tables = {
            name: self.library.Table(dataframe=table, allow_mixed_types=True)
            for name, table in entry.tables.items()
        }
        run.log(tables | self._shown(entry.figures))
        run.finish()

    def _begun(self, group: str, config: dict[str, Any], label: str, identity: str) -> Any:
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        common = {"project": project, "group": group, "config": config}
        return self.start(common, label, identity)

    def _shown(self, images: tuple[Example, ...]) -> dict[str, Any]:
        return {one.key: self.library.Image(str(one.path), caption=one.caption) for one in images}


@functools.cache
def _check_account(wandb: Any) -> None:
    """Refuse to go on where wandb would ask for an account, or would not get in with it."""
    if wandb.setup().settings.mode not in _ASKING:
        return
    instead = "or keep it on this machine for `wandb sync`: WANDB_MODE=offline"
    try:
        known = wandb.login(prompt=False, verify=True)
    except wandb.Error as error:
        said = " ".join(str(error).split())
        raise UserError(f"--log wandb: {said}: see to that, {instead}") from error
    if not known:
        raise UserError(f"--log wandb: no account is set up here: `wandb login`, {instead}")


def _forget(trackio: Any, project: str, name: str) -> None:
    """Remove the run of this name from the local store, as trackio would add to it."""
    try:
        runs = [run for run in trackio.Api().runs(project) if run.name == name]
    except ValueError:  # there is no such project yet
        return
    for run in runs:
        run.delete()
