"""How far a judge agrees with itself: the same is asked again, and with images in another order.

    measure(Path("runs/pocket-1a2b3c4d"), Sample(images=40, repeats=3), protocol="judged.toml")

Every answer is kept in the run directory, as those for scores are, and asked for once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev

from benchmark.api import PRIOR, REAL, UserError
from benchmark.data.images import read_image
from benchmark.grid.scoring import assessment_of, finished_run
from benchmark.models.precision import resolve_device
from benchmark.runs.existing_run import check_scoring
from benchmark.runs.score import Assessment, Examiner, one_thread
from benchmark.scoring.answering import as_it_is
from benchmark.scoring.chosen_metrics import asks_judge
from benchmark.scoring.features import Encoders
from benchmark.scoring.questions import Question
from benchmark.scoring.scorer import Scorer
from benchmark.store.answers import Repeatability, SelfAgreement, price_of, tokens_of
from benchmark.store.directory import RunDirectory
from benchmark.store.files import sha256
from benchmark.store.provenance import provenance
from benchmark.store.records import ImageRecord, JobRecord

Vary = Callable[[Question], Question]
#: An image: method, subject, seed, prompt's template, its kind, sample.
Place = tuple[str, str, int, str, str, int]


@dataclass(frozen=True)
class Sample:
    """How much is asked."""

    images: int = 40  #: of the run, chosen by a hash of their names
    repeats: int = 3  #: askings of each question as it is


@dataclass
class _Asked:
    """What one way of asking gave: by metric, the score of each image, and the answers' keys."""

    scores: dict[str, dict[Place, float | None]]
    answers: dict[str, set[str]]


def measure(
    path: Path,
    sample: Sample,
    *,
    protocol: str = "",
    encoders: Path | None = None,
    data: Path | None = None,
) -> SelfAgreement:
    """Ask the judges of a run's protocol again, and write beside its scores what that did.

    Raises UserError as `score_run`; if no metric asks a judge; and if a question has no answer now.
    """
    existing = finished_run(path)
    assessment = assessment_of(existing, protocol=protocol, encoders=encoders, data=data)
    scoring = assessment.scoring
    check_scoring(assessment, existing)
    examiner = Examiner(assessment, existing.directory, resolve_device("auto"))
    asking = [name for name, metric in examiner.scorer.metrics.items() if asks_judge(metric)]
    if not asking:
        raise UserError(
            f"no metric of protocol '{scoring.protocol}' asks a judge: choose another --protocol "
            "(docs/judges.md)"
        )
    one_thread()
    chosen = _chosen(existing.jobs.values(), sample.images)
    ways: list[Vary] = [as_it_is]
    ways += [partial(_repeated, number) for number in range(1, sample.repeats)]
    ways.append(Question.swap)
    with existing.locked():
        asked = [_ask(chosen, _varied(examiner.scorer, way), asking, examiner) for way in ways]
        found = _agreement(asked, asking, assessment, existing.directory)
        existing.directory.write_agreement(found)
    return found


def _agreement(
    asked: Sequence[_Asked],
    metrics: Sequence[str],
    assessment: Assessment,
    directory: RunDirectory,
) -> SelfAgreement:
    """What the ways of asking gave: as it is, again, and in the other order."""
    first, *again, swapped = asked
    scoring = assessment.scoring
    keys = sorted({key for one in asked for own in one.answers.values() for key in own})
    answers = [answer for answer in map(directory.answer, keys) if answer is not None]
    judges = sorted({name for metric in metrics for name in scoring.metrics[metric].encoders})
    prices = [
        price_of([a for a in answers if a.judge == scoring.encoders[name]], table)
        for name, table in assessment.protocol.encoders.items()
        if name in judges
    ]
    tokens_in, tokens_out = tokens_of(answers)
    return SelfAgreement(
        protocol=scoring.protocol,
        judges={name: scoring.encoders[name] for name in judges},
        repeats=len(asked) - 1,
        metrics={
            metric: repeatability(
                first.scores[metric],
                [one.scores[metric] for one in again],
                # Where the order is fixed, it was the same question.
                swapped.scores[metric]
                if swapped.answers[metric] != first.answers[metric]
                else None,
            )
            for metric in sorted(metrics)
        },
        answers=tuple(keys),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        price=None if None in prices else sum(price for price in prices if price is not None),
        provenance=provenance(),
    )


def repeatability(
    first: Mapping[Place, float | None],
    again: Sequence[Mapping[Place, float | None]],
    swapped: Mapping[Place, float | None] | None,
) -> Repeatability:
    """What the scores of one metric say: as it was asked, again, and in the other order."""
    every = [first, *again, *([swapped] if swapped is not None else [])]
    read = [place for place in first if all(one.get(place) is not None for one in every)]

    def changes(of: Mapping[Place, float | None]) -> list[float]:
        return [float(of[p] or 0.0) - float(first[p] or 0.0) for p in read]

    repeated = [change for one in again for change in changes(one)]
    other = changes(swapped) if swapped is not None else []
    return Repeatability(
        images=len(first),
        read=len(read),
        spread=pstdev([float(first[p] or 0.0) for p in read]) if read else None,
        change=_mean([abs(change) for change in repeated]),
        same=_mean([float(change == 0) for change in repeated]),
        swapped_change=_mean([abs(change) for change in other]),
        swapped_same=_mean([float(change == 0) for change in other]),
        swapped_shift=_mean(other),
    )


def _mean(numbers: Sequence[float]) -> float | None:
    return fmean(numbers) if numbers else None


def _repeated(number: int, question: Question) -> Question:
    return replace(question, repeat=number)


def _varied(scorer: Scorer, way: Vary) -> Scorer:
    """The scorer with the same loaded models, asking that way."""
    encoders = scorer.encoders
    return replace(scorer, encoders=Encoders(encoders.loaded, replace(encoders.asking, vary=way)))


def _chosen(
    records: Collection[JobRecord], count: int
) -> list[tuple[JobRecord, dict[str, ImageRecord]]]:
    """`count` of the images that were drawn for evaluation prompts, by job; the same each time."""
    drawn = [
        path
        for record in records
        for path, image in record.images.items()
        if image.prompt.kind not in (PRIOR, REAL)
    ]
    taken = {*sorted(drawn, key=lambda path: sha256(path.encode()))[:count]}
    found = [(r, {p: image for p, image in r.images.items() if p in taken}) for r in records]
    return [(record, images) for record, images in found if images]


def _ask(
    chosen: Sequence[tuple[JobRecord, dict[str, ImageRecord]]],
    scorer: Scorer,
    metrics: Sequence[str],
    examiner: Examiner,
) -> _Asked:
    """The scores of the images, asked in the scorer's way. Raises UserError if one may yet come."""
    asked = _Asked({metric: {} for metric in metrics}, {metric: set() for metric in metrics})
    for record, images in chosen:
        job = record.job
        requests = [image.request for image in images.values()]
        pixels = [read_image(examiner.directory.path / path) for path in images]
        found = scorer.judge(job.name, examiner.subject(job), requests, pixels, only=metrics)
        if found.unanswered:
            why = next(row.reason for row in found.rows if row.value is None and row.reason)
            raise UserError(
                f"{job.label}: a judge gives no answer now ({why}): what it answered is kept; run "
                "the same command again"
            )
        for row in found.rows:
            place = (*job.name, row.prompt, row.prompt_kind, row.sample)
            asked.scores[row.metric][place] = row.value
        for metric, keys in found.answers.items():
            asked.answers[metric] |= {*keys}
    return asked
