"""The report of a run directory: index.html, report.md, tables and figures.

    write_report(Path("runs/pocket-1a2b3c4d"))      # -> runs/pocket-1a2b3c4d/report.md
    write_joint_report([Path("runs/seed-0"), Path("runs/seed-1")], Path("reports/both"))

No model is needed: a report can be written again anywhere, from a copy of the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import PRIOR_PROMPT, Prompt, UserError
from benchmark.report.cost import cost
from benchmark.report.figures.drawing import SCREEN, Style, figure_files
from benchmark.report.image_grid import GridBlock, GridRow, grid_png
from benchmark.report.references import reference_images
from benchmark.report.sections import report_text
from benchmark.report.table_formats import csv_text, latex
from benchmark.report.tables import score_tables
from benchmark.results.completeness import check_complete
from benchmark.results.merge import SOURCES, check_folder, join, sources_toml
from benchmark.results.run import Run, run_of
from benchmark.results.scores import scores_csv
from benchmark.results.statistics import summary_csv
from benchmark.store.directory import PAGE, REPORT
from benchmark.store.files import remove_leftovers, write_atomically, writing
from benchmark.store.names import folder_name
from benchmark.store.reading import read_contents

_GRID_SUBJECTS, _GRID_PROMPTS = 4, 4
_OURS = (".png", ".svg", ".csv", ".tex")  #: the files that a report writes to its folders


@dataclass(frozen=True)
class Figures:
    """How a report's figures are drawn."""

    style: Style = SCREEN
    metrics: tuple[str, ...] = ()  #: those that they show; none: all


_ALL = Figures()


def write_report(
    run_directory: Path,
    *,
    partial: bool = True,
    as_found: bool = False,
    figures: Figures = _ALL,
    published: bool = False,
) -> Path:
    """Write index.html, report.md, summary.csv, tables/ and figures/; returns report.md's path.

    `published`: with rows of other papers.

    Raises UserError if it is no run directory, if no job has finished, if `partial` is not set
    and a job is missing, if `as_found` is not set and a file was altered, or if `figures` have a
    metric without scores.
    """
    run = _read(run_directory, as_found)
    if not partial:
        check_complete(run)
    return write_report_of(run, figures, published=published)


def write_joint_report(
    run_directories: Sequence[Path],
    directory: Path,
    *,
    partial: bool = False,
    as_found: bool = False,
    figures: Figures = _ALL,
    published: bool = False,
) -> Path:
    """Write the report of several runs to `directory`, with their scores.csv and sources.toml.

    The same bytes in whichever order they are given. Raises UserError if the runs do not fit
    together, if the folder is another's, or as `write_report`.
    """
    check_folder(directory)
    runs = [_read(path, as_found) for path in run_directories]
    run = join(runs, directory, partial=partial)
    remove_leftovers(directory)
    write_atomically(directory / SOURCES, sources_toml(run))
    write_atomically(directory / "scores.csv", scores_csv(run.scores, run.unscored))
    return write_report_of(run, figures, published=published)


def _read(run_directory: Path, as_found: bool) -> Run:
    contents = read_contents(run_directory)
    if not as_found:
        contents.check(", or report what there is with --as-found")
    return run_of(contents)


def write_report_of(run: Run, figures: Figures = _ALL, *, published: bool = False) -> Path:
    """As `write_report`, of a run that was read."""
    from benchmark.report.gallery import gallery
    from benchmark.report.page_html import page_html

    views = {label: run.under(label) for label in run.protocols}
    summaries = {label: view.summary for label, view in views.items()}
    files: dict[str, str | bytes] = {"summary.csv": summary_csv(summaries)}
    tables = {"cost": cost(run)}
    for label, view in views.items():
        folder = folder_name(label)
        tables |= {f"{folder}/{folder_name(t.name)}": t for t in score_tables(view)}
    for name, table in tables.items():
        files |= {f"tables/{name}.csv": csv_text(table), f"tables/{name}.tex": latex(table)}
    drawn = _figures(run, views, figures)
    pictures: dict[str, bytes] = {}
    for name, figure in drawn.items():
        pictures |= figure_files(f"figures/{name}", figure, figures.style.formats)
    files |= pictures
    if grid := _grid(run):
        files["figures/grid.png"] = grid
    told = {*drawn, *(["grid"] if grid else [])}
    text = report_text(run, figures=told, published=published)
    vectors = {name: pictures[f"figures/{name}.svg"] for name in drawn}
    files[PAGE] = page_html(text, figures=vectors, content=gallery(run))
    with writing(run.directory):
        _replace(run.directory, files | {REPORT: text})
    return run.directory / REPORT


