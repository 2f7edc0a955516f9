"""A grid from its plan to its report: what `python -m benchmark run` does."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.runs.job import Workplace
from benchmark.runs.plan import Plan, fetch_backbone, worker_memory
from benchmark.runs.progress import Display, print_memory, print_plan
from benchmark.runs.time_left import Forecast
from benchmark.runs.workers import execute, free_memory, on_cuda, worker_count
from benchmark.store.directory import RunDirectory


def run_grid(grid: Plan, path: Path, *, workers: int | None = None, dry_run: bool = False) -> int:
    """Run the jobs that are not done yet, then write scores and report. Returns the exit code.

    0: every job is done; 1: some failed; 130: interrupted, and what is done is kept. Raises
    UserError if `path` cannot be written to, or belongs to something else.
    """
    directory = RunDirectory(path)
    directory.check(grid.configuration)
    forecast = Forecast(grid)
    jobs = []
    for job in grid.jobs:
        record = directory.record(job)
        if record:
            forecast.learn(job, record)
        else:
            jobs.append(job)
    memory = None
    if jobs and not dry_run:
        fetch_backbone(grid.suite)
        memory = None if on_cuda() else worker_memory(grid.suite)
    free = free_memory()
    workers = min(workers or worker_count(len(jobs), memory=memory, free=free), max(1, len(jobs)))
    print_plan(
        grid,
        directory=path,
        finished=len(grid.jobs) - len(jobs),
        seconds=forecast.seconds(jobs),
        workers=workers,
    )
    if memory and free and memory * (workers + 1) > free:
        print_memory(memory, free)
    if dry_run:
        return 0
    with directory.locked():
        directory.prepare(
            configuration=grid.configuration, suite_toml=grid.suite.dump_toml(), jobs=grid.jobs
        )
        workplace = Workplace(grid.suite, directory)
        display = Display(grid, jobs, directory, forecast)
        try:
            with display:
                execute(forecast.order(jobs), workplace, workers=workers, listen=display)
            return _report(grid, directory, failed=[job.label for job in display.failed])
        except KeyboardInterrupt:
            done = sum(directory.record(job) is not None for job in grid.jobs)
            print(
                f"interrupted: {done} of {len(grid.jobs)} jobs are done and kept in {path}; "
                "run the same command again to go on",
                file=sys.stderr,
            )
            return 130


def _report(grid: Plan, directory: RunDirectory, *, failed: list[str]) -> int:
    from benchmark.report.write import write_report

    done = directory.assemble_scores()
    if done:
        path = write_report(directory.path)
        print_table(directory.path / "summary.csv")
        print(f"report: {path}")
        print(f"to look at: {path.with_name('index.html')}")
    if not failed:
        return 0
    held = f"the report holds the {done} that are done" if done else "there is nothing to report"
    lines = [
        f"{len(failed)} of {len(grid.jobs)} jobs failed; {held}:",
        *(f"  {label}" for label in failed),
        f"why: {directory.path}/jobs/*/*.error.txt; the same command tries them again",
    ]
    print("\n".join(lines), file=sys.stderr)
    return 1


def print_table(summary: Path) -> None:
    """Print summary.csv: a row a method, a column a metric, the mean over its 95 % interval."""
    from benchmark.report.markdown import LABELS, NOTHING
    from benchmark.results.statistics import sort_methods, sort_metrics

    with summary.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {(row["method"], row["metric"]): _cell(row) for row in rows}
    metrics = sort_metrics(row["metric"] for row in rows)
    table = Table(title="mean over subjects; below it, its 95 % interval", box=None, pad_edge=False)
    table.add_column("method", overflow="fold")
    for metric in metrics:
        table.add_column(LABELS.get(metric, metric), justify="right", overflow="fold")
    for method in sort_methods(row["method"] for row in rows):
        table.add_row(Text(method), *(cells.get((method, name), NOTHING) for name in metrics))
    # Off a terminal rich assumes 80 columns, and would break the rows.
    width = None if Console().is_terminal else 160
    Console(highlight=False, width=width).print(table)


def _cell(row: dict[str, str]) -> str:
    mean = f"{float(row['mean']):.3f}"
    if not row["low"]:
        return mean
    return f"{mean}\n[dim]{float(row['low']):.3f} {float(row['high']):.3f}[/dim]"
