"""The run directory: where each thing lies, and how it is written and read.

    runs/pocket-1a2b3c4d/
        run.json                                     what was asked for, and what cannot change
        suite.toml                                   the suite with every setting filled in
        protocols/<protocol>.toml                    every protocol that scores here are under
        images/<method>/<subject>/<prompt>-s<seed>-<index>.png
        jobs/<method>/<subject>-s<seed>.json         its record: there <=> its images are drawn
        jobs/<method>/<subject>-s<seed>.error.txt    why it failed, when it was last tried
        scores/<protocol>/<method>/<subject>-s<seed>.csv, .json    its scores and their record
        scores/<protocol>/judges.json                how far its judges agree with themselves
        weights/<method>/<subject>-s<seed>.safetensors             with --keep-weights
        weights/<method>/<subject>-s<seed>/                        the same for other tools
        prior/<key>.safetensors, .json               prior images, shared by all jobs
        answers/<two digits>/<key>.json              what judges answered, word for word
        scores.csv                                   all scores, in the plan's order
        report.md, index.html, tables/, figures/     the report
        report.sha256                                whether it is of what is here
        claims/                                      with --shard, which process is at what
        logged/<tool>/<method>/<subject>-s<seed>.json, logged/<tool>.json    with --log, what a tool
                                                     was told of a job, and of the report

Each record and run.json has a seal, and digests of the files that it vouches for: a record of its
images, weights or rows; run.json of suite.toml, protocols/ and scores.csv. `store.reading` checks
them.

Methods, subjects and protocols stand in paths as `folder_name` has them: as they are if they are of
lower-case letters, digits and `_.=+-`, at most 100 bytes; else as much of them as can be read, and
after it digits of their SHA-256. So no two share a file, wherever the folder is copied to.

A published run (`publish`) has lines of records.jsonl.gz in place of the records' files, and
scores.csv.gz in place of scores.csv, of both of which run.json has digests; and few images.
publication.toml says who published it, and subjects/ holds the user's own photographs, where they
go along.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Prompt, Request, UserError
from benchmark.store.answers import Answer, SelfAgreement, answer_path
from benchmark.store.claims import FOLDER as CLAIMS
from benchmark.store.files import (
    WriteError,
    file_digest,
    png_bytes,
    read_json,
    remove_leftovers,
    sha256,
    write_atomically,
    writing,
)
from benchmark.store.names import folder_name
from benchmark.store.records import (
    FORMAT,
    SCORE_COLUMNS,
    AnyRecord,
    JobRecord,
    PriorRecord,
    Record,
    Score,
    ScoreRecord,
    checked,
    from_json,
    is_of_another_version,
    to_json,
)
from benchmark.store.seals import is_sealed, sealed
from benchmark.store.wording import AGAIN, READ_ANOTHER

if TYPE_CHECKING:
    import numpy as np

_LOCK = "run.lock"
_PATIENCE = 60  # seconds that a lock which others hold for a moment is waited for
#: The first line of a file of scores.
HEADER = ",".join(SCORE_COLUMNS) + "\n"
PLAN, SUITE, SCORES = "run.json", "suite.toml", "scores.csv"
#: Of a published run, as gzip files.
RECORDS, KEPT_SCORES = "records.jsonl.gz", "scores.csv.gz"
REPORT, PAGE = "report.md", "index.html"
#: What tells that these two are of what the directory holds.
REPORTED = "report.sha256"
#: In `Plan.files`, in place of a digest: the file need not be there.
ABSENT = ""
#: The same where nobody knows what the file was.
UNKNOWN = "unknown"

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
    #: path relative to the run directory -> the SHA-256s that the file may have: one, or while it
    #: is written its own and that of the file before it, which may be ABSENT
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @functools.cached_property
    def names(self) -> frozenset[Name]:
        return frozenset(job.name for job in self.jobs)


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


def agreement_path(protocol: str) -> str:
    """Where it lies how far a protocol's judges agree with themselves, likewise."""
    return f"scores/{folder_name(protocol)}/judges.json"


