"""A grid that several processes do together in one run directory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.runs.machine import Resources
from benchmark.runs.plan import plan
from benchmark.runs.shared import Shard
from benchmark.store.claims import PROCESSES, Claims, Owner
from benchmark.store.directory import RunDirectory
from benchmark.store.reading import read_contents
from tests import toy
from tests.runs.test_run import grid_of, scores, suite_file
from tests.toy import ONE

__all__ = ["suite_file"]
FIRST, SECOND = (Resources(workers=1, shard=Shard(number, 2)) for number in (1, 2))


def records(run: Path) -> set[str]:
    return {
        p.relative_to(run / "jobs").with_suffix("").as_posix() for p in run.glob("jobs/*/*.json")
    }


@pytest.mark.more
def test_a_shard_leaves_what_another_process_is_at_and_the_last_one_reports(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(suite_file, "tests.toy:PRIMED", "untuned")
    run, whole = tmp_path / "run", tmp_path / "whole"
    far = Claims(run, owner=replace(Owner.this(), host="far", machine="far"))
    assert far.take(f"{PROCESSES}/far") and far.take("jobs/untuned/dog-red-s0")
    assert run_grid(grid, run, resources=FIRST) == 0
    assert "1 other process still at work here: the last one" in capsys.readouterr().out
    assert len(records(run)) == 5 and "untuned/dog-red-s0" not in records(run)
    assert not (run / "report.md").exists()
    with pytest.raises(UserError, match="process [0-9]+ on far is at work in .* with --shard"):
        run_grid(grid, run, resources=ONE)
    far.give_back("jobs/untuned/dog-red-s0")
    far.give_back(f"{PROCESSES}/far")
    assert run_grid(grid, run, resources=SECOND) == 0
    assert (run / "report.md").exists() and len(records(run)) == 6
    assert run_grid(grid, whole, resources=ONE) == 0
    assert scores(run) == scores(whole)
    assert not read_contents(run).altered and not Claims(run).others()


@pytest.mark.more
def test_shards_begin_with_other_parts(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:PAINT")
    begun = []
    for resources in (FIRST, SECOND):
        run = tmp_path / str(len(begun))
        assert run_grid(grid, run, resources=resources) == 0
        begun.append(min(run.glob("jobs/*/*.json"), key=lambda path: path.stat().st_mtime_ns).name)
    assert begun[0] != begun[1]


@pytest.mark.more
def test_what_another_process_failed_at_is_tried_once_more_by_the_next_command_alone(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(suite_file, "tests.toy:RAISES")
    run = tmp_path / "run"
    assert run_grid(grid, run, resources=FIRST) == 1
    assert "FAILED: RuntimeError: the paint is dry" in capsys.readouterr().out
    assert run_grid(grid, run, resources=SECOND) == 1
    assert "FAILED: RuntimeError: the paint is dry" in capsys.readouterr().out


def test_who_ends_before_others_is_gone_when_the_next_one_looks(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two that end at once would each leave the report to the other."""
    run, seen = tmp_path / "run", []
    far = Claims(run, owner=replace(Owner.this(), host="far", machine="far"))
    assert far.take(f"{PROCESSES}/far")
    locked = RunDirectory.locked

    @contextmanager
    def watched(directory: RunDirectory, **how: bool) -> Iterator[None]:
        with locked(directory, **how):
            yield
            seen.append(far.processes())

    monkeypatch.setattr(RunDirectory, "locked", watched)
    assert run_grid(grid_of(suite_file, "untuned"), run, resources=FIRST) == 0
    assert [len(others) for others in seen] == [1, 0], "as it began, and as it ended"


