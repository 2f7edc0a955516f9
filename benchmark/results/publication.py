"""What a published run says beside a run: who published it, and the photographs that go along."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.manifest import Table, Text, read_toml
from benchmark.results.run import Run
from benchmark.store.directory import RECORDS

PUBLICATION = "publication.toml"
SUBJECTS = "subjects"  #: the folder of the user's own photographs, a dataset


class Publication(Table):
    """publication.toml."""

    by: Text  #: as they call themselves: nobody checks it


def is_published(run: Run) -> bool:
    """Whether `run` was read from a published folder: it has what that holds, and nothing else."""
    return RECORDS in run.plan.files


def published_by(directory: Path) -> str:
    """Who says to have published the folder; empty if it does not say. Raises UserError."""
    path = directory / PUBLICATION
    return read_toml(path, Publication).by if path.is_file() else ""
