"""The run directory: where each thing lies, atomic writes, provenance.

    runs/pocket-1a2b3c4d/
        run.json                                    the configuration, and the jobs in plan order
        suite.toml                                  the suite with every setting filled in
        images/<method>/<subject>/<prompt>-s<seed>-<index>.png
        jobs/<method>/<subject>-s<seed>.csv         the job's rows of scores.csv
        jobs/<method>/<subject>-s<seed>.json        the job's record: it exists <=> the job is done
        jobs/<method>/<subject>-s<seed>.error.txt   why it failed, when it was last tried
        prior/                                      prior images, shared by all jobs
        scores.csv                                  the finished jobs' rows, in plan order

Everything is written under a temporary name (`*.tmp`) and renamed, so a file that is there is
whole.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import PRIOR, REAL, Prompt, Request, UserError
from benchmark.store.records import SCORE_COLUMNS, Job, JobRecord, Score

if TYPE_CHECKING:
    import numpy as np

PACKAGES = (
    "dreambooth-benchmark",
    "torch",
    "diffusers",
    "transformers",
    "timm",
    "open_clip_torch",
)
_LOCK = "run.lock"
RECORDS = "records.jsonl"  #: all jobs' records, in a run that was kept without its images


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, making its folder; a reader sees all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def png_bytes(image: np.ndarray) -> bytes:
    """`image`, (h, w, 3) uint8, as a PNG: the same bytes each time, no time stamp inside."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def prompt_slug(prompt: Prompt) -> str:
    """The prompt as part of a file name: `a {} in the snow` -> `a-subject-in-the-snow`."""
    if prompt.kind in (PRIOR, REAL):
        return prompt.kind
    slug = re.sub(r"\W+", "-", prompt.text("subject").lower()).strip("-")
    if len(slug) <= 100:
        return slug
    return f"{slug[:90]}-{hashlib.sha256(slug.encode()).hexdigest()[:8]}"


def image_path(method: str, subject: str, prompt: Prompt, seed: int, index: int) -> str:
    """Where an image lies, relative to the run directory."""
    return f"images/{_folder(method)}/{subject}/{prompt_slug(prompt)}-s{seed}-{index}.png"


def job_path(job: Job) -> str:
    """Where a job's files lie, relative to the run directory, without their suffix."""
    return f"jobs/{_folder(job.method)}/{job.subject}-s{job.seed}"


def _folder(method: str) -> str:
    # Outside methods are called `my_module:METHOD`, variants `name[key=value]`: not every file
    # system takes that.
    return re.sub(r"[^\w.=+-]+", "-", method).strip("-")


@dataclass(frozen=True)
class RunDirectory:
    """The folder one run writes to. Nothing is touched until `prepare`."""

    path: Path

    def check(self, configuration: str) -> None:
        """Raise UserError unless the folder is new, empty, or of the same configuration."""
        manifest = self.path / "run.json"
        try:
            if manifest.is_file():
                found = _read_json(manifest).get("configuration")
                if found != configuration:
                    raise UserError(
                        f"{self.path} holds a run of another configuration ({found}, this one is "
                        f"{configuration}); nothing was written: choose another --out, or none"
                    )
            elif self.path.exists() and any(map(_foreign, self.path.iterdir())):
                raise UserError(
                    f"{self.path} is not empty and no run directory; nothing was written: "
                    "choose another --out"
                )
        except OSError as error:
            raise UserError(f"cannot use {self.path} as --out: {error.strerror}") from error

    def prepare(self, *, configuration: str, suite_toml: str, jobs: Sequence[Job]) -> None:
        """Make the folder and write what describes the run. Raises UserError if that fails."""
        self.check(configuration)
        manifest = {"configuration": configuration, "jobs": [job_path(job) for job in jobs]}
        try:
            write_atomically(self.path / "run.json", json.dumps(manifest, indent=1) + "\n")
            write_atomically(self.path / "suite.toml", suite_toml)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from error

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

    def record(self, job: Job) -> JobRecord | None:
        """The record of a finished job, or None if the job is not done."""
        path = self._file(job, "json")
        if not path.is_file():
            return None
        try:
            record = JobRecord(**_read_json(path))
        except TypeError as error:
            raise UserError(f"{path} is no job's record ({error}): remove it") from error
        return record if record.key == job.key else None

    def write_job(
        self, record: JobRecord, job: Job, images: dict[str, np.ndarray], scores: Sequence[Score]
    ) -> None:
        """Write a job's images (relative path -> uint8), its scores and, last, its record."""
        for name, image in images.items():
            write_atomically(self.path / name, png_bytes(image))
        write_atomically(self._file(job, "csv"), _csv_text(scores))
        write_atomically(self._file(job, "json"), json.dumps(asdict(record), indent=1) + "\n")
        self._file(job, "error.txt").unlink(missing_ok=True)

    def write_error(self, job: Job, text: str) -> Path:
        """Keep why a job failed. Returns the file."""
        path = self._file(job, "error.txt")
        write_atomically(path, text)
        return path

    def job_means(self, job: Job) -> dict[str, float]:
        """A finished job's mean over its images for each metric."""
        values: dict[str, list[float]] = {}
        with self._file(job, "csv").open(newline="") as file:
            for row in csv.DictReader(file):
                values.setdefault(row["metric"], []).append(float(row["value"]))
        return {metric: sum(found) / len(found) for metric, found in values.items()}

    def assemble_scores(self) -> int:
        """Write scores.csv from the finished jobs, in plan order. Returns how many there are.

        Raises UserError if the folder is no run directory.
        """
        manifest, kept = self.path / "run.json", self.path / RECORDS
        if kept.is_file():
            return len(kept.read_text("utf-8").splitlines())  # scores.csv was kept with them
        if not manifest.is_file():
            raise UserError(f"{self.path} is no run directory: it has no run.json")
        done = [self.path / job for job in _read_json(manifest)["jobs"]]
        done = [job for job in done if Path(f"{job}.json").is_file()]
        header = ",".join(SCORE_COLUMNS) + "\n"
        rows = [Path(f"{job}.csv").read_text().partition("\n")[2] for job in done]
        write_atomically(self.path / "scores.csv", header + "".join(rows))
        return len(done)

    def image_path(self, job: Job, request: Request) -> str:
        """Where the image of a job's request lies, relative to this folder."""
        return image_path(job.method, job.subject, request.prompt, job.seed, request.index)

    def _file(self, job: Job, suffix: str) -> Path:
        return self.path / f"{job_path(job)}.{suffix}"


def _foreign(path: Path) -> bool:
    return path.name != _LOCK and path.suffix != ".tmp"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is no JSON ({error}): remove it, or choose another --out"
        ) from error


def _csv_text(scores: Sequence[Score]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    for score in scores:
        row = asdict(score)
        row["value"] = f"{score.value:.6f}"
        writer.writerow([row[column] for column in SCORE_COLUMNS])
    return buffer.getvalue()


def provenance() -> dict[str, Any]:
    """Versions, commit, machine and time of day: they go beside a result, never into its key."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """The checkout's commit, with "+dirty" if files differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return commit + ("+dirty" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@functools.cache
def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        found = re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()