def test_what_another_process_left_undone_is_done_before_the_report(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between this one's last look at the tasks and its look at who is at work."""
    run, looks = tmp_path / "run", []
    far = Claims(run, owner=replace(Owner.this(), host="far", machine="far"))
    assert far.take(f"{PROCESSES}/far") and far.take("jobs/untuned/dog-red-s0")
    locked = RunDirectory.locked

    @contextmanager
    def watched(directory: RunDirectory, **how: bool) -> Iterator[None]:
        with locked(directory, **how):
            looks.append(len(records(run)))
            if len(looks) == 2:
                far.give_back("jobs/untuned/dog-red-s0")
                far.give_back(f"{PROCESSES}/far")
            yield

    monkeypatch.setattr(RunDirectory, "locked", watched)
    assert run_grid(grid_of(suite_file, "untuned"), run, resources=FIRST) == 0
    assert looks == [0, 2, 3] and (run / "report.md").exists()


@pytest.mark.parametrize(
    ("was", "now", "what"),
    [
        (
            'model = "colours"',
            'model = "inks"',
            "with backbone 'colours@.*', and here it is 'inks@",
        ),
        ("[groups]", "[methods.'tests.toy:RAISES']\nsteps = 4\n[groups]", "'steps' of method"),
        ("clip_i = {}", "clip_i = { factor = 2.0 }", "with protocol 'toy-1' of SHA-256"),
    ],
)
def test_a_shard_that_asks_for_something_else_is_refused_before_the_first_job_is_done(
    suite_file: Path, tmp_path: Path, was: str, now: str, what: str
) -> None:
    run, other = tmp_path / "run", suite_file.with_name("other.toml")
    other.write_text(suite_file.read_text().replace(was, now))
    far = Claims(run, owner=replace(Owner.this(), host="far", machine="far"))
    assert far.take(f"{PROCESSES}/far")
    first, second = (
        plan(load_suite(str(file)), ["tests.toy:RAISES"], subjects=["dog-blue"])
        for file in (suite_file, other)
    )
    assert run_grid(first, run, resources=FIRST) == 1 and not records(run)
    with pytest.raises(UserError, match=f"others are at work in .*{what}"):
        run_grid(second, run, resources=SECOND)


def test_what_was_made_otherwise_meanwhile_is_in_no_report(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another version of a method, which no plan shows."""
    run, newer, looks = tmp_path / "run", tmp_path / "newer", []
    with monkeypatch.context() as patch:
        patch.setattr(toy.Paint, "version", "2")
        assert run_grid(grid_of(suite_file, "tests.toy:PAINT"), newer, resources=ONE) == 0
    locked = RunDirectory.locked

    @contextmanager
    def watched(directory: RunDirectory, **how: bool) -> Iterator[None]:
        with locked(directory, **how):
            looks.append(directory)
            if len(looks) == 2:
                shutil.copytree(newer / "jobs", run / "jobs", dirs_exist_ok=True)
            yield

    monkeypatch.setattr(RunDirectory, "locked", watched)
    with pytest.raises(UserError, match="images made with version of method .* '2', .* '1'"):
        run_grid(grid_of(suite_file, "tests.toy:PAINT"), run, resources=FIRST)
    assert not (run / "report.md").exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/", "-1/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--shard .*such as 3/16"):
        Shard.read(text)


@pytest.mark.slow
def test_four_processes_of_which_some_are_killed_do_every_job_once(tmp_path: Path) -> None:
    """Killed at random moments and started again, twenty times."""
    suite = toy.write_world(tmp_path)
    asked = ["--suite", str(suite), "--methods", "tests.toy:SLOW,tests.toy:PRIMED"]
    asked += ["--seed", "0,1,2", "--workers", "1"]
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])

    def start(*more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmark", "run", *asked, *more]
        return subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.DEVNULL
        )

    assert start("--out", str(tmp_path / "whole")).wait() == 0
    chance, run = random.Random(0), tmp_path / "run"
    shards = [("--out", str(run), "--shard", f"{i}/4") for i in (1, 2, 3, 4)]
    processes = [start(*shard) for shard in shards]
    for _ in range(20):
        time.sleep(chance.uniform(0.5, 4))
        number = chance.randrange(4)
        processes[number].kill()
        processes[number].wait()
        processes[number] = start(*shards[number])
    codes = [process.wait() for process in processes]
    assert codes == [0] * 4
    assert (run / "report.md").exists()
    assert scores(run) == scores(tmp_path / "whole")
    assert not read_contents(run).altered
    assert not list(run.rglob("*.tmp")) and not Claims(run).others()
