"""Scores computed anew from the images of a published folder, beside those that it states.

    for found in rescored(run, Again(tolerance=1e-3)): ...

Images that are not there are left out. Where a job lacks some, only metrics are computed that look
at each image by itself. No judge is asked: the folder's answers are read anew, each by what it was
an answer to, pixels included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Subject, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.registry import available, is_ours
from benchmark.data.copies import locate_images
from benchmark.data.dataset import Dataset, dataset_names, load_dataset, verify
from benchmark.data.images import read_image
from benchmark.data.manifest import MANIFEST, read_toml
from benchmark.results.publication import SUBJECTS
from benchmark.results.run import Run
from benchmark.scoring.chosen_metrics import asks_judge
from benchmark.scoring.kinds import DISTANCES
from benchmark.store.directory import Name, protocol_path
from benchmark.store.records import JobRecord, Scoring

if TYPE_CHECKING:
    from benchmark.scoring.scorer import Scorer

#: Of raw scores. Encoders compute in float32, so another processor or another batch moves last
#: digits; nobody claims a difference as small as this.
TOLERANCE = 1e-3
#: What an encoder's table says of the machine that scored, and not of the encoder.
_OF_MACHINE = ("directory", "key_from")
#: Of scores on the machine that made them: what six decimals leave off.
_ROUNDING = 1e-6

Image = tuple[str, str, int]  #: prompt, its kind, and sample
#: (job, metric) -> image -> its score, or None where a reason is given for none.
Stated = dict[tuple[Name, str], dict[Image, float | None]]


@dataclass(frozen=True)
class Again:
    """What scoring anew goes by."""

    tolerance: float = TOLERANCE
    data: Path | None = None  #: a copy of the subjects' photographs
    encoders: Path | None = None


@dataclass
class Rescored:
    """What came of one metric under one protocol."""

    protocol: str
    metric: str
    images: int = 0  #: how many were scored anew
    all_images: int = 0  #: how many the folder states scores of, or reasons for none
    largest: float = 0.0  #: the largest difference
    unlike: list[str] = field(default_factory=list)  #: which scores differ by more, in words
    why: str = ""  #: why none was, if none was
    by_answers: bool = False  #: a judge gave the scores: its answers were read, it was not asked
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def lacking(self) -> str:
        """Why others were not, in words."""
        return ", ".join(f"{number} images: {reason}" for reason, number in self.reasons.items())


def rescored(run: Run, again: Again) -> Iterator[Rescored]:
    """Every protocol's metrics in turn."""
    from benchmark.runs.score import one_thread

    one_thread()
    photographs = _Photographs(run, again)
    for label in run.protocols:
        view = run.under(label)
        stated = stated_scores(view)
        names = dict.fromkeys([*view.scoring.metrics, *(metric for _, metric in stated)])
        found = {name: Rescored(label, name) for name in names}
        for (_, metric), images in stated.items():
            found[metric].all_images += len(images)
        try:
            scorer = _scorer(view, again)
            for name, one in found.items():
                one.why = _told_apart(view.scoring, scorer.scoring, name)
                one.by_answers = name in scorer.metrics and asks_judge(scorer.metrics[name])
            alike = {name: one for name, one in found.items() if not one.why}
            comparing = _Comparing(scorer, photographs, stated, alike, again)
            for record in view.records:
                comparing.job(view.directory, record)
        except UserError as error:
            for one in found.values():
                one.why = one.why or str(error)
        for one in found.values():
            one.why = one.why or ("" if one.images else one.lacking)
        yield from (one for one in found.values() if one.all_images)


def stated_scores(view: Run) -> Stated:
    """What `view`, under one protocol, states."""
    found: Stated = defaultdict(dict)
    columns = ["method", "subject", "seed", "metric", "prompt", "prompt_kind", "sample", "value"]
    for table, has_value in ((view.scores, True), (view.unscored, False)):
        for row in zip(*(table[column].tolist() for column in columns), strict=True):
            method, subject, seed, metric, prompt, kind, sample, value = row
            image = (prompt, kind, sample)
            found[(method, subject, seed), metric][image] = value if has_value else None
    return found


def _scorer(view: Run, again: Again) -> Scorer:
    """What scores as `view` says, of what is installed here. Raises UserError.

    Judges are not asked: a stranger's folder would say which server gets which key of ours.
    """
    from benchmark.models.precision import resolve_device
    from benchmark.scoring.answering import Notes
    from benchmark.scoring.features import Encoders
    from benchmark.scoring.scorer import load_scorer

    protocol = read_toml(view.directory / protocol_path(view.protocol), Protocol)
    tables = {name: lasting(table) for name, table in protocol.encoders.items()}
    _check_installed(protocol, view)
    scorer = load_scorer(
        protocol.model_copy(update={"encoders": tables}),
        metrics=[name for name in view.scoring.metrics if name not in protocol.metrics],
        directory=str(again.encoders) if again.encoders else None,
        identifier=view.scoring.identifier,
        device=resolve_device("auto"),
    )
    encoders = scorer.encoders
    # Those alone that the records vouch for: another protocol may have asked again since.
    keys = {key for one in view.scored for own in one.answers.values() for key in own}
    answers = {key: answer for key, answer in view.answers.items() if key in keys}
    asking = replace(encoders.asking, memory=Notes(answers), reads_only=True)
    return replace(scorer, encoders=Encoders(encoders.loaded, asking))


