"""A run over a folder of checkpoints, and one that goes on while the folder fills.

asked = Asked(folder, suite, Named("sks"), grid_of, resources)
run_checkpoints(asked, Which(every=500), out=None, dry_run=False)
watch_checkpoints(asked, Which(), out=None, patience=600)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.grid.reporting import report
from benchmark.grid.running import run_grid
from benchmark.models.files.trained_files import trained_files
from benchmark.results.run import read_run
from benchmark.runs.machine import ALL, Resources
from benchmark.runs.plan import Grid
from benchmark.store.directory import PLAN, SCORES, RunDirectory
from benchmark.store.files import resolved
from benchmark.store.names import folder_name
from benchmark.store.records import digest
from benchmark.studies.checkpoint_curve import write_checkpoint_curve
from benchmark.studies.checkpoints import Named, Trained, Which, checkpoints, with_checkpoints

SETTLED = 5.0  #: seconds for which what is being written has to stand still
POLL = 1.0  #: seconds between two looks into a folder
_SHORT = "it is shorter than its header says"


@dataclass(frozen=True)
class Asked:
    """What is done with each checkpoint of a folder."""

    folder: Path
    suite: Suite
    named: Named
    plan: Callable[[Suite, list[str]], Grid]  #: a suite and its methods -> the grid
    resources: Resources = ALL

    def grid(self, found: Sequence[Trained]) -> Grid:
        """The plan for these. Raises UserError for one that is not whole, or not known."""
        return self.plan(*with_checkpoints(self.suite, found, self.named))

    def place(self, grid: Grid) -> Path:
        """Where its run goes unless it is told otherwise, whatever the folder holds by then."""
        folder = resolved(self.folder)
        what = [grid.settled, str(folder), grid.subjects, self.named.settings()]
        name = folder_name(folder.name)
        return Path("runs") / f"checkpoints-{name}-{digest(what)[:8]}"


def run_checkpoints(asked: Asked, which: Which, out: Path | None, *, dry_run: bool) -> int:
    """Draw, score and report the checkpoints that are there. Returns `run_grid`'s exit code.

    Raises UserError if there are none, and for one that is not whole.
    """
    folder = checkpoints(asked.folder)
    for path in folder.unfinished:
        raise UserError(
            f"{path} is not whole: {_SHORT}; wait until it is written, or --watch, which waits"
        )
    found = which.of(folder.found)
    _tell_left_out(folder.unnumbered)
    if not found:
        raise UserError(_none_found(asked.folder, which, folder.found))
    _tell(found)
    grid = asked.grid(found)
    path = out or asked.place(grid)
    code = run_grid(grid, path, resources=asked.resources, dry_run=dry_run)
    if not dry_run and code != 130:
        _write_curve(path, found)
    return code


def watch_checkpoints(
    asked: Asked, which: Which, out: Path | None, patience: float | None = None
) -> int:
    """The same, and go on with those that come, until Ctrl-C.

    Or until for `patience` seconds none has come. Returns 1 if a job failed or a checkpoint never
    became whole, 130 if a job was interrupted, else 0.
    """
    watch = Watch(asked.folder, which)
    path, code, since = out, 0, time.monotonic()
    _tell_left_out(checkpoints(asked.folder).unnumbered)
    print(f"watching    {asked.folder}: Ctrl-C ends it, with the report as it stands", flush=True)
    try:
        while patience is None or time.monotonic() - since < patience:
            if watch.look() and (found := watch.there()):
                _tell(found)
                try:
                    grid = asked.grid(found)
                except UserError:
                    if found != watch.there():  # one was taken away meanwhile
                        continue
                    raise
                path = path or asked.place(grid)
                code = run_grid(grid, path, resources=asked.resources)
                if code == 130:
                    break
                _write_curve(path, found)
                since = time.monotonic()
            else:
                time.sleep(POLL)
    except KeyboardInterrupt:
        pass
    if code == 130 and path is not None and (path / PLAN).is_file():
        report(RunDirectory(path), [], 0)
        _write_curve(path, sorted(watch.known))
    for place, why in watch.waiting.items():
        print(f"failed      {place} never became whole: {why}", flush=True)
    if not watch.known:
        raise UserError(f"no whole checkpoint came to {asked.folder}")
    return code or int(bool(watch.waiting))


@dataclass
class Watch:
    """A folder that fills: what is whole by now, and what is waited for."""

    folder: Path
    which: Which = Which()
    clock: Callable[[], float] = time.monotonic
    known: dict[Trained, None] = field(default_factory=dict)  #: whole, in the order of their coming
    waiting: dict[Path, str] = field(default_factory=dict)  #: why each is waited for
    _seen: dict[Path, tuple[Any, float]] = field(default_factory=dict)

    def look(self) -> bool:
        """Look into the folder again; whether a checkpoint has become whole since.

        Whole is what has stood still for SETTLED seconds and is as long as its headers say. Raises
        UserError as `checkpoints`.
        """
        folder = checkpoints(self.folder)
        waiting = dict.fromkeys(folder.unfinished, _SHORT)
        fresh = False
        for one in self.which.of(folder.found):
            if one in self.known:
                continue
            if not self._stands_still(one.path):
                if one.path in self.waiting:
                    waiting[one.path] = self.waiting[one.path]
                continue
            try:
                trained_files(one.path).check_whole()
            except UserError as error:
                waiting[one.path] = str(error)
            else:
                self.known[one], fresh = None, True
        for path, why in waiting.items():
            if path not in self.waiting:
                print(f"waiting     for {path} to become whole: {why}", flush=True)
        self.waiting = waiting
        return fresh

    def there(self) -> list[Trained]:
        """Those that are known and still there, in their order: trainers take old ones away."""
        return sorted(one for one in self.known if one.path.exists())

    def _stands_still(self, path: Path) -> bool:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        try:
            stats = [(str(file), file.stat()) for file in files]
        except FileNotFoundError:  # a temporary file, gone since
            return False
        state, now = sorted((name, s.st_size, s.st_mtime_ns) for name, s in stats), self.clock()
        if path not in self._seen or self._seen[path][0] != state:
            self._seen[path] = state, now
        return now - self._seen[path][1] >= SETTLED


def _tell(found: Sequence[Trained]) -> None:
    names = ", ".join(str(one.number) for one in found)
    print(f"checkpoints {len(found)}, of {found[0].unit}: {names}", flush=True)


def _tell_left_out(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"left out    {path}: its name says no step, as a-step00000500 does", flush=True)


def _none_found(folder: Path, which: Which, found: Sequence[Trained]) -> str:
    if found:
        return f"{folder} has {len(found)} checkpoints, and --every {which.every} fits none"
    return (
        f"{folder} has no checkpoint: looked for are safetensors files and folders whose names end "
        "in how far they were trained, as checkpoint-500/, a-step00000500.safetensors, "
        "a-000003.safetensors"
    )


def _write_curve(path: Path, found: Sequence[Trained]) -> None:
    if (path / SCORES).is_file():
        figure = write_checkpoint_curve(read_run(path), found[0].unit)
        print(f"curve: {figure or 'none, as no checkpoint is scored'}")
