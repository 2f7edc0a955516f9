"""The records that a run leaves on disk, and the keys that say what decides a result.

Three keys, each a hash over exactly what decides it, in canonical JSON:

    Fit.key        method, version, settings, model, precision, subject (its class noun, whether
                   it is live, its images), prior images, masks and assets that it uses, seed
    image_key      a fit, a prompt, a sample's index, the sampler, the noise seed
    Scoring.key    a protocol, its encoders' weights, a metric's version and scale, the identifier

So more prompts need no other fit, and another metric or protocol needs neither fit nor image.
Records are read back as what they were written as (`to_json`, `from_json`); each file says its
FORMAT. They stand in one file because a key is a hash over the records above it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.api import (
    PRIOR_PROMPT,
    REAL_PROMPT,
    Draws,
    Prompt,
    Request,
    Role,
    Sampler,
    UserError,
    noise_seed,
)
from benchmark.store.answers import Answer, SelfAgreement
from benchmark.store.seals import sealed
from benchmark.store.wording import AGAIN, in_plain_words

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Of the files that hold a record. Format 1 knew one key for fit, images and scores; format 2 had
#: no seals.
FORMAT = 3

#: What a record says of the backbone (its kind and id) and the version of a method that did not
#: run here; its one setting is a hash of the job's images, and so another for each job.
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
    "reason",
)


def digest(content: Any) -> str:
    """16 hexadecimal digits of the SHA-256 over `content` in canonical JSON.

    A record's fields that are None or empty are left out: a field that is added later changes no
    key as long as it says nothing.
    """
    text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(content: Any) -> Any:
    if is_dataclass(content):
        found = {field.name: getattr(content, field.name) for field in fields(content)}
        return {k: _plain(v) for k, v in found.items() if v not in (None, "", (), [], {})}
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content


@dataclass(frozen=True)
class Model:
    """Which exact backbone: what `BackboneKind` says of it before it is loaded."""

    kind: str  #: as the suite names it
    version: str  #: `BackboneKind.version`
    id: str  #: `BackboneKind.identify`
    resolution: int | None = None  #: in pixels; None: the model's own

    @property
    def label(self) -> str:
        """`sd15@0123456789ab`; with its resolution, if not its own."""
        return self.id if self.resolution is None else f"{self.id} at {self.resolution} px"


@dataclass(frozen=True)
class Prior:
    """What decides a set of prior images: drawn once, for all fits that name its key."""

    backbone: Model
    precision: str
    class_noun: str
    count: int
    sampler: Sampler
    seed: int

    @cached_property
    def key(self) -> str:
        return digest(self)

    @property
    def label(self) -> str:
        return f"{self.count} prior images of '{self.class_noun}', seed {self.seed}"


@dataclass(frozen=True)
class Fit:
    """What decides what is learned."""

    method: str  #: the plugin's name, without a variant's brackets
    version: str
    settings: dict[str, Any]
    backbone: Model | None  #: None: the method needs none
    precision: str | None  #: as resolved on the machine, never "auto"
    subject: str
    class_noun: str
    live: bool
    images: str  #: SHA-256 over those of the images that are learned
    prior: str | None  #: the key of its prior images
    seed: int
    masks: str | None = None  #: SHA-256 over the user's own masks of these images, if it uses any
    #: Which exact models it uses beside the backbone, by what they are for.
    assets: dict[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        return digest(self)


def image_key(fit: Fit, request: Request, sampler: Sampler | None) -> str:
    """What decides one image; `sampler` is None for images that are not drawn."""
    asked = [request.prompt.template, request.index, request.noise_seed]
    return digest([fit.key, asked, sampler])


@dataclass(frozen=True)
class Job:
    """One method on one subject with one seed: the unit that is run, stored and resumed."""

    method: str  #: the row it has in tables: a plugin's name, a variant's, or module:ATTRIBUTE
    role: Role
    variant_of: str | None
    draws: Draws
    fit: Fit
    sampler: Sampler | None  #: None: nothing is drawn
    references: int  #: how many images the subject has
    references_digest: str  #: SHA-256 over those of all the subject's images
    prompts: tuple[Prompt, ...]
    images_per_prompt: int
    prior_prompt_images: int
    #: Prompt kind -> why no image of such a prompt is scored: the method does not set out to do it.
    unscored: dict[str, str] = field(default_factory=dict)
    #: Which of the subject's images the method looks at, by index; None: all.
    seen: tuple[int, ...] | None = None

    @property
    def subject(self) -> str:
        return self.fit.subject

    @property
    def seed(self) -> int:
        return self.fit.seed

    @property
    def name(self) -> tuple[str, str, int]:
        """Method, subject and seed: no two jobs of a run directory have the same."""
        return self.method, self.subject, self.seed

    @property
    def label(self) -> str:
        return f"{self.method} / {self.subject} / seed {self.seed}"

    @property
    def prompted(self) -> bool:
        """Whether it draws for prompts; else its images are the subject's own."""
        return self.draws == "prompts"

    @property
    def elsewhere(self) -> bool:
        """Whether another tool made its images."""
        return self.fit.version == ELSEWHERE

    @property
    def count(self) -> int:
        """How many requests there are."""
        if not self.prompted:
            return self.references
        return len(self.prompts) * self.images_per_prompt + self.prior_prompt_images

    @property
    def requests(self) -> tuple[Request, ...]:
        """What is to be made: the evaluation prompts' images, then the prior prompt's.

        A method that draws references is asked for each of them.
        """
        if not self.prompted:
            return tuple(Request(REAL_PROMPT, i, 0) for i in range(self.references))
        counts = [(p, self.images_per_prompt) for p in self.prompts]
        counts.append((PRIOR_PROMPT, self.prior_prompt_images))
        return tuple(
            Request(p, i, noise_seed(self.subject, p.template, i, self.seed))
            for p, count in counts
            for i in range(count)
        )