def _figures(run: Run, views: dict[str, Run], figures: Figures) -> dict[str, Any]:
    """The matplotlib figures that there are scores for, by their files' names in figures/.

    Raises UserError for a metric that no protocol has scores in.
    """
    from benchmark.report.figures.bars import draw_bars
    from benchmark.report.figures.heat_map import draw_heat_map
    from benchmark.report.figures.learning import draw_learning
    from benchmark.report.figures.scatter import draw_fidelity
    from benchmark.report.figures.steps import draw_steps

    there = {metric: None for view in views.values() for metric in view.metrics}
    for metric in figures.metrics:
        if metric not in there:
            raise UserError(f"{run.directory} has no metric '{metric}'; it has {', '.join(there)}")
    style = figures.style
    drawn = {"learning": draw_learning(run, style)}
    for label, view in views.items():
        folder = folder_name(label)
        chosen = view.of_metrics(figures.metrics) if figures.metrics else view
        drawn |= {
            f"{folder}/fidelity": draw_fidelity(chosen, style),
            f"{folder}/bars": draw_bars(chosen, style),
            f"{folder}/subjects": draw_heat_map(chosen, style),
            f"{folder}/steps": draw_steps(chosen, style),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _replace(directory: Path, files: dict[str, str | bytes]) -> None:
    """Write `files`, and remove those of an earlier report that this one does not have."""
    for name, content in files.items():
        write_atomically(directory / name, content)
    for top in ("figures", "tables"):
        there = [*directory.glob(f"{top}/*.*"), *directory.glob(f"{top}/*/*.*")]
        gone = [path for path in there if path.relative_to(directory).as_posix() not in files]
        for path in [path for path in gone if _is_ours(path)]:
            path.unlink()
        for folder in directory.glob(f"{top}/*/"):
            if not any(folder.iterdir()):
                folder.rmdir()


def _is_ours(path: Path) -> bool:
    """Whether a report wrote the file: a PDF, if it wrote the same as an image."""
    return path.suffix in _OURS or (path.suffix == ".pdf" and path.with_suffix(".svg").exists())


def _grid(run: Run) -> bytes | None:
    methods = [m for m in run.methods if any(r.job.prompted for r in run.records_of(m))]
    references = reference_images(run)
    blocks = [_block(run, s, methods, references[s]) for s in grid_subjects(run)]
    blocks = [block for block in blocks if block.rows]
    return grid_png(methods, blocks) if blocks else None


def grid_subjects(run: Run) -> list[str]:
    """The subjects whose images the grid shows."""
    return _spread(sorted({record.job.subject for record in run.records}), _GRID_SUBJECTS)


def grid_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a subject whose first images the grid shows, beside the prior prompt."""
    return _spread(prompts, _GRID_PROMPTS)


def _block(
    run: Run, subject: str, methods: Sequence[str], references: tuple[Path, ...]
) -> GridBlock:
    jobs = [r.job for r in run.records if r.job.subject == subject]
    drawn = [job for job in jobs if job.prompted]
    seed = min(job.seed for job in drawn or jobs)
    noun = jobs[0].fit.class_noun
    prompts = drawn[0].prompts if drawn else ()
    rows = []
    for prompt in (*grid_prompts(prompts), PRIOR_PROMPT):
        images = tuple(run.image(m, subject, prompt, seed, 0) for m in methods)
        note = " (prior prompt)" if prompt == PRIOR_PROMPT else ""
        if any(images):
            rows.append(GridRow(prompt.text(noun) + note, images))
    title = f"{subject} ({noun}, seed {seed})"
    return GridBlock(title, references, tuple(rows))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spaced from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
