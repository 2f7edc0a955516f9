"""What was altered in a run directory is forgotten, and so is done again like what never was done.

Each step leaves a directory whose records tell the truth, so a run may end between any two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.runs.plan import settled_by
from benchmark.store.answers import answer_path
from benchmark.store.contents import Contents
from benchmark.store.directory import (
    PLAN,
    UNKNOWN,
    Name,
    Plan,
    PlannedJob,
    agreement_path,
    job_path,
    prior_path,
    protocol_path,
    scores_path,
)
from benchmark.store.files import read_bytes, sha256, toml_of
from benchmark.store.records import Job, JobRecord, Phases, PriorRecord, ScoreRecord, Scoring


def whole_jobs(contents: Contents, keep_weights: bool) -> dict[Name, JobRecord]:
    """The records as they were written; without images where the job is to be done again.

    That is where one of its images was altered or, with `keep_weights`, its weights.
    """
    return {
        name: _whole(record, contents, keep_weights)
        for name, record in contents.jobs.items()
        if not contents.is_altered(f"{job_path(name)}.json")
    }


def _whole(record: JobRecord, contents: Contents, keep_weights: bool) -> JobRecord:
    again = any(map(contents.is_altered, record.images))
    kept = [*([record.weights.file] if record.weights else []), *record.exported]
    if any(map(contents.is_altered, kept)):
        again |= keep_weights
        record = replace(record, weights=None, exported={})
    if not again:
        return record
    # All of them: an image that is drawn alone may differ in its last digits.
    fitted = record.weights is not None
    phases = replace(record.phases, draw=0.0) if fitted else Phases()
    return replace(record, images={}, phases=phases)


def whole_scores(
    contents: Contents, jobs: Mapping[Name, JobRecord]
) -> dict[tuple[str, Name], ScoreRecord]:
    """Those of `jobs` of which record, rows and answers are as they were written."""
    return {
        key: record
        for key, record in contents.scores.items()
        if record.name in jobs and not any(map(contents.is_altered, _score_files(key, record)))
    }


def _score_files(key: tuple[str, Name], record: ScoreRecord) -> Iterator[str]:
    yield from (scores_path(*key) + end for end in _TOGETHER["scores"])
    yield from _answer_files(record)


def _answer_files(record: ScoreRecord) -> Iterator[str]:
    yield from (answer_path(key) for keys in record.answers.values() for key in keys)


def whole_priors(contents: Contents) -> dict[str, PriorRecord]:
    """Those of which record and images are as they were written."""
    return {
        key: record
        for key, record in contents.priors.items()
        if not any(contents.is_altered(prior_path(key) + end) for end in (".json", ".safetensors"))
    }


def rebuilt_plan(contents: Contents, jobs: Mapping[Name, JobRecord]) -> Plan:
    """run.json as the records have it; protocols in the order in which they first scored.

    What no record says, such as jobs that are not done, is for the command to say again. Raises
    UserError if the records disagree about it.
    """
    found = dict(_settled_of(jobs.values(), contents.directory.path / PLAN))
    first: dict[str, str] = {}
    files: dict[str, tuple[str, ...]] = {}
    for (label, _), record in whole_scores(contents, jobs).items():
        if label not in first:
            files[protocol_path(label)] = (_declared(record.scoring, contents.directory.path),)
        time = str(record.provenance.get("time", ""))
        first[label] = min(time, first.get(label, time))
    return Plan(
        jobs=tuple(PlannedJob(*name) for name in sorted(jobs)),
        protocols=tuple(sorted(first, key=lambda label: (first[label], label))),
        settled=found,
        files=files,
    )


def _settled_of(jobs: Iterable[JobRecord], plan: Path) -> dict[str, Any]:
    settled: dict[str, Any] = {}
    for job in (record.job for record in jobs):
        if job.fit.backbone is None or job.fit.precision is None:
            continue
        for what, value in settled_by(job.fit.backbone, job.fit.precision, job.sampler).items():
            if settled.setdefault(what, value) != value:
                raise UserError(
                    f"{plan} was changed, and cannot be made anew: the records in jobs/ have "
                    f"{what} {settled[what]!r} and {value!r}; choose another --out"
                )
    return settled


def _declared(scoring: Scoring, root: Path) -> str:
    """The SHA-256 of a protocol's file; UNKNOWN if the scores were made by other rules."""
    rules = {key: value for key, value in scoring.declaration.items() if value is not None}
    try:
        content = read_bytes(root / protocol_path(scoring.protocol))
        return sha256(content) if rules.items() <= toml_of(content).items() else UNKNOWN
    except (OSError, ValueError):
        return UNKNOWN


