"""The records that travel along the one path and touch disk. No torch here.

suite + methods -> plan -> [Job] -> fit -> generate -> score -> [Score] -> report
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Prompt kinds of DreamBench (paper, section 4.1), and the two that are no evaluation prompts:
#: `prior` is the prior prompt "a [class noun]" (paper, section 4.3), `real` marks a real image.
PROMPT_KINDS = ("recontextualization", "accessory", "property")
PRIOR, REAL = "prior", "real"

#: The setting that every method has unasked: it is trained on the subject's first so many images
#: (paper, Table 5), and scored against all of them. It is in a job's settings only if it is given.
SUBJECT_IMAGES = "subject_images"

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


class UserError(Exception):
    """Bad input. The command line prints it in one line and exits with code 2."""


@dataclass(frozen=True)
class Subject:
    """One subject of a dataset: a class noun and a handful of images of one individual."""

    name: str
    class_noun: str
    live: bool
    images: tuple[Path, ...]
    digest: str  #: SHA-256 over the images' SHA-256s, in order


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt, e.g. `a {} in the snow`; `{}` is where the subject phrase goes."""

    template: str
    kind: str

    def text(self, phrase: str) -> str:
        """`Prompt("a {} in the snow", ...).text("sks dog")` -> `a sks dog in the snow`."""
        return self.template.format(phrase)


PRIOR_PROMPT = Prompt("a {}", PRIOR)
REAL_PROMPT = Prompt("", REAL)


@dataclass(frozen=True)
class Request:
    """One image to make: a prompt, its index among the prompt's images, and its noise seed.

    The noise seed depends on subject, prompt, index and run seed, never on the method: methods
    share noise, so comparisons pair.
    """

    prompt: Prompt
    index: int
    noise_seed: int


def noise_seed(subject: str, template: str, index: int, seed: int) -> int:
    """A 63-bit seed from exactly (subject, prompt template, index, run seed)."""
    text = json.dumps([subject, template, index, seed])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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