def weights_path(name: Name) -> str:
    """Where what a job learned lies, relative to the run directory."""
    return f"weights/{_place(name)}.safetensors"


def export_path(name: Name) -> str:
    """The folder of what other tools load of it, relative to the run directory."""
    return f"weights/{_place(name)}"


def logged_path(tool: str, name: Name | None = None) -> str:
    """What a tracker was told of a job, or else of the report, relative to the run directory."""
    return f"logged/{tool}/{_place(name)}.json" if name else f"logged/{tool}.json"


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
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Keep other runs out of the folder meanwhile. Raises UserError if one is at work.

        What a killed run had begun to write is removed: before, and afterwards that of workers. Not
        so if the folder is `shared` with processes that write to it without the lock, which is then
        waited for a while.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / _LOCK)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=_PATIENCE if shared else 0)
            except Timeout:
                raise UserError(
                    f"another run is writing to {self.path}: wait for it to end"
                ) from None
        try:
            if not shared:
                remove_leftovers(self.path)
            yield
        finally:
            with suppress(WriteError):
                if not shared:
                    remove_leftovers(self.path)
            lock.release()

    # What was asked for ----------------------------------------------------------------------

    def plan(self, *, as_found: bool = False, way_out: str = READ_ANOTHER) -> Plan | None:
        """run.json, or None if the folder is new or empty.

        Raises UserError if the folder is another's, naming the `way_out`, or, unless `as_found`, if
        run.json was changed.
        """
        path = self.path / PLAN
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file, not a folder: {way_out}")
        if not path.is_file():
            if self.path.exists() and any(map(_foreign, self.path.iterdir())):
                raise UserError(f"{self.path} is not empty and no run directory: {way_out}")
            return None
        content = read_json(path)
        if is_of_another_version(content):
            raise UserError(
                f"{path} has format {content.get('format', 1)}, and format {FORMAT} is read: it "
                f"was made by another version; {way_out}"
            )
        plan = checked(Plan, content, f"{path} is no plan of a run", mend="run it again")
        if not as_found:
            _check_seal(content, path)
        return plan

    def plan_digest(self) -> str:
        """The SHA-256 of run.json; an empty string if there is none."""
        path = self.path / PLAN
        return file_digest(path).hex() if path.is_file() else ""

    def is_reported(self) -> bool:
        """Whether the report is the one that was written of what is here, and is whole."""
        path = self.path / REPORTED
        return path.is_file() and path.read_bytes() == self._report_digest()

    def seal_report(self) -> None:
        """Take down that the report is of what is here: run.json vouches for scores and suite."""
        write_atomically(self.path / REPORTED, self._report_digest())

    def _report_digest(self) -> bytes:
        files = (self.path / name for name in (PLAN, REPORT, PAGE))
        found = [file.read_bytes() if file.is_file() else b"" for file in files]
        return (sha256("".join(map(sha256, found)).encode()) + "\n").encode()

    def write_plan(self, plan: Plan, *, suite: str, protocols: dict[str, str]) -> None:
        """Write run.json, suite.toml, and each protocol's TOML by its label."""
        files = {protocol_path(label): text.encode() for label, text in protocols.items()}
        self.write_files(plan, files | {SUITE: suite.encode()})

    def write_files(self, plan: Plan, files: Mapping[str, bytes]) -> None:
        """Write `files`, by relative path, and `plan` with their digests. Raises UserError.

        run.json comes first, and takes the files before these too; at the end it takes these
        alone. So it tells the truth at any moment, and in a new folder says whose folder it is.
        """
        now = {name: (sha256(content),) for name, content in files.items()}
        before = {name: plan.files.get(name, (ABSENT,)) for name in files}
        both = {name: tuple(dict.fromkeys((*before[name], *now[name]))) for name in files}
        self._write_plan(replace(plan, files=plan.files | both))
        for name, content in files.items():
            _write_if_other(self.path / name, content)
        self._write_plan(replace(plan, files=plan.files | now))

    def _write_plan(self, plan: Plan) -> None:
        files = {name: plan.files[name] for name in sorted(plan.files)}
        content = sealed({"format": FORMAT} | asdict(replace(plan, files=files)))
        _write_if_other(self.path / PLAN, (json.dumps(content, indent=1) + "\n").encode())

    # Jobs ------------------------------------------------------------------------------------

    def job_record(self, name: Name) -> JobRecord | None:
        """The record of a job whose images are drawn; None if they are not."""
        path = self.path / f"{job_path(name)}.json"
        record = _read_record(JobRecord, path)
        if record is not None:
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
        path = self.path / f"{job_path(name)}.error.txt"
        with writing(path):
            path.unlink(missing_ok=True)

    # Prior images ----------------------------------------------------------------------------

    def prior_record(self, key: str) -> PriorRecord | None:
        """The record of prior images that are drawn; None if they are not."""
        path = self.path / f"{prior_path(key)}.json"
        record = _read_record(PriorRecord, path)
        if record is not None:
            _check_place(record.prior.key, key, path)
        return record

    def write_prior(self, record: PriorRecord) -> None:
        """Write the record of prior images, after their file."""
        write_atomically(self.path / f"{prior_path(record.prior.key)}.json", _json_text(record))

    # Answers ---------------------------------------------------------------------------------

    def answer(self, key: str) -> Answer | None:
        """What was answered under `key`, by `Question.key`; None if nothing was."""
        path = self.path / answer_path(key)
        record = _read_record(Answer, path)
        if record is not None:
            _check_place(record.key, key, path)
        return record

    def write_answer(self, answer: Answer) -> None:
        """Keep an answer, at once: it may have been paid for."""
        write_atomically(self.path / answer_path(answer.key), _json_text(answer))

    def write_agreement(self, found: SelfAgreement) -> None:
        """Write how far a protocol's judges agree with themselves, after the answers."""
        write_atomically(self.path / agreement_path(found.protocol), _json_text(found))

    # Scores ----------------------------------------------------------------------------------

    def score_record(self, protocol: str, name: Name) -> ScoreRecord | None:
        """The record of a job's scores under a protocol, by its label.

        None if there are none, or if their file is missing or is not what was written.
        """
        path = self.path / f"{scores_path(protocol, name)}.json"
        record = _read_record(ScoreRecord, path)
        if record is None:
            return None
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
        """Write a job's scores, `score_rows`, and then their record, with their file's SHA-256.

        An earlier record goes first: it does not vouch for these.
        """
        path = scores_path(record.scoring.protocol, record.name)
        content = (HEADER + text).encode()
        (self.path / f"{path}.json").unlink(missing_ok=True)
        write_atomically(self.path / f"{path}.csv", content)
        write_atomically(
            self.path / f"{path}.json", _json_text(replace(record, rows=sha256(content)))
        )


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


def _json_text(record: AnyRecord) -> str:
    return json.dumps(to_json(record), indent=1) + "\n"


def _read_record(kind: type[Record], path: Path) -> Record | None:
    """The record in the file at `path`, if there is one. Raises UserError if it was changed."""
    if not path.is_file():
        return None
    content = read_json(path)
    record = from_json(kind, content, where=str(path))
    _check_seal(content, path)
    return record


def _check_seal(content: Any, path: Path) -> None:
    if not is_sealed(content):
        raise UserError(f"{path} was changed since it was written: {AGAIN} to make it anew")


def _write_if_other(path: Path, content: bytes) -> None:
    """Write the file unless it has this content."""
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def _check_place(found: object, expected: object, path: Path) -> None:
    """Refuse a record that lies where another's should: it was copied there or renamed."""
    if found != expected:
        raise UserError(
            f"{path} is the record of {found}, and should be that of {expected}: remove it, and "
            "run again"
        )


def _foreign(path: Path) -> bool:
    return path.name not in (_LOCK, CLAIMS) and path.suffix != ".tmp"