@dataclass(frozen=True)
class ImageRecord:
    """One image of a job."""

    prompt: Prompt
    index: int
    noise_seed: int
    text: str  #: the prompt with the class noun; a real image's file name
    key: str  #: `image_key`
    sha256: str  #: of the PNG file

    @property
    def request(self) -> Request:
        return Request(self.prompt, self.index, self.noise_seed)


@dataclass(frozen=True)
class Phases:
    """Seconds of a job's phases; several drawings of one job add up."""

    loading: float = 0.0  #: the backbone, where this job was the worker's first to need it
    fit: float = 0.0
    draw: float = 0.0
    preparing: float = 0.0  #: its prior images, where this job was the worker's first to need them
    assets: float = 0.0  #: loading them, where this job was the worker's first to need them


@dataclass(frozen=True)
class KeptWeights:
    """The file of what a job learned, relative to the run directory."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class JobRecord:
    """What is kept of a job whose images are drawn. Written last."""

    job: Job
    images: dict[str, ImageRecord]  #: path relative to the run directory -> image, in order
    drawn: int  #: how many images there are; `images` of a published run has those that went along
    phases: Phases
    provenance: dict[str, Any]  #: versions, commit, device, time of day: part of no key
    peak_memory_mb: float
    steps_per_second: float | None = None  #: of training, what goes before it left out
    #: loss term -> at most 40 of (step, mean loss since the one before), unweighted
    losses: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    weights: KeptWeights | None = None
    #: What other tools load of it: path relative to the run directory -> SHA-256.
    exported: dict[str, str] = field(default_factory=dict)
    #: Numbers that were learned (those of the tensors that are no integers), and bytes of all that
    #: drawing needs of it, kept or not; None where no version before told.
    learned_numbers: int | None = None
    learned_bytes: int | None = None
    counts: dict[str, int] = field(default_factory=dict)  #: what the method counted, in words
    bytes_left: int | None = None  #: on disk, all files of the job; told by a published run only


@dataclass(frozen=True)
class PriorRecord:
    """What is kept of prior images that are drawn. Written last."""

    prior: Prior
    seconds: float
    sha256: str  #: of the file that holds them
    provenance: dict[str, Any]
    loading: float = 0.0  #: seconds for the backbone, if the worker had none yet


@dataclass(frozen=True)
class MetricRecord:
    """A metric as it was declared, so that a report needs no plugin."""

    version: str
    label: str
    about: str
    higher_is_better: bool | None
    encoders: tuple[str, ...]  #: those of the protocol that it looks through
    factor: float  #: the protocol's scale: factor * max(minimum, score)
    minimum: float | None = None
    metric: str = ""  #: the plugin's name, where the protocol gives it another
    gallery: str | None = None  #: digest of the subjects among which it ranks, if it does


@dataclass(frozen=True)
class Scoring:
    """What decides a score beside the images: a protocol, its encoders and its metrics."""

    protocol: str  #: its label, which stands in every row
    declaration: dict[str, Any]  #: the protocol's table without metrics, encoders, description
    encoders: dict[str, dict[str, Any]]  #: with `weights`, 12 digits over the model's files
    metrics: dict[str, MetricRecord]
    identifier: str | None = None  #: the suite's; None: no caption of the protocol has it

    @property
    def uses_masks(self) -> bool:
        """Whether an encoder sees the subject alone: the user's own masks may decide what it is."""
        return any("view" in table for table in self.encoders.values())

    @property
    def weights(self) -> list[str]:
        """Which exact encoders score, `dino pocket 5f03a0714fe0`, and what finds the subject."""
        return [
            *(
                f"{name} {table.get('model')} {table.get('weights', '')}".rstrip()
                for name, table in self.encoders.items()
            ),
            *dict.fromkeys(
                table["view"]["segmenter"] for table in self.encoders.values() if "view" in table
            ),
        ]

    def key(self, metric: str) -> str:
        """What decides the scores of one metric: not how it is called in tables."""
        own = self.metrics[metric]
        encoders = {name: self.encoders[name] for name in own.encoders}
        scale = [own.metric, own.version, own.factor, own.minimum]
        rules = [self.protocol, self.declaration, self.identifier]
        among = [] if own.gallery is None else [own.gallery]
        return digest([rules, encoders, metric, scale, *among])


