"""Whole grids: the same bytes in any order, after failures, an interruption and a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.report.write import write_report
from benchmark.runs import machine
from benchmark.runs.agenda import Agenda, work_left
from benchmark.runs.attempt import Event, Failed, Finished, Stepped
from benchmark.runs.existing_run import read_existing
from benchmark.runs.joining import joined_plan
from benchmark.runs.local_worker import ThisMachine
from benchmark.runs.machine import Resources, Slot, chosen_gpus, free_memory
from benchmark.runs.plan import Grid, plan
from benchmark.runs.score import Assessment, Examiner
from benchmark.runs.time_left import Forecast
from benchmark.runs.workers import execute
from benchmark.runs.workplace import Workplace
from benchmark.store import directory
from benchmark.store.directory import RunDirectory
from benchmark.store.reading import read_contents
from tests import toy
from tests.toy import ONE


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    return toy.write_world(tmp_path)


def grid_of(suite_file: Path, *methods: str) -> Grid:
    return plan(load_suite(str(suite_file)), methods or ("tests.toy:PRIMED", "real-images"))


def executed(
    grid: Grid,
    path: Path,
    *,
    backwards: bool = False,
    slots: tuple[Slot, ...] = (),
    job_timeout: float | None = None,
) -> list[Event]:
    """What happened as the grid was done, without plan and report; without `slots`, here."""
    existing = read_existing(RunDirectory(path))
    protocol = grid.suite.protocol
    existing.directory.write_plan(
        joined_plan(grid.jobs, grid.settled, protocol, existing), suite="", protocols={}
    )
    assessment = Assessment.of(grid.suite)
    examiner = Examiner(assessment, existing.directory, grid.device)
    left = work_left(grid.jobs, grid.priors, assessment.scoring, existing)
    agenda = Agenda(left, Forecast(grid.suite).seconds)
    if backwards:
        agenda.waiting = OrderedDict(reversed(agenda.waiting.items()))
    events: list[Event] = []
    workplace = Workplace(grid.suite, existing.directory, examiner)
    place = ThisMachine(slots, workplace) if slots else None
    execute(agenda, workplace, place=place, listen=events.append, job_timeout=job_timeout)
    read_contents(path).write_scores()
    return events


def scores(path: Path) -> bytes:
    return (path / "scores.csv").read_bytes()


def test_scores_are_the_same_bytes_in_any_order_and_twice(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file)
    executed(grid, tmp_path / "a")
    expected = scores(tmp_path / "a")
    assert expected.count(b"\n") > 50
    events = executed(grid, tmp_path / "b", backwards=True)
    assert scores(tmp_path / "b") == expected
    assert executed(grid, tmp_path / "a") == []
    assert scores(tmp_path / "a") == expected
    finished = [event.task.label for event in events if isinstance(event, Finished)]
    assert finished[0].startswith("real-images"), "jobs that need no prior images came first"
    phases = [event.phase for event in events if isinstance(event, Stepped)]
    assert list(dict.fromkeys(phases)) == ["loading", "fit", "draw", "score", "prior images"]


def test_workers_give_the_same_bytes_and_survive_a_death(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:PRIMED", "tests.toy:DIES")
    events = executed(grid, tmp_path / "two", slots=("", ""))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.task.label == "tests.toy:DIES / dog-blue / seed 0"
    assert failed.error == "its worker process died (signal 9: Killed); out of memory?"
    assert len([event for event in events if isinstance(event, Finished)]) == 5 + 2
    executed(grid_of(suite_file, "tests.toy:PRIMED"), tmp_path / "one")
    primed = [line for line in scores(tmp_path / "two").splitlines() if b"PRIMED" in line]
    assert primed == scores(tmp_path / "one").splitlines()[1:]


def test_prior_images_that_fail_fail_the_jobs_that_need_them(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_paint(*_: object, **__: object) -> None:
        raise RuntimeError("out of paint")

    monkeypatch.setattr(toy.Easel, "sample", out_of_paint)
    events = executed(grid_of(suite_file, "tests.toy:PRIMED", "tests.toy:PAINT"), tmp_path / "run")
    failed = {event.task.label: event.error for event in events if isinstance(event, Failed)}
    assert len(failed) == 2 + 3
    reason = "its prior images failed: RuntimeError: out of paint"
    assert failed["tests.toy:PRIMED / dog-red / seed 0"] == reason
    errors = list((tmp_path / "run").glob("jobs/*/*.error.txt"))
    assert len(errors) == 3
    assert all("Traceback" in error.read_text() for error in errors)
    assert len([event for event in events if isinstance(event, Finished)]) == 3


def test_a_failed_job_stops_nothing_and_is_tried_again(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(suite_file, "tests.toy:RAISES")
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 1
    output = capsys.readouterr()
    line = "tests.toy:RAISES / dog-blue / seed 0  FAILED: RuntimeError: the paint is dry\n"
    assert line in output.out
    held = "the report holds those that are done:\n  tests.toy:RAISES / dog-blue / seed 0\n"
    assert f"1 of 3 jobs failed; {held}" in output.err
    (error,) = (tmp_path / "run/jobs").glob("*/dog-blue-s0.error.txt")
    assert "Traceback" in error.read_text()
    assert (tmp_path / "run/report.md").exists()
    assert b"vase-green" in scores(tmp_path / "run")
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 1
    output = capsys.readouterr()
    assert "2 of the 3 jobs are done and will be skipped" in output.out
    assert "to do       1 fit, 8 images to draw, 8 to score" in output.out
    assert "[3/3] tests.toy:RAISES / dog-blue" in output.out


def test_a_method_that_exits_fails_its_job_alone(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:EXITS")
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 1
    (error,) = (tmp_path / "run/jobs").glob("*/dog-blue-s0.error.txt")
    assert "SystemExit: 0" in error.read_text()
    assert len(list((tmp_path / "run/jobs").glob("*/*.json"))) == 2


def test_a_method_that_goes_to_another_folder_fails_and_takes_no_file_along(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = grid_of(suite_file, "tests.toy:WANDERS")
    assert run_grid(grid, Path("run"), resources=ONE, keep_weights=True) == 1
    assert Path.cwd() == tmp_path
    (error,) = (tmp_path / "run/jobs").glob("*/dog-blue-s0.error.txt")
    assert "LeftBehind: it left the working folder at /" in error.read_text()
    for kind, count in (("jobs/*/*.json", 2), ("weights/*/*", 3), ("images/*/*/*", 16)):
        assert len(list((tmp_path / "run").glob(kind))) == count


@pytest.mark.parametrize("left", range(1, 4))
def test_a_new_directory_of_a_run_killed_at_once_can_be_used_again(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    grid, written = grid_of(suite_file, "untuned"), []
    write = directory.write_atomically

    def killed(path: Path, content: str | bytes) -> None:
        if len(written) == left:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(directory, "write_atomically", killed)
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 130
    monkeypatch.undo()
    monkeypatch.setattr("benchmark.runs.workers.is_ours", lambda group, name: True)
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 0


def test_nothing_to_report_is_said_and_no_scores_are_made_up(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load_suite(str(suite_file))
    grid = plan(suite, ["tests.toy:RAISES"], subjects=["dog-blue"])
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 1
    assert "there is nothing to report" in capsys.readouterr().err
    assert not (tmp_path / "run/report.md").exists()


def test_a_job_whose_scoring_failed_is_not_drawn_again(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(suite_file, "tests.toy:PAINT")
    monkeypatch.setattr(toy.Eye, "text_embeddings", lambda *_: 1 / 0)
    events = executed(grid, tmp_path / "run")
    assert {e.error for e in events if isinstance(e, Failed)} == {
        "ZeroDivisionError: division by zero"
    }
    monkeypatch.undo()
    monkeypatch.setattr(toy.Paint, "fit", lambda *_: 1 / 0)
    events = executed(grid, tmp_path / "run")
    assert len([event for event in events if isinstance(event, Finished)]) == 3
    assert not list((tmp_path / "run").rglob("*.error.txt"))


@pytest.mark.more
def test_an_interrupted_run_keeps_what_is_done_and_goes_on(
    suite_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = load_suite(str(suite_file))
    grid = plan(suite, ["tests.toy:PAINT", "tests.toy:INTERRUPTED"], subjects=["dog-blue"])
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 130
    assert "interrupted: 1 of 2 jobs are done and kept" in capsys.readouterr().err
    assert not (tmp_path / "run/scores.csv").exists()
    monkeypatch.setattr(toy, "meet", lambda mishap, backbone: None)
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 0
    executed(grid, tmp_path / "whole")
    assert scores(tmp_path / "run") == scores(tmp_path / "whole")


def test_a_run_that_is_interrupted_while_it_is_reported_says_how_to_go_on(
    suite_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.grid.running.report", interrupted)
    grid = plan(load_suite(str(suite_file)), ["tests.toy:PAINT"], subjects=["dog-blue"])
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 130
    assert "interrupted: 1 of 1 jobs are done and kept" in capsys.readouterr().err


def test_a_killed_run_resumes_to_the_same_bytes(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:SLOW")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "benchmark", "run", "--methods", "tests.toy:SLOW"]
    command += ["--no-controls", "--workers", "1"]
    command += ["--suite", str(suite_file), "--out", str(killed)]
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while not list(killed.glob("jobs/*/*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(killed.glob("jobs/*/*.json"))) in (1, 2)
    assert not (killed / "scores.csv").exists()
    executed(grid, killed)
    executed(grid, tmp_path / "whole")
    assert scores(killed) == scores(tmp_path / "whole")
    images = {str(p.relative_to(killed)): p.read_bytes() for p in killed.glob("images/**/*.png")}
    whole = tmp_path / "whole"
    assert images == {str(p.relative_to(whole)): p.read_bytes() for p in whole.rglob("*.png")}


# How many workers ------------------------------------------------------------------------------


def slots(jobs: int, workers: int | None = None, *, memory: int | None = None) -> tuple[str, ...]:
    return Resources(workers).slots(jobs, memory=memory)


def test_there_are_as_many_workers_as_cores_jobs_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "on_cuda", lambda: False)
    monkeypatch.setattr(machine, "free_memory", lambda: 10)
    assert [len(slots(jobs)) for jobs in (20, 3, 0)] == [8, 3, 1]
    assert [len(slots(20, memory=memory)) for memory in (3, 11, None)] == [3, 1, 8]
    assert (len(slots(20, 12)), len(slots(5, 12)), len(slots(20, 4, memory=11))) == (12, 5, 4)
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert slots(20, memory=3) == ("",) * 8


@pytest.mark.parametrize(
    ("visible", "names"),
    [("", "0 1 2"), ("5,GPU-1f2e,MIG-7a", "5 GPU-1f2e MIG-7a"), (" 2, 0 ,1,9", "2 0 1")],
)
def test_there_is_a_worker_on_each_gpu_that_can_be_seen(
    monkeypatch: pytest.MonkeyPatch, visible: str, names: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr(machine, "free_memory", lambda: 10)
    first, second, third = names.split()
    assert slots(20, memory=4) == (first, second, third)  # main memory limits those on cores alone
    assert slots(2) == (first, second)
    assert slots(20, 5) == (first, second, third, first, second)
    assert Resources(gpus=(2, 0, 2)).slots(20, memory=None) == (third, first)
    for number in (3, -1):
        with pytest.raises(UserError, match=f"--gpus {number}: .* there are 0 to 2"):
            Resources(gpus=(0, number)).slots(20, memory=None)


def test_gpus_are_asked_for_in_vain_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert chosen_gpus(None) == ()
    with pytest.raises(UserError, match="--gpus 0: .* there are none"):
        chosen_gpus((0,))


def test_a_worker_sees_its_gpu_alone_and_the_next_one_takes_the_free_one(
    suite_file: Path, tmp_path: Path
) -> None:
    grid, folder = grid_of(suite_file, "untuned"), RunDirectory(tmp_path)
    examiner = Examiner(Assessment.of(grid.suite), folder, "cpu")
    place = ThisMachine(("3", "GPU-1f2e"), Workplace(grid.suite, folder, examiner))
    first, second = place.hire(), place.hire()
    place.vacate(first)
    assert [worker.slot for worker in (first, second, place.hire())] == ["3", "GPU-1f2e", "3"]


def test_free_memory_is_linuxs_within_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, container = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(machine, "MEMORY", whole)
    monkeypatch.setattr(machine, "MEMORY_LIMIT", container)
    assert free_memory() is None
    whole.write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    5000 kB\n")
    assert free_memory() == 5000 * 1024
    for limit, expected in (("max", 5000 * 1024), ("4096", 4096), ("9999999", 5000 * 1024)):
        container.write_text(limit + "\n")
        assert free_memory() == expected


def test_a_model_that_does_not_fit_twice_has_one_worker_and_it_is_said(
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("benchmark.grid.running.on_cuda", lambda: False)
    monkeypatch.setattr(machine, "on_cuda", lambda: False)
    monkeypatch.setattr("benchmark.runs.machine.free_memory", lambda: 30 * 10**9)
    monkeypatch.setattr("benchmark.grid.running.free_memory", lambda: 30 * 10**9)
    monkeypatch.setattr(toy.Easels, "memory", lambda kind, model: 18 * 10**9)
    assert run_grid(grid_of(suite_file, "untuned"), tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "with 1 worker\n" in output
    assert "memory      about 18 GB a worker, 30 GB free\n" in output


def test_a_method_that_learned_nothing_keeps_no_weights(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:PAINT", "untuned")
    assert run_grid(grid, tmp_path / "run", resources=ONE, keep_weights=True) == 0
    assert len(list((tmp_path / "run/weights").glob("*/*"))) == 3
    assert not (tmp_path / "run/weights/untuned").exists()


def test_one_image_a_prompt_is_said_in_the_singular(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load_suite(str(suite_file))
    for count, said in ((1, "1 image each: "), (2, "2 images each: ")):
        grid = plan(suite, ["untuned"], images_per_prompt=count)
        assert run_grid(grid, tmp_path / "run", dry_run=True) == 0
        assert f"prompts     3 a subject, {said}" in capsys.readouterr().out


def test_a_dry_run_shows_the_phases_and_writes_nothing(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_grid(grid_of(suite_file), tmp_path / "run", dry_run=True) == 0
    assert not (tmp_path / "run").exists()
    output = capsys.readouterr().out
    assert "jobs        6, 30 images\n" in output
    todo = "2 sets of prior images (40), 3 fits, 30 images to draw, 30 to score\n"
    assert f"to do       {todo}" in output
    assert "time left   unknown" in output


@pytest.mark.more
def test_a_finished_run_is_reported_once(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    grid = grid_of(suite_file, "tests.toy:PAINT")

    def again() -> bool:
        """Whether the same command wrote the report anew."""
        before = (run / "report.md").stat().st_mtime_ns if run.exists() else 0
        assert run_grid(grid, run, resources=ONE) == 0
        return (run / "report.md").stat().st_mtime_ns > before

    assert again()
    assert not again()
    assert f"report: {run / 'report.md'}, as it was: nothing is new" in capsys.readouterr().out
    (run / "index.html").unlink()
    assert again(), "a part of it is missing"
    rows = next(run.glob("scores/**/*.csv"))
    written, when = rows.read_bytes(), rows.stat()
    rows.write_bytes(written.replace(b"0.9", b"0.1"))
    write_report(run, as_found=True)
    rows.write_bytes(written)
    os.utime(rows, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert again(), "the report is of what was altered, and is no more"
    assert not again()
    suite_file.write_text(suite_file.read_text().replace("description =", "description = 'new' #"))
    grid = replace(grid, suite=load_suite(str(suite_file)))
    assert again(), "the suite says something else"
    assert not again()
    grid = grid_of(suite_file, "tests.toy:PAINT", "real-images")
    assert again(), "there are more jobs"
    (next(run.glob("images/**/*.png"))).write_bytes(b"")
    assert again(), "an image was altered, and is drawn anew"
    assert not again()
