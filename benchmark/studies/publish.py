"""A run as others may have it: scores, records, suite and some of its images, in one folder.

    publish_run(Path("runs/reference"), Path("reports/pocket/reference"))

The copy has run.json, suite.toml, protocols/, scores.csv.gz, all records as lines of
records.jsonl.gz (judges' answers too), and images: all, none, or a sample, which is those of the
report's grid and one prompt of every subject. Its report is made from these alone, so `report`
writes the same bytes again from any copy, and `verify` can tell whether its numbers are those of
its images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmark.api import PRIOR_PROMPT, Subject, UserError
from benchmark.data.dataset import dataset_names, load_dataset
from benchmark.data.manifest import MANIFEST, Manifest, SubjectEntry, file_sha256, some
from benchmark.report.cost import bytes_left
from benchmark.report.write import grid_prompts, grid_subjects, write_report
from benchmark.results.completeness import check_finished, lacking_of
from benchmark.results.publication import PUBLICATION, SUBJECTS, Publication
from benchmark.results.run import Run, run_of
from benchmark.runs.score import Assessment
from benchmark.store.directory import (
    HEADER,
    KEPT_SCORES,
    RECORDS,
    SUITE,
    Plan,
    RunDirectory,
    protocol_path,
)
from benchmark.store.files import (
    gzipped,
    remove_leftovers,
    resolved,
    sha256,
    write_atomically,
    writing,
)
from benchmark.store.reading import read_contents
from benchmark.store.records import JobRecord, to_json, with_images

Images = Literal["all", "sample", "none"]


@dataclass(frozen=True)
class Wanted:
    """What of a run becomes public beside its scores and records."""

    images: Images = "sample"
    with_subjects: bool = False  #: the user's own photographs too
    by: str = ""  #: who publishes it


_SAMPLE = Wanted()


def publish_run(
    run_directory: Path,
    directory: Path,
    wanted: Wanted = _SAMPLE,
    *,
    tell: Callable[[str], object] | None = None,
) -> Path:
    """Copy the run to `directory`, with what is `wanted`; returns its report.md's path.

    The same bytes each time. An earlier copy in `directory` is replaced. `tell` gets each line of
    what becomes public, before anything is written. Raises UserError if a job is missing, or if
    `directory` holds anything else.
    """
    contents = read_contents(run_directory)
    contents.check()
    run = run_of(contents)
    check_finished(run)
    if lacking := lacking_of(run):
        raise UserError(
            f"{run_directory} is uneven: {some(lacking)}: run what is missing, then publish"
        )
    _check_folder(directory, run_directory)
    own = own_subjects(run)
    if tell is not None:
        for line in told(run, wanted):
            tell(line)
    photographs = _photographs(run_directory, own) if wanted.with_subjects else {}
    kept = [_kept(run, record, wanted, own) for record in run.records]
    records = [to_json(r) for r in kept] + [to_json(r) for r in run.scored]
    records += [to_json(r) for r in run.priors]
    records += [to_json(r) for r in run.agreements]
    records += [to_json(run.answers[key]) for key in sorted(run.answers)]
    lines = [json.dumps(record) + "\n" for record in records]
    scores = HEADER.encode() + contents.all_rows
    files = {KEPT_SCORES: gzipped(scores), RECORDS: gzipped("".join(lines).encode())}
    for name in (SUITE, *(protocol_path(label) for label in run.protocols)):
        files[name] = (run_directory / name).read_bytes()
    if wanted.by:
        files[PUBLICATION] = Publication(by=wanted.by).dump_toml().encode()
    copy, plan = _emptied(directory, run.plan)
    for name in (name for record in kept for name in record.images):
        write_atomically(directory / name, (run_directory / name).read_bytes())
    copy.write_files(plan, files | photographs)
    return write_report(directory)


def _emptied(directory: Path, plan: Plan) -> tuple[RunDirectory, Plan]:
    """The folder without what an earlier copy had, and the plan to go on with."""
    copy = RunDirectory(directory)
    without = replace(plan, files={RECORDS: (sha256(b""),)})
    # While it is written it is a published run without records, which claims nothing.
    if not (directory / RECORDS).exists():
        write_atomically(directory / RECORDS, "")
    copy.write_files(replace(without, files={}), {})
    write_atomically(directory / RECORDS, "")
    copy.write_files(without, {})
    with writing(directory):
        remove_leftovers(directory)
        for path in (directory / name for name in ("images", "protocols", SUBJECTS)):
            if path.is_symlink():  # what it leads to is somebody else's
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
        for name in (SUITE, KEPT_SCORES, PUBLICATION):
            (directory / name).unlink(missing_ok=True)
    return copy, without


def _check_folder(directory: Path, run_directory: Path) -> None:
    try:
        if resolved(directory) == resolved(run_directory):
            raise UserError(f"{directory} is the run itself: choose another folder")
        ours = not directory.exists() or (directory / RECORDS).is_file()
        if not ours and any(path.suffix != ".tmp" for path in directory.iterdir()):
            raise UserError(
                f"{directory} is not empty and holds no published run (no {RECORDS}); nothing "
                "was written: choose another folder"
            )
    except OSError as error:
        raise UserError(f"cannot use {directory}: {error.strerror}") from error


# The user's own photographs ------------------------------------------------------------------


def own_subjects(run: Run) -> dict[str, str]:
    """subject -> digest of its photographs, of those that are of no dataset of ours."""
    known = {s.digest for name in dataset_names() for s in load_dataset(name).subjects}
    jobs = (record.job for record in run.records)
    return {j.subject: j.references_digest for j in jobs if j.references_digest not in known}


def _photographs(run_directory: Path, own: dict[str, str]) -> dict[str, bytes]:
    """The photographs of these subjects as a dataset, by path. Raises UserError if one is gone."""
    if not own:
        return {}
    data = Assessment.read(run_directory / SUITE).data
    found = {subject.name: subject for subject in data.load().subjects}
    entries, files = {}, {}
    for name, digest in own.items():
        subject = found.get(name)
        if subject is None or subject.digest != digest:
            raise UserError(
                f"the photographs of '{name}' in {data.folder or data.dataset} are not those that "
                f"{run_directory} was made with: bring them back, or leave out --with-subjects"
            )
        entries[name] = _entry(subject)
        for path in subject.images:
            files[f"{SUBJECTS}/{name}/{path.name}"] = path.read_bytes()
    manifest = Manifest(name="published", subjects=entries)
    return files | {f"{SUBJECTS}/{MANIFEST}": manifest.dump_toml().encode()}


def _entry(subject: Subject) -> SubjectEntry:
    hashes = {path.name: file_sha256(path) for path in subject.images}
    return SubjectEntry(class_noun=subject.class_noun, live=subject.live, files=hashes)


def told(run: Run, wanted: Wanted) -> list[str]:
    """What becomes public, and what stays here, in words."""
    some = {"all": "all images", "sample": "a sample of the images", "none": "no image"}
    lines = [
        f"becomes public: scores and records of {len(run.records)} jobs, with settings, prompts, "
        f"names of subjects, machine and the paths in {SUITE}; {some[wanted.images]}"
    ]
    if run.answers:
        lines.append(
            f"becomes public: {len(run.answers)} answers of judges, word for word, and their "
            "servers' addresses in protocols/"
        )
    if not (own := own_subjects(run)):
        return lines
    names = ", ".join(sorted(own))
    if wanted.with_subjects:
        lines.append(
            f"becomes public: your own photographs of {names}, as the files are, with what they "
            "say of place and time"
        )
    else:
        lines.append(f"stays here: your own photographs of {names} (--with-subjects)")
    if wanted.images != "none":
        lines.append(f"becomes public: images of {names} that methods made (--images none: not)")
    return lines


# Images --------------------------------------------------------------------------------------


def _kept(run: Run, record: JobRecord, wanted: Wanted, own: dict[str, str]) -> JobRecord:
    """The record with the images that stay, and with the size of all files that there were."""
    names = {name for name in _images(run, record, wanted, own) if (run.directory / name).is_file()}
    images = {name: image for name, image in record.images.items() if name in names}
    left = bytes_left(run, record)
    return replace(with_images(record, images), bytes_left=left, weights=None, exported={})


def _images(run: Run, record: JobRecord, wanted: Wanted, own: dict[str, str]) -> Iterator[str]:
    """The images that are kept of a job.

    Of a sample: of its subject's lowest seed, the first of each prompt.
    """
    job = record.job
    photographs = not job.prompted and job.subject in own
    if wanted.images == "none" or (photographs and not wanted.with_subjects):
        return
    if wanted.images == "all":
        yield from record.images
        return
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
    sampled = {*grid_prompts(job.prompts), PRIOR_PROMPT} if in_grid else {*job.prompts[:1]}
    for name, image in record.images.items():
        if image.index == 0 and image.prompt in sampled:
            yield name