# Forgetting ------------------------------------------------------------------------------------

#: Folder -> the endings of files that go together, the record first.
_TOGETHER = {
    "images": (".png",),
    "weights": (".safetensors",),
    "jobs": (".json",),
    "scores": (".json", ".csv"),
    "prior": (".json", ".safetensors"),
    "answers": (".json",),
}


def forget(contents: Contents, jobs: Mapping[Name, JobRecord]) -> None:
    """Remove what was altered, and bring `jobs`, `whole_jobs`, to the records. Raises UserError.

    What stands in `Plan.files` is written anew by whoever writes it.
    """
    root = contents.directory.path
    try:
        for name, record in jobs.items():
            if record != contents.jobs[name]:
                contents.directory.write_job(record)
        for key, scored in contents.scores.items():
            if any(map(contents.is_altered, _answer_files(scored))):
                for ending in _TOGETHER["scores"]:
                    (root / (scores_path(*key) + ending)).unlink(missing_ok=True)
        for label, agreement in contents.agreements.items():
            if any(contents.is_altered(answer_path(key)) for key in agreement.answers):
                (root / agreement_path(label)).unlink(missing_ok=True)
        for one in contents.altered:
            folder = one.path.partition("/")[0]
            if folder == "weights":
                (root / one.path).unlink(missing_ok=True)
            for ending in _TOGETHER.get(folder, ()):
                (root / one.path).with_suffix(ending).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make anew what was altered in {root}: {error.strerror}: {error.filename}"
        ) from error


def told(
    contents: Contents, jobs: Mapping[Name, JobRecord], asked: Collection[Job], protocol: str
) -> Iterator[str]:
    """What becomes of each altered file in a run of `asked` under `protocol`: a line each.

    `jobs`: those that are whole, as `whole_jobs` has them.
    """
    names = {job.name for job in asked}
    owners = {path: name for name, r in contents.jobs.items() for path in _files_of(r)}
    owners |= {f"{job_path(name)}.json": name for name in names}
    scored = {scores_path(protocol, name) for name in names}
    priors = {prior_path(job.fit.prior) for job in asked if job.fit.prior}
    own = (r for key, r in contents.scores.items() if scores_path(*key) in scored)
    answers = {path for record in own for path in _answer_files(record)}
    for one in contents.altered:
        folder, _, below = one.path.partition("/")
        stem = one.path.rpartition(".")[0]
        fate = "forgotten, as this command does not ask for it"
        if not below or one.path == protocol_path(protocol) or stem in priors:
            fate = "made anew"
        elif folder == "protocols":
            fate = "left as it is: only a run under that --protocol makes it anew"
        elif stem in scored:
            fate = "scored anew"
        elif one.path in answers:
            fate = "asked anew"
        elif owners.get(one.path) in names:
            record = jobs.get(owners[one.path])
            fate = "forgotten" if record and record.images else "its job is done anew"
        yield f"{one}: {fate}"


def _files_of(record: JobRecord) -> Iterator[str]:
    yield f"{job_path(record.job.name)}.json"
    yield from record.images
    if record.weights is not None:
        yield record.weights.file
    yield from record.exported
