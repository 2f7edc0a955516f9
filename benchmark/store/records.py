"""The records that travel along the one path and touch disk. No torch here.

suite + methods -> plan -> [Job] -> fit -> generate -> score -> [Score] -> report
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, Request, noise_seed

#: What a record says of the backbone and the version of a method that did not run here; its one
#: setting is a hash of the job's images, and so another for each job.
ELSEWHERE = "made elsewhere"

SCORE_COLUMNS = (
    "method",
    "subject",
    "prompt",
    "prompt_kind",
    "sample",
    "seed",
    "metric",
    "value",
    "protocol",
)


@dataclass(frozen=True)
class Job:
    """One method on one subject with one seed: the unit that is run, stored and resumed."""

    method: str
    method_version: str
    settings: dict[str, Any]
    subject: str
    class_noun: str
    live: bool
    images_digest: str
    backbone: str
    sampler: dict[str, Any]
    encoders: dict[str, Any]
    prompts: tuple[Prompt, ...]
    images_per_prompt: int
    prior_prompt_images: int
    seed: int
    protocol: str

    @property
    def key(self) -> str:
        """16 hex digits over everything above, in canonical JSON, and over nothing else."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        return f"{self.method} / {self.subject} / seed {self.seed}"

    def requests(self, *, prompted: bool, references: int) -> tuple[Request, ...]:
        """What is to be made: the evaluation prompts' images, then the prior prompt's.

        A method that takes no prompts (`real-images`) is asked for one image per reference.
        """
        if not prompted:
            return tuple(Request(REAL_PROMPT, i, 0) for i in range(references))
        counts = [(p, self.images_per_prompt) for p in self.prompts]
        counts.append((PRIOR_PROMPT, self.prior_prompt_images))
        return tuple(
            Request(p, i, noise_seed(self.subject, p.template, i, self.seed))
            for p, count in counts
            for i in range(count)
        )


@dataclass(frozen=True)
class Score:
    """One row per image and metric (long form); field order is the column order on disk."""

    method: str
    subject: str
    prompt: str
    prompt_kind: str
    sample: int
    seed: int
    metric: str
    value: float
    protocol: str


@dataclass(frozen=True)
class JobRecord:
    """What is kept of a finished job beside its images and scores. Written last."""

    key: str
    job: dict[str, Any]
    provenance: dict[str, Any]  #: versions, commit, device, time of day: no part of the key
    train_seconds: float
    sample_seconds: float
    score_seconds: float
    peak_memory_mb: float
    images: int
    files: dict[str, str] = field(default_factory=dict)  #: relative image path -> prompt text
    steps_per_second: float | None = None  #: of training, what goes before it left out
    #: loss term -> at most 40 of (step, mean loss since the one before), unweighted
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
