"""What a task needs and makes, as bytes: for workers that do not see the run directory.

parcel = packed(directory, needed_by(task, directory, protocol))
unpack(parcel, elsewhere)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmark.runs.agenda import Task
from benchmark.store.answers import answer_path
from benchmark.store.directory import RunDirectory, job_path, prior_path, scores_path
from benchmark.store.files import write_atomically
from benchmark.store.records import Prior

#: Path relative to a run directory -> its content.
Parcel = dict[str, bytes]


def needed_by(task: Task, directory: RunDirectory, protocol: str) -> list[str]:
    """The files in `directory` that `task` reads, but for its prior images.

    Those of a job that is drawn already, in part or wholly: its record, images, weights, and its
    scores under the protocol of that label with the answers that they were read from.
    """
    if isinstance(task, Prior) or (record := directory.job_record(task.name)) is None:
        return []
    scores = scores_path(protocol, task.name)
    found = [*record.images, f"{job_path(task.name)}.json", f"{scores}.csv", f"{scores}.json"]
    if record.weights:
        found.append(record.weights.file)
    if scored := directory.score_record(protocol, task.name):
        found += [answer_path(key) for keys in scored.answers.values() for key in keys]
    return [path for path in found if (directory.path / path).is_file()]


def prior_files(key: str) -> list[str]:
    """The files of prior images."""
    return [f"{prior_path(key)}.safetensors", f"{prior_path(key)}.json"]


def packed(directory: RunDirectory, files: Iterable[str]) -> Parcel:
    """The content of `files`."""
    return {path: (directory.path / path).read_bytes() for path in files}


def made_in(directory: RunDirectory, parcel: Parcel) -> Parcel:
    """The files of `directory` that are not as in `parcel`, each record after what it vouches for.

    Error texts are left out: whoever hears of the failure writes them.
    """
    found = {}
    paths = (path.relative_to(directory.path).as_posix() for path in _files(directory.path))
    for relative in sorted(paths, key=_last_are_records):
        content = (directory.path / relative).read_bytes()
        if parcel.get(relative) != content:
            found[relative] = content
    return found


def unpack(parcel: Parcel, directory: RunDirectory) -> None:
    """Write the files of `parcel`, in its order."""
    for relative, content in parcel.items():
        write_atomically(directory.path / relative, content)


def clear(directory: RunDirectory) -> None:
    """Remove all files but prior images, which the next task may need too."""
    for path in _files(directory.path):
        if path.parent != directory.path / "prior":
            path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt")


def _last_are_records(relative: str) -> tuple[bool, str]:
    # A job's record lies in jobs, that of its scores in scores; what is in weights is none.
    return relative.endswith(".json") and not relative.startswith("weights/"), relative
