"""A run without most of its images: small enough to commit, and its report can be written anew.

    keep_run(Path("runs/reference"), Path("reports/pocket/reference"))

The copy has scores.csv, suite.toml, the jobs' records as lines of records.jsonl, and the images
that stand for the rest: those of the report's grid, and one prompt of every subject. Its report is
made from these alone, so `report` writes the same bytes again from any copy of the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, UserError
from benchmark.report.tables import bytes_left
from benchmark.report.write import grid_prompts, grid_subjects, write_report
from benchmark.results.merge import scores_csv, uneven_prompts
from benchmark.results.run import Run, check_finished, missing_jobs, read_run
from benchmark.store.directory import RECORDS, write_atomically


def keep_run(run_directory: Path, directory: Path) -> Path:
    """Copy the run to `directory` without most of its images; returns its report.md's path.

    The same bytes each time. Raises UserError if a job is missing, or if `directory` holds
    anything but an earlier copy, which is replaced.
    """
    run = read_run(run_directory)
    check_finished(run)
    if missing_jobs(run.scores) or uneven_prompts(run) or not run.records:
        raise UserError(
            f"{run_directory} is not finished: the same `run` command again goes on; keep it then"
        )
    _check_folder(directory, run_directory)
    records = [_kept(run, record) for record in run.records]
    images = sorted({path.relative_to(run_directory) for path in _images(run)})
    try:
        write_atomically(directory / RECORDS, "".join(json.dumps(r) + "\n" for r in records))
        write_atomically(directory / "suite.toml", (run_directory / "suite.toml").read_bytes())
        write_atomically(directory / "scores.csv", scores_csv(run.scores))
        if (directory / "images").is_dir():
            shutil.rmtree(directory / "images")
        for name in images:
            write_atomically(directory / name, (run_directory / name).read_bytes())
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    return write_report(directory)


def _check_folder(directory: Path, run_directory: Path) -> None:
    try:
        if directory.resolve() == run_directory.resolve():
            raise UserError(f"{directory} is the run itself: choose another folder")
        kept = not directory.exists() or (directory / RECORDS).is_file()
        if not kept and any(directory.iterdir()):
            raise UserError(
                f"{directory} is not empty and holds no run kept earlier (no {RECORDS}); nothing "
                "was written: choose another folder"
            )
    except OSError as error:
        raise UserError(f"cannot use {directory}: {error.strerror}") from error


def _kept(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """The record without the list of its files, and with how much they were."""
    kept = {key: value for key, value in record.items() if key != "files"}
    return kept | {"bytes_left": bytes_left(run, record)}


def _images(run: Run) -> Iterable[Path]:
    """The files that are kept: of the lowest seed, and of each prompt the first."""
    grid = grid_subjects(run)
    seeds: dict[str, int] = {}
    for job in (record["job"] for record in run.records):
        seeds[job["subject"]] = min(job["seed"], seeds.get(job["subject"], job["seed"]))
    for job in (record["job"] for record in run.records):
        subject, prompts = job["subject"], [Prompt(**prompt) for prompt in job["prompts"]]
        wanted = [*grid_prompts(prompts), PRIOR_PROMPT] if subject in grid else prompts[:1]
        if job["seed"] == seeds[subject]:
            found = [run.image(job["method"], subject, p, job["seed"], 0) for p in wanted]
            yield from (path for path in found if path)
            first = run.image(job["method"], subject, REAL_PROMPT, job["seed"], 0)
            if first:
                yield from first.parent.glob(f"*-s{job['seed']}-*.png")
