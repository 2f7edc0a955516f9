"""The run directory: where each thing lies, and how it is written and read.

    runs/pocket-1a2b3c4d/
        run.json                                     what was asked for, and what cannot change
        suite.toml                                   the suite with every setting filled in
        protocols/<protocol>.toml                    every protocol that scores here are under
        images/<method>/<subject>/<prompt>-s<seed>-<index>.png
        jobs/<method>/<subject>-s<seed>.json         its record: there <=> its images are drawn
        jobs/<method>/<subject>-s<seed>.error.txt    why it failed, when it was last tried
        scores/<protocol>/<method>/<subject>-s<seed>.csv, .json    its scores and their record
        weights/<method>/<subject>-s<seed>.safetensors             with --keep-weights
        prior/<key>.safetensors, .json               prior images, shared by all jobs
        scores.csv                                   all scores, in the plan's order

Methods, subjects and protocols stand in paths as `folder_name` has them: as they are if they are of
lower-case letters, digits and `_.=+-`, at most 100 bytes; else as much of them as can be read, and
after it digits of their SHA-256. So no two share a file, wherever the folder is copied to.

A kept run (`keep`) has lines of records.jsonl in place of the records' files, and few images.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Prompt, Request, UserError
from benchmark.store.files import check_regular, png_bytes, read_json, sha256, write_atomically
from benchmark.store.names import folder_name
from benchmark.store.records import (
    FORMAT,
    SCORE_COLUMNS,
    JobRecord,
    PriorRecord,
    Score,
    ScoreRecord,
    checked,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    import numpy as np

_LOCK = "run.lock"
#: The first line of a file of scores.
HEADER = ",".join(SCORE_COLUMNS) + "\n"
PLAN, SUITE, RECORDS = "run.json", "suite.toml", "records.jsonl"

#: Method, subject and seed: what a job is called in a run directory.
Name = tuple[str, str, int]


@dataclass(frozen=True)
class PlannedJob:
    """A job that was asked for, by its name. When it is done, it has a record."""

    method: str
    subject: str
    seed: int

    @property
    def name(self) -> Name:
        return self.method, self.subject, self.seed


@dataclass(frozen=True)
class Plan:
    """run.json: the jobs in the order of the scores, and what no later command may change."""

    jobs: tuple[PlannedJob, ...]
    protocols: tuple[str, ...]  #: labels
    settled: dict[str, Any]  #: backbone, sampler, dataset: a dotted name -> its value


def image_path(method: str, subject: str, prompt: Prompt, seed: int, index: int) -> str:
    """Where an image lies, relative to the run directory."""
    return f"images/{_folder(method, subject)}/{prompt.slug}-s{seed}-{index}.png"


def request_path(name: Name, request: Request) -> str:
    """Where the image of a job's request lies, relative to the run directory."""
    method, subject, seed = name
    return image_path(method, subject, request.prompt, seed, request.index)


def job_path(name: Name) -> str:
    """Where a job's files lie, relative to the run directory, without their suffix."""
    return f"jobs/{_place(name)}"


def scores_path(protocol: str, name: Name) -> str:
    """Where a job's scores lie, relative to the run directory, without their suffix."""
    return f"scores/{folder_name(protocol)}/{_place(name)}"


def weights_path(name: Name) -> str:
    """Where what a job learned lies, relative to the run directory."""
    return f"weights/{_place(name)}.safetensors"


def prior_path(key: str) -> str:
    """Where prior images lie, relative to the run directory, without their suffix."""
    return f"prior/{key}"


def protocol_path(label: str) -> str:
    """Where a protocol's declaration lies, relative to the run directory."""
    return f"protocols/{folder_name(label)}.toml"


def _place(name: Name) -> str:
    method, subject, seed = name
    return f"{_folder(method, subject)}-s{seed}"


def _folder(method: str, subject: str) -> str:
    return f"{folder_name(method)}/{folder_name(subject)}"