def lasting(table: dict[str, Any]) -> dict[str, Any]:
    """What an encoder's table says of the encoder, and not of the machine that scored."""
    return {key: value for key, value in table.items() if key not in _OF_MACHINE}


def _told_apart(stated: Scoring, here: Scoring, name: str) -> str:
    """Why a metric's scores cannot be those that are stated; empty if they can."""
    if name not in stated.metrics:
        return "no record says how it was scored"
    mine, theirs = here.metrics.get(name), stated.metrics[name]
    if mine is None or mine.version != theirs.version:
        return f"its version is {theirs.version}, and here {mine and mine.version}"
    if here.key(name) != stated.key(name):
        return "its encoders or the protocol's rules are others here"
    return ""


def _check_installed(protocol: Protocol, view: Run) -> None:
    """Refuse to import what a stranger's folder names."""
    kinds = [str(table.get("kind")) for table in protocol.encoders.values()]
    names = [choice.metric or name for name, choice in protocol.metrics.items()]
    names += [name for name in view.scoring.metrics if name not in protocol.metrics]
    for group, wanted in (("encoders", kinds), ("metrics", names)):
        for name in wanted:
            if name not in available(group):
                raise UserError(f"'{name}' is code that is not installed here, and is not run")


class _Photographs:
    """The subjects' photographs: those that are named, came along, or come with this package."""

    def __init__(self, run: Run, again: Again) -> None:
        self._datasets: list[Dataset] = []
        if again.data is not None:
            name, root = locate_images(again.data, dataset_names()[0])
            self._datasets.append(load_dataset(name, folder=str(root)))
        if (run.directory / SUBJECTS / MANIFEST).is_file():
            self._datasets.append(load_dataset(str(run.directory / SUBJECTS)))
        self._datasets += [load_dataset(name) for name in dataset_names()]
        self._checked: dict[str, Subject | str] = {}

    def of(self, record: JobRecord) -> Subject:
        """The job's subject, its photographs whole. Raises UserError."""
        digest = record.job.references_digest
        if digest not in self._checked:
            self._checked[digest] = self._find(record)
        found = self._checked[digest]
        if isinstance(found, str):
            raise UserError(found)
        fit = record.job.fit
        return replace(found, name=fit.subject, class_noun=fit.class_noun, live=fit.live)

    def _find(self, record: JobRecord) -> Subject | str:
        why = "the subject's photographs are not here (--data DIR)"
        for dataset in self._datasets:
            for subject in dataset.subjects:
                if subject.digest == record.job.references_digest:
                    try:
                        verify(dataset, [subject])
                        return subject
                    except UserError:
                        why = f"photographs of {dataset.name} are not here (--data DIR)"
        return why


@dataclass(frozen=True)
class _Comparing:
    """Scores a protocol's jobs anew, and takes down where they are not what is stated."""

    scorer: Scorer
    photographs: _Photographs
    stated: Stated
    found: dict[str, Rescored]
    again: Again

    def job(self, directory: Path, record: JobRecord) -> None:
        """One job: all metrics if all of its images are there."""
        whole = len(record.images) == record.drawn
        chosen = {name for name in self.found if whole or self._looks_at_one(name)}
        reason, scores = "the image is not here", {}
        if record.images and chosen:
            try:
                scores = self._scores(directory, record, chosen)
            except UserError as error:
                reason = str(error)
        for name in self.found:
            for image, value in self.stated.get((record.job.name, name), {}).items():
                if (name, image) in scores:
                    self._judge(name, record, image, scores[name, image], value)
                else:
                    missing = reason if name in chosen else "it takes all images of a job"
                    self.found[name].reasons[missing] += 1

    def _looks_at_one(self, name: str) -> bool:
        """Whether a metric's score of an image does not depend on the job's other images."""
        # Of metrics from elsewhere nobody knows.
        plugin = self.scorer.scoring.metrics[name].metric
        needs = self.scorer.metrics[name].needs
        return is_ours("metrics", plugin) and not any(n.endswith(f":{DISTANCES}") for n in needs)

    def _scores(
        self, directory: Path, record: JobRecord, chosen: set[str]
    ) -> dict[tuple[str, Image], float | None]:
        """(metric, image) -> its score; None where there is a reason for none."""
        job = record.job
        scores = self.scorer.score(
            job.name,
            self.photographs.of(record),
            [image.request for image in record.images.values()],
            [read_image(directory / path) for path in record.images],
            looked_at=job.seen,
            only=chosen,
        )
        return {
            (score.metric, (score.prompt, score.prompt_kind, score.sample)): (
                None if score.prompt_kind in job.unscored else score.value
            )
            for score in scores
        }

    def _judge(
        self, name: str, record: JobRecord, image: Image, anew: float | None, stated: float | None
    ) -> None:
        one = self.found[name]
        one.images += 1
        allowed = self.again.tolerance * self.scorer.scoring.metrics[name].factor + _ROUNDING
        if anew is not None and stated is not None:
            one.largest = max(one.largest, abs(anew - stated))
            if abs(anew - stated) <= allowed:
                return
        elif anew is stated:
            return
        prompt, kind, sample = image
        texts = ["no score" if value is None else f"{value:.6f}" for value in (stated, anew)]
        one.unlike.append(
            f"{record.job.label}, '{prompt or kind}', number {sample}: stated {texts[0]}, "
            f"found {texts[1]}"
        )
