"""TensorBoard: a folder of event files for each job, and one for the report, in RUN/tensorboard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.data.images import read_image
from benchmark.report.markdown import NOTHING, escape, markdown_table
from benchmark.store.names import folder_name
from benchmark.trackers.entries import Example, JobEntry, ReportEntry
from benchmark.trackers.installed import library

FOLDER = "tensorboard"


@dataclass(frozen=True)
class EventFiles:
    """What TensorBoard shows, in `folder`; a job's folder is what it calls a run."""

    folder: Path
    writer: Any  #: torch.utils.tensorboard.SummaryWriter

    @classmethod
    def opened(cls, path: Path) -> EventFiles:
        """That of the run directory `path`. Raises UserError if TensorBoard is not installed."""
        return cls(path / FOLDER, library(FOLDER, "torch.utils.tensorboard").SummaryWriter)

    def log_job(self, entry: JobEntry, identity: str) -> None:
        """Losses by step; scores and costs at the last step; images, and the settings as text."""
        method, subject, seed = entry.name
        with self._written(f"{folder_name(method)}/{folder_name(subject)}-s{seed}") as writer:
            for step, losses in entry.losses.items():
                for term, loss in losses.items():
                    writer.add_scalar(f"loss/{term}", loss, step)
            for key, value in (entry.scores | entry.costs).items():
                writer.add_scalar(key, value, entry.last_step)
            _add_images(writer, entry.images, entry.last_step)
            writer.add_text("config", _code(entry.config))

    def log_report(self, entry: ReportEntry, identity: str) -> None:
        """Its tables as text, and its figures."""
        with self._written("report") as writer:
            for name, table in entry.tables.items():
                rows = table.astype(object).where(table.notna(), NOTHING).values.tolist()
                cells = [[escape(str(cell)) for cell in row] for row in rows]
                writer.add_text(name, markdown_table(list(table.columns), cells))
            _add_images(writer, entry.figures, 0)
            writer.add_text("config", _code(entry.config))

    @contextmanager
    def _written(self, name: str) -> Iterator[Any]:
        """A writer to the folder of this name, without what was there."""
        folder = self.folder / name
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with self.writer(str(folder)) as writer:
            yield writer


def _add_images(writer: Any, images: Iterable[Example], step: int) -> None:
    for one in images:
        writer.add_image(one.key, read_image(one.path), step, dataformats="HWC")


def _code(config: dict[str, Any]) -> str:
    """`config` as Markdown that is shown as it stands."""
    text = json.dumps(config, indent=2, default=str)
    return "".join(f"    {line}\n" for line in text.splitlines())
