"""A run without most of its images: small enough to commit, and enough to write its report again.

    keep_run(Path("runs/reference"), Path("reports/pocket/reference"))

The copy has run.json, suite.toml, protocols/, scores.csv, all records as lines of records.jsonl
(judges' answers too), and some images: those of the report's grid, and one prompt of every subject.
Its report is made from these alone, so `report` writes the same bytes again from any copy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark.api import PRIOR_PROMPT, UserError
from benchmark.report.cost import bytes_left
from benchmark.report.write import grid_prompts, grid_subjects, write_report
from benchmark.results.completeness import check_finished, lacking_of
from benchmark.results.run import Run, run_of
from benchmark.store.directory import (
    HEADER,
    RECORDS,
    SCORES,
    SUITE,
    RunDirectory,
    protocol_path,
)
from benchmark.store.files import remove_leftovers, resolved, sha256, write_atomically, writing
from benchmark.store.reading import read_contents
from benchmark.store.records import JobRecord, to_json, with_images


def keep_run(run_directory: Path, directory: Path) -> Path:
    """Copy the run to `directory` without most of its images; returns its report.md's path.

    The same bytes each time. An earlier copy in `directory` is replaced. Raises UserError if a job
    is missing, or if `directory` holds anything else.
    """
    contents = read_contents(run_directory)
    contents.check()
    run = run_of(contents)
    check_finished(run)
    if lacking_of(run):
        raise UserError(
            f"{run_directory} is not finished: run the same command again to resume, then keep it"
        )
    _check_folder(directory, run_directory)
    kept = [_kept(run, record) for record in run.records]
    records = [to_json(r) for r in kept] + [to_json(r) for r in run.scored]
    records += [to_json(r) for r in run.priors]
    records += [to_json(r) for r in run.agreements]
    records += [to_json(run.answers[key]) for key in sorted(run.answers)]
    lines = [json.dumps(record) + "\n" for record in records]
    files = {SCORES: HEADER.encode() + contents.all_rows, RECORDS: "".join(lines).encode()}
    for name in (SUITE, *(protocol_path(label) for label in run.protocols)):
        files[name] = (run_directory / name).read_bytes()
    images = [name for record in kept for name in record.images]
    copy = RunDirectory(directory)
    plan = replace(run.plan, files={RECORDS: (sha256(b""),)})
    # While it is written it is a kept run without records, which claims nothing.
    if not (directory / RECORDS).exists():
        write_atomically(directory / RECORDS, "")
    copy.write_files(replace(plan, files={}), {})
    write_atomically(directory / RECORDS, "")
    copy.write_files(plan, {})
    with writing(directory):
        remove_leftovers(directory)
        for folder in ("images", "protocols"):
            if (directory / folder).is_dir():
                shutil.rmtree(directory / folder)
        for name in (SUITE, SCORES):
            (directory / name).unlink(missing_ok=True)
    for name in images:
        write_atomically(directory / name, (run_directory / name).read_bytes())
    copy.write_files(plan, files)
    return write_report(directory)


def _check_folder(directory: Path, run_directory: Path) -> None:
    try:
        if resolved(directory) == resolved(run_directory):
            raise UserError(f"{directory} is the run itself: choose another folder")
        kept = not directory.exists() or (directory / RECORDS).is_file()
        if not kept and any(path.suffix != ".tmp" for path in directory.iterdir()):
            raise UserError(
                f"{directory} is not empty and holds no run kept earlier (no {RECORDS}); nothing "
                "was written: choose another folder"
            )
    except OSError as error:
        raise UserError(f"cannot use {directory}: {error.strerror}") from error


def _kept(run: Run, record: JobRecord) -> JobRecord:
    """The record with the images that stay, and with the size of all files that there were."""
    names = {name for name in _images(run, record) if (run.directory / name).is_file()}
    images = {name: image for name, image in record.images.items() if name in names}
    left = bytes_left(run, record)
    return replace(with_images(record, images), bytes_left=left, weights=None, exported={})


def _images(run: Run, record: JobRecord) -> Iterator[str]:
    """The images that are kept of a job: of its subject's lowest seed, the first of each prompt."""
    job = record.job
    seeds = [
        other.job.seed
        for other in run.records
        if other.job.subject == job.subject and other.job.prompted == job.prompted
    ]
    if job.seed != min(seeds):
        return
    if not job.prompted:
        yield from record.images
        return
    in_grid = job.subject in grid_subjects(run)
    wanted = {*grid_prompts(job.prompts), PRIOR_PROMPT} if in_grid else {*job.prompts[:1]}
    for name, image in record.images.items():
        if image.index == 0 and image.prompt in wanted:
            yield name
