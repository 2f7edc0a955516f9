"""The report of a run directory: index.html, report.md, tables and figures, from what lies there.

    write_report(Path("runs/pocket-1a2b3c4d"))      # -> runs/pocket-1a2b3c4d/report.md
    write_joint_report([Path("runs/seed-0"), Path("runs/seed-1")], Path("reports/both"))

Nothing here needs a model: it can be written again anywhere, from a copy of the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.api import PRIOR_PROMPT, Prompt, UserError
from benchmark.report.image_grid import Block, Row, grid_png
from benchmark.report.references import reference_images
from benchmark.report.sections import report_text
from benchmark.report.table_formats import csv_text, latex
from benchmark.report.tables import report_tables
from benchmark.results.merge import (
    SOURCES,
    check_complete,
    check_folder,
    join,
    scores_csv,
    sources_toml,
)
from benchmark.results.run import Run, read_run
from benchmark.results.statistics import summary_csv
from benchmark.store.directory import write_atomically

_GRID_SUBJECTS, _GRID_PROMPTS = 4, 4
_OURS = (".png", ".svg", ".csv", ".tex")  #: what a report leaves in its folders


def write_report(run_directory: Path, *, partial: bool = True) -> Path:
    """Write index.html, report.md, summary.csv, tables/ and figures/; returns report.md's path.

    Raises UserError if it is no run directory, if no job has finished, or if `partial` is not set
    and a job is missing.
    """
    run = read_run(run_directory)
    if not partial:
        check_complete(run)
    return _write(run)


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
    from benchmark.report.figures.heat_map import draw_heat_map
    from benchmark.report.figures.learning import draw_learning
    from benchmark.report.figures.scatter_and_bars import draw_bars, draw_fidelity, png_of, svg_of
    from benchmark.report.figures.steps import draw_steps
    from benchmark.report.gallery import gallery
    from benchmark.report.page_html import page_html

    drawn = {
        "fidelity": draw_fidelity(run.summary),
        "bars": draw_bars(run.summary),
        "subjects": draw_heat_map(run.scores),
        "steps": draw_steps(run.summary, run.records),
        "learning": draw_learning(run.records),
    }
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    vectors = {name: svg_of(figure) for name, figure in figures.items()}
    grid = _grid(run)
    text = report_text(run, figures={*figures, *(["grid"] if grid else [])})
    files: dict[str, str | bytes] = {"summary.csv": summary_csv(run.summary)}
    for table in report_tables(run):
        files[f"tables/{table.name}.csv"] = csv_text(table)
        files[f"tables/{table.name}.tex"] = latex(table)
    for name, figure in figures.items():
        files |= {f"figures/{name}.png": png_of(figure), f"figures/{name}.svg": vectors[name]}
    if grid:
        files["figures/grid.png"] = grid
    try:
        files["index.html"] = page_html(text, figures=vectors, content=gallery(run))
        _replace(run.directory, files | {"report.md": text})
    except OSError as error:
        raise UserError(f"cannot write the report to {run.directory}: {error.strerror}") from error
    return run.directory / "report.md"


def _replace(directory: Path, files: dict[str, str | bytes]) -> None:
    """Write `files` and remove what an earlier report left that this one has not."""
    for name, content in files.items():
        write_atomically(directory / name, content)
    for path in (*directory.glob("figures/*.*"), *directory.glob("tables/*.*")):
        if path.relative_to(directory).as_posix() not in files and path.suffix in _OURS:
            path.unlink()


def _grid(run: Run) -> bytes | None:
    methods = [method for method in run.methods if method != "real-images"]
    references = reference_images(run)
    blocks = [_block(run, s, methods, references[s]) for s in grid_subjects(run)]
    blocks = [block for block in blocks if block.rows]
    return grid_png(methods, blocks) if blocks else None


def grid_subjects(run: Run) -> list[str]:
    """The subjects whose images the grid shows."""
    return _spread(sorted({record["job"]["subject"] for record in run.records}), _GRID_SUBJECTS)


def grid_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a subject whose first images the grid shows, beside the prior prompt."""
    return _spread(prompts, _GRID_PROMPTS)


def _block(run: Run, subject: str, methods: Sequence[str], references: tuple[Path, ...]) -> Block:
    jobs = [r["job"] for r in run.records if r["job"]["subject"] == subject]
    seed = min(job["seed"] for job in jobs)
    noun = jobs[0]["class_noun"]
    prompts = [Prompt(**prompt) for prompt in jobs[0]["prompts"]]
    rows = []
    for prompt in (*grid_prompts(prompts), PRIOR_PROMPT):
        images = tuple(run.image(m, subject, prompt, seed, 0) for m in methods)
        note = " (prior prompt)" if prompt == PRIOR_PROMPT else ""
        if any(images):
            rows.append(Row(prompt.text(noun) + note, images))
    title = f"{subject} ({noun}, seed {seed})"
    return Block(title, references, tuple(rows))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spaced from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