@dataclass(frozen=True)
class ScoreRecord:
    """What is kept of a job's scores under one protocol. Written after them."""

    method: str
    subject: str
    seed: int
    scoring: Scoring
    images: str  #: digest over the scored images' SHA-256s, by path
    references: str  #: the job's `references_digest`
    seconds: float  #: several goes add up
    rows: str  #: SHA-256 of the scores' file, as it was written
    provenance: dict[str, Any]
    partial: tuple[str, ...] = ()  #: metrics that lack scores of images which came later
    masks: str | None = None  #: of the subject's own masks, if an encoder's view uses them
    #: metric -> the keys of the answers that its scores were read from, sorted
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()  #: metrics that lack answers which may yet come

    @property
    def name(self) -> tuple[str, str, int]:
        return self.method, self.subject, self.seed


@dataclass(frozen=True)
class Score:
    """One row per image and metric (long form); field order is the column order on disk.

    Where there is none, `value` is None and `reason` says why. With a value, it says what befell
    the image, which is scored all the same: under some protocols, that no subject was found in it.
    """

    method: str
    subject: str
    prompt: str
    prompt_kind: str
    sample: int
    seed: int
    metric: str
    value: float | None
    protocol: str
    reason: str = ""


def images_digest(images: dict[str, ImageRecord]) -> str:
    """What `ScoreRecord.images` says of a job's images."""
    return digest(sorted((path, image.sha256) for path, image in images.items()))


def with_images(record: JobRecord, images: dict[str, ImageRecord]) -> JobRecord:
    """`record` with these images instead of its own."""
    return replace(record, images=images)


AnyRecord = JobRecord | PriorRecord | ScoreRecord | Answer | SelfAgreement
Record = TypeVar("Record", JobRecord, PriorRecord, ScoreRecord, Answer, SelfAgreement)
_Checked = TypeVar("_Checked")


def to_json(record: AnyRecord) -> dict[str, Any]:
    """`record` as JSON, with its format, its kind and its seal."""
    return sealed({"format": FORMAT, "kind": type(record).__name__} | asdict(record))


def from_json(kind: type[Record], content: Any, *, where: str) -> Record:
    """What `to_json` made of a `kind`, whether its seal is whole or not.

    Raises UserError naming `where`, and what is amiss.
    """
    check_format(content, where)
    if kind_of(content) != kind.__name__:
        raise UserError(f"{where} is no {kind.__name__}: remove it, and {AGAIN}")
    plain = {k: value for k, value in content.items() if k not in ("format", "kind", "seal")}
    try:
        record = checked(kind, plain, where, mend="remove it, and run again")
    except UserError as error:
        if str(error).startswith(where):
            raise
        raise UserError(f"{where}: {error}: remove it, and run again") from error  # of a part of it
    if isinstance(record, JobRecord):
        _check_files(record, where)
    if isinstance(record, ScoreRecord):
        _check_encoders(record.scoring, where)
    return record


def check_format(content: Any, where: str) -> None:
    """Refuse what another version wrote. Raises UserError naming `where`."""
    if is_of_another_version(content):
        found = content.get("format", 1)
        raise UserError(
            f"{where} has format {found}, and format {FORMAT} is read: it was made by another "
            "version; run it again into a new --out"
        )


def is_of_another_version(content: Any) -> bool:
    """Whether `content`, read from JSON, is a record or run.json of another format."""
    if not isinstance(content, dict):
        return False
    if "format" not in content and "kind" not in content:
        return "job" in content or "configuration" in content  # format 1
    return isinstance(content.get("format"), int) and content["format"] != FORMAT


def kind_of(content: Any) -> str | None:
    """The name of the kind of record that `content`, read from JSON, says it is."""
    return content.get("kind") if isinstance(content, dict) else None


def _check_files(record: JobRecord, where: str) -> None:
    """Refuse a record whose files would lie elsewhere than in its run directory."""
    files = [("images", path) for path in record.images]
    if record.weights is not None:
        files.append(("weights", record.weights.file))
    files += [("weights", path) for path in record.exported]
    for folder, path in files:
        first, *others = path.split("/")
        if first != folder or not others or {"", ".", ".."} & {*others} or "\\" in path:
            raise UserError(f"{where}: {path!r} is no file in {folder}: remove it, and run again")


def _check_encoders(scoring: Scoring, where: str) -> None:
    """Refuse a record of scores that names an encoder and does not say which it was."""
    for name, metric in scoring.metrics.items():
        if unknown := sorted({*metric.encoders} - {*scoring.encoders}):
            raise UserError(
                f"{where}: metric {name!r} looks through {unknown[0]!r}, and no such encoder is on "
                "record: remove it, and run again"
            )


def checked(kind: type[_Checked], plain: Any, where: str, *, mend: str) -> _Checked:
    """`plain` as the dataclass `kind`, each field's type checked.

    Raises UserError naming `where`, the first field that is amiss, and how to `mend` it.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(plain)  # type: ignore[arg-type, no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {place}: {in_plain_words(first['msg'])}: {mend}") from error


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
