"""The report of a run directory: summary.csv, report.md and figures, from what the run left there.

    write_report(Path("runs/pocket-1a2b3c4d"))      # -> runs/pocket-1a2b3c4d/report.md
    write_joint_report([Path("runs/seed-0"), Path("runs/seed-1")], Path("reports/both"))

Nothing here needs a model: it can be written again anywhere, from a copy of the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.data import load_dataset
from benchmark.finished import Run, read_run
from benchmark.image_grid import Block, Row, grid_png
from benchmark.join import SOURCES, check_folder, join, scores_csv, sources_toml
from benchmark.records import PRIOR_PROMPT, REAL_PROMPT, Prompt, UserError
from benchmark.report_text import report_text
from benchmark.stats import summary_csv
from benchmark.store import write_atomically

_GRID_SUBJECTS, _GRID_PROMPTS = 4, 4


def write_report(run_directory: Path) -> Path:
    """Write summary.csv, figures/ and report.md from what is in `run_directory`; the last's path.

    Raises UserError if it is no run directory, or if no job has finished.
    """
    return _write(read_run(run_directory))


def write_joint_report(
    run_directories: Sequence[Path], directory: Path, *, partial: bool = False
) -> Path:
    """Write the report of several runs to `directory`, with their scores.csv and sources.toml.

    The same bytes in whichever order they are given. Raises UserError if the runs do not fit
    together, if `partial` is not set and a job is missing, or if the folder is another's.
    """
    check_folder(directory)
    run = join([read_run(path) for path in run_directories], directory, partial=partial)
    try:
        write_atomically(directory / SOURCES, sources_toml(run))
        write_atomically(directory / "scores.csv", scores_csv(run.scores))
    except OSError as error:
        raise UserError(f"cannot write the report to {directory}: {error.strerror}") from error
    return _write(run)


def _write(run: Run) -> Path:
    from benchmark.figures import bars_png, fidelity_png

    figures = {
        "fidelity": fidelity_png(run.summary),
        "bars": bars_png(run.summary),
        "grid": _grid(run),
    }
    try:
        write_atomically(run.directory / "summary.csv", summary_csv(run.summary))
        for name, content in figures.items():
            path = run.directory / "figures" / f"{name}.png"
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, content)
        drawn = {name for name, content in figures.items() if content is not None}
        write_atomically(run.directory / "report.md", report_text(run, figures=drawn))
    except OSError as error:
        raise UserError(f"cannot write the report to {run.directory}: {error.strerror}") from error
    return run.directory / "report.md"


def _grid(run: Run) -> bytes | None:
    methods = [method for method in run.methods if method != "real-images"]
    subjects = sorted({record["job"]["subject"] for record in run.records})
    blocks = [_block(run, subject, methods) for subject in _spread(subjects, _GRID_SUBJECTS)]
    blocks = [block for block in blocks if block.rows]
    return grid_png(methods, blocks) if blocks else None


def _block(run: Run, subject: str, methods: Sequence[str]) -> Block:
    jobs = [r["job"] for r in run.records if r["job"]["subject"] == subject]
    seed = min(job["seed"] for job in jobs)
    noun = jobs[0]["class_noun"]
    prompts = [Prompt(**prompt) for prompt in jobs[0]["prompts"]]
    rows = []
    for prompt in (*_spread(prompts, _GRID_PROMPTS), PRIOR_PROMPT):
        images = tuple(run.image(m, subject, prompt, seed, 0) for m in methods)
        note = " (prior prompt)" if prompt == PRIOR_PROMPT else ""
        if any(images):
            rows.append(Row(prompt.text(noun) + note, images))
    title = f"{subject} ({noun}, seed {seed})"
    return Block(title, _reference_images(run, subject), tuple(rows))


def _reference_images(run: Run, subject: str) -> tuple[Path, ...]:
    """The real-images method's, which are in the run directory, or else the data set's own."""
    for job in (record["job"] for record in run.records):
        if (job["method"], job["subject"]) == ("real-images", subject):
            first = run.image("real-images", subject, REAL_PROMPT, job["seed"], 0)
            if first:
                return tuple(sorted(first.parent.glob(f"*-s{job['seed']}-*.png")))
    data = run.origins[0].suite.get("data", {})
    try:
        split, folder = data.get("split"), data.get("folder")
        found = load_dataset(data["dataset"], split=split, folder=folder).subjects
    except (UserError, KeyError):
        return ()  # the folder has been copied to where the data set is not
    return next((s.images for s in found if s.name == subject and s.images[0].is_file()), ())


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spaced from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
