"""Which metrics a job has no scores by, or none of some images: that score records say."""

from __future__ import annotations

from benchmark.store.directory import RunDirectory
from benchmark.store.records import JobRecord, ScoreRecord, Scoring, images_digest


def unscored(record: JobRecord, scored: ScoreRecord | None, scoring: Scoring) -> set[str]:
    """The metrics of `scoring` that `scored` lacks, or has of other images than `record`'s."""
    if scored is None or not _same_images(record, scored):
        return set(scoring.metrics)
    if scored.scoring == scoring:
        return {*scored.partial}
    return {
        name
        for name in scoring.metrics
        if name not in scored.scoring.metrics
        or name in scored.partial
        or scored.scoring.key(name) != scoring.key(name)
    }


def to_score(record: JobRecord, scored: ScoreRecord | None, scoring: Scoring) -> set[str]:
    """What is `unscored`, and the metrics of `scoring` that lack answers which may yet come."""
    waiting = {*scored.unanswered} & {*scoring.metrics} if scored else set()
    return unscored(record, scored, scoring) | waiting


def refused(scored: ScoreRecord, directory: RunDirectory) -> set[str]:
    """The metrics of which a judge refused a question, and has not been asked it again."""
    found = set()
    for metric, keys in scored.answers.items():
        answers = [answer for answer in map(directory.answer, keys) if answer is not None]
        asked_again = {key for answer in answers for key in answer.after}
        if any(answer.reply.refused and answer.key not in asked_again for answer in answers):
            found.add(metric)
    return found


def _same_images(record: JobRecord, scored: ScoreRecord) -> bool:
    return (
        scored.images == images_digest(record.images)
        and scored.references == record.job.references_digest
    )


def partial(record: JobRecord, before: ScoreRecord | None, scoring: Scoring) -> tuple[str, ...]:
    """The metrics that nobody asks for now, and that lack scores of images that came since."""
    if before is None:
        return ()
    others = set(before.scoring.metrics) - set(scoring.metrics)
    return tuple(sorted(others if not _same_images(record, before) else others & {*before.partial}))