@dataclass(frozen=True)
class RunDirectory:
    """The folder one run writes to. Nothing is touched until something is written."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder meanwhile. Raises UserError if one is at work."""
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / _LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise UserError(f"another run is writing to {self.path}: wait for it to end") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    # What was asked for ----------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """run.json, or None if the folder is new or empty. Raises UserError if it is another's."""
        path = self.path / PLAN
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file, not a folder: choose another --out")
        if not path.is_file():
            if self.path.exists() and any(map(_foreign, self.path.iterdir())):
                raise UserError(
                    f"{self.path} is not empty and no run directory: choose another --out"
                )
            return None
        content = read_json(path)
        found = content.get("format", 1) if isinstance(content, dict) else None
        if found != FORMAT:
            raise UserError(
                f"{path} has format {found}, and format {FORMAT} is read: it was made by another "
                "version; choose another --out"
            )
        return checked(Plan, content, f"{path} is no plan of a run", mend="run it again")

    def write_plan(self, plan: Plan, *, suite: str, protocols: dict[str, str]) -> None:
        """Write run.json, suite.toml, and each protocol's TOML by its label.

        In a new folder run.json is there first, and says whose folder it is; else it comes last.
        """
        text = json.dumps({"format": FORMAT} | asdict(plan), indent=1) + "\n"
        try:
            if not (self.path / PLAN).is_file():
                write_atomically(self.path / PLAN, text)
            for label, protocol in protocols.items():
                write_atomically(self.path / protocol_path(label), protocol)
            write_atomically(self.path / SUITE, suite)
            write_atomically(self.path / PLAN, text)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from error

    # Jobs ------------------------------------------------------------------------------------

    def job_record(self, name: Name) -> JobRecord | None:
        """The record of a job whose images are drawn; None if they are not."""
        path = self.path / f"{job_path(name)}.json"
        if not path.is_file():
            return None
        record = from_json(JobRecord, read_json(path), where=str(path))
        _check_place(record.job.name, name, path)
        return record

    def write_images(self, images: dict[str, np.ndarray]) -> dict[str, str]:
        """Write images (relative path -> uint8 (h, w, 3)); the SHA-256 of each file."""
        hashes = {}
        for name, image in images.items():
            content = png_bytes(image)
            write_atomically(self.path / name, content)
            hashes[name] = sha256(content)
        return hashes

    def write_job(self, record: JobRecord) -> None:
        """Write a job's record, after all that it vouches for."""
        path = self.path / job_path(record.job.name)
        write_atomically(path.with_name(f"{path.name}.json"), _json_text(record))
        self.clear_error(record.job.name)

    def write_error(self, name: Name, text: str) -> Path:
        """Keep why a job failed. Returns the file."""
        path = self.path / f"{job_path(name)}.error.txt"
        write_atomically(path, text)
        return path

    def clear_error(self, name: Name) -> None:
        """The job is done: forget why it failed before."""
        (self.path / f"{job_path(name)}.error.txt").unlink(missing_ok=True)

    # Prior images ----------------------------------------------------------------------------

    def prior_record(self, key: str) -> PriorRecord | None:
        """The record of prior images that are drawn; None if they are not."""
        path = self.path / f"{prior_path(key)}.json"
        if not path.is_file():
            return None
        record = from_json(PriorRecord, read_json(path), where=str(path))
        _check_place(record.prior.key, key, path)
        return record

    def write_prior(self, record: PriorRecord) -> None:
        """Write the record of prior images, after their file."""
        write_atomically(self.path / f"{prior_path(record.prior.key)}.json", _json_text(record))

    # Scores ----------------------------------------------------------------------------------

    def score_record(self, protocol: str, name: Name) -> ScoreRecord | None:
        """The record of a job's scores under a protocol, by its label.

        None if there are none, or if their file is missing or is not what was written.
        """
        path = self.path / f"{scores_path(protocol, name)}.json"
        if not path.is_file():
            return None
        record = from_json(ScoreRecord, read_json(path), where=str(path))
        _check_place(record.name, name, path)
        rows = path.with_suffix(".csv")
        whole = rows.is_file() and sha256(rows.read_bytes()) == record.rows
        return record if whole else None

    def read_scores(self, protocol: str, name: Name) -> list[Score]:
        """A job's scores under a protocol, as they were written; none if there are none."""
        path = self.path / f"{scores_path(protocol, name)}.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [_score(row, path) for row in csv.DictReader(file)]

    def write_scores(self, record: ScoreRecord, text: str) -> None:
        """Write a job's scores, `score_rows`, and then their record, with their file's SHA-256."""
        path = scores_path(record.scoring.protocol, record.name)
        content = (HEADER + text).encode()
        write_atomically(self.path / f"{path}.csv", content)
        write_atomically(
            self.path / f"{path}.json", _json_text(replace(record, rows=sha256(content)))
        )

    def assemble_scores(self) -> int:
        """Write scores.csv from the scored jobs, in plan order. Returns how many rows it has.

        Of a kept run it was kept. Raises UserError if the folder is no run directory.
        """
        if (self.path / RECORDS).is_file():
            return self._kept_rows()
        plan = self.plan()
        if plan is None:
            raise UserError(f"{self.path} is no run directory: it has no {PLAN}")
        texts = []
        for protocol in plan.protocols:
            for job in plan.jobs:
                if self.score_record(protocol, job.name):
                    path = self.path / f"{scores_path(protocol, job.name)}.csv"
                    texts.append(path.read_text("utf-8").partition("\n")[2])
        try:
            write_atomically(self.path / "scores.csv", HEADER + "".join(texts))
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from error
        return sum(text.count("\n") for text in texts)

    def _kept_rows(self) -> int:
        path = self.path / "scores.csv"
        try:
            check_regular(path)
            with path.open(encoding="utf-8") as file:
                return sum(1 for _ in file) - 1
        except (OSError, UnicodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): keep the run again") from error


def score_rows(scores: Sequence[Score]) -> str:
    """`scores` as rows of CSV, without a header: values to six decimals."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for score in scores:
        row = asdict(score)
        row["value"] = "" if score.value is None else f"{score.value:.6f}"
        writer.writerow([row[column] for column in SCORE_COLUMNS])
    return buffer.getvalue()


def _score(row: dict[str, str], path: Path) -> Score:
    try:
        numbers = {"sample": int(row["sample"]), "seed": int(row["seed"])}
        value = float(row["value"]) if row["value"] else None
        return Score(**row | numbers | {"value": value})  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path} has a row that is no score ({error}): remove the file") from error


def _json_text(record: JobRecord | PriorRecord | ScoreRecord) -> str:
    return json.dumps(to_json(record), indent=1) + "\n"


def _check_place(found: object, expected: object, path: Path) -> None:
    """Refuse a record that lies where another's should: it was copied there or renamed."""
    if found != expected:
        raise UserError(
            f"{path} is the record of {found}, and should be that of {expected}: remove it, and "
            "run again"
        )


def _foreign(path: Path) -> bool:
    return path.name != _LOCK and path.suffix != ".tmp"
