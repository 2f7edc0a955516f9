"""What a tracker is told, read from a run directory: of each finished job, and of the report.

entry = job_entry(record, scored, directory)
entry.scores["pocket-1/dino"], entry.losses[50]["subject"]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmark.api import PRIOR_PROMPT
from benchmark.report.write import grid_prompts
from benchmark.runs.score import means_of
from benchmark.store.directory import SUITE, Name, RunDirectory
from benchmark.store.files import read_bytes, toml_of
from benchmark.store.records import JobRecord, ScoreRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Example:
    """An image, and what it is of in words; `key` names it among those of its job."""

    key: str
    path: Path
    caption: str


@dataclass(frozen=True)
class JobEntry:
    """A finished job: everything in one go, as nothing of it changes any more."""

    name: Name
    label: str
    group: str  #: the run directory's name
    config: dict[str, Any]  #: what decided the job, and where it ran; JSON alone
    losses: dict[int, dict[str, float]]  #: step -> loss term -> its mean since the step before
    scores: dict[str, float]  #: `protocol/metric` -> mean over the images that have a score
    costs: dict[str, float]  #: `seconds/phase`, and what the record says of memory and pace
    images: tuple[Example, ...]

    @property
    def last_step(self) -> int:
        """Of training; 0 where nothing is trained."""
        return max(self.losses, default=0)


@dataclass(frozen=True)
class ReportEntry:
    """What the report says of the whole run."""

    group: str
    config: dict[str, Any]  #: suite.toml
    tables: dict[str, pd.DataFrame]  #: by their files' names, without suffix
    figures: tuple[Example, ...]


class Tracker(Protocol):
    """A tool that is told; both replace what was told under the same `identity` before."""

    def log_job(self, entry: JobEntry, identity: str) -> None:
        """Take down a job. May raise anything."""

    def log_report(self, entry: ReportEntry, identity: str) -> None:
        """Take down the report. May raise anything."""


def job_entry(
    record: JobRecord, scored: Sequence[ScoreRecord], directory: RunDirectory
) -> JobEntry:
    """What there is to say of a job, whose scores are those of `scored`."""
    losses: dict[int, dict[str, float]] = defaultdict(dict)
    for term, points in record.losses.items():
        for step, loss in points:
            losses[step][term] = loss
    return JobEntry(
        name=record.job.name,
        label=record.job.label,
        group=directory.path.name,
        config=_config(record),
        losses=dict(sorted(losses.items())),
        scores=_means(record.job.name, scored, directory),
        costs=_costs(record, scored),
        images=tuple(_examples(record, directory)),
    )


def report_entry(directory: RunDirectory) -> ReportEntry:
    """What the report's files say: its tables, and its figures as PNGs."""
    import pandas as pd

    root = directory.path
    files = [root / "summary.csv", *sorted((root / "tables").rglob("*.csv"))]
    figures = [(path, _stem(path, root / "figures")) for path in (root / "figures").rglob("*.png")]
    return ReportEntry(
        group=root.name,
        config=toml_of(read_bytes(root / SUITE)),
        tables={_stem(path, root): pd.read_csv(path) for path in files},
        figures=tuple(Example(f"figures/{name}", path, name) for path, name in sorted(figures)),
    )


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _config(record: JobRecord) -> dict[str, Any]:
    job = record.job
    own = {
        "method": job.method,
        "role": job.role,
        "prompts": len(job.prompts),
        "images_per_prompt": job.images_per_prompt,
        "sampler": asdict(job.sampler) if job.sampler else None,
        "provenance": record.provenance,
    }
    return {"fit": asdict(job.fit)} | own


def _means(name: Name, scored: Sequence[ScoreRecord], directory: RunDirectory) -> dict[str, float]:
    means: dict[str, float] = {}
    for label in (one.scoring.protocol for one in scored):
        found = means_of(directory.read_scores(label, name))
        means |= {f"{label}/{metric}": mean for metric, mean in found.items()}
    return means


def _costs(record: JobRecord, scored: Sequence[ScoreRecord]) -> dict[str, float]:
    seconds = asdict(record.phases) | {"score": sum(one.seconds for one in scored)}
    costs = {f"seconds/{phase}": value for phase, value in seconds.items()}
    costs["peak_memory_mb"] = record.peak_memory_mb
    for key in ("steps_per_second", "learned_numbers"):
        if (value := getattr(record, key)) is not None:
            costs[key] = value
    return costs


def _examples(record: JobRecord, directory: RunDirectory) -> list[Example]:
    """The first image of each prompt that the report's grid shows; no photographs."""
    shown = {*grid_prompts(record.job.prompts), PRIOR_PROMPT} if record.job.prompted else set()
    return [
        Example(f"images/{image.prompt.slug}", directory.path / path, image.text)
        for path, image in record.images.items()
        if image.prompt in shown and image.index == 0
    ]
