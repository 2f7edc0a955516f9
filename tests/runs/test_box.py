"""What a job may do in its process: what is put back, what fails it, and how that is said."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.runs import box
from benchmark.runs.attempt import Failed, attempt
from benchmark.runs.box import LeftBehind, boxed
from benchmark.runs.plan import Grid, plan
from benchmark.runs.score import Assessment, Examiner
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from tests import toy
from tests.starvation import starved
from tests.toy import ONE


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    suite = load_suite(str(toy.write_world(tmp_path)))
    return plan(suite, ["tests.toy:PAINT"], subjects=["dog-red", "dog-blue"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "_GRACE", 0.05)


class OwnExit(BaseException):
    """Neither an Exception nor anything that Python knows."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words for it")


def paint_instead(monkeypatch: pytest.MonkeyPatch, mishap: Callable[[], object]) -> None:
    """What dog-blue meets: a job of a method that is taken for our own."""

    def meet(_: str, backbone: object) -> None:
        mishap()

    monkeypatch.setattr(toy, "meet", meet)


# What is left --------------------------------------------------------------------------------


@pytest.fixture
def clean() -> object:
    """The process as it is, whatever a test does to it."""
    folder, umask, environment = Path.cwd(), os.umask(0o022), dict(os.environ)
    os.umask(umask)
    yield
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)


def state() -> tuple[Path, int, dict[str, str]]:
    umask = os.umask(0o022)
    os.umask(umask)
    return Path.cwd(), umask, dict(os.environ)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: os.chdir("/"), "the working folder at /"),
        (lambda: os.umask(0o777), "the umask at 777"),
        (lambda: os.environ.pop("PATH"), "the environment variable PATH changed"),
        (lambda: os.environ.update(PATH="/x"), "the environment variable PATH changed"),
    ],
)
def test_what_a_job_changes_is_put_back_and_fails_it(
    change: Callable[[], object], named: str
) -> None:
    before = state()
    with pytest.raises(LeftBehind) as caught, boxed():
        change()
    assert str(caught.value) == f"it left {named}"
    assert state() == before
    with pytest.raises(LeftBehind, match=f"^ValueError: dry; it left {named}$"), boxed():
        change()
        raise ValueError("dry")
    assert state() == before
    with pytest.raises(SystemExit), boxed():
        change()
        sys.exit()
    assert state() == before


def test_a_new_variable_is_taken_out_and_fails_nothing() -> None:
    before = state()
    with boxed():
        os.environ["LITTER"] = "a library was imported"
    assert state() == before


def test_a_job_that_leaves_a_folder_that_is_gone_comes_back(tmp_path: Path) -> None:
    before = state()
    gone = tmp_path / "gone"
    gone.mkdir()
    with boxed():
        os.chdir(gone)
        gone.rmdir()
    assert state() == before


def test_threads_and_processes_that_go_on_are_named() -> None:
    go_on = threading.Event()
    others = threading.Thread(target=go_on.wait, name="there before")
    others.start()
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    started: list[subprocess.Popen[bytes]] = []
    try:
        with boxed():  # these end in time, or may go on
            threading.Thread(target=time.sleep, args=(0.01,)).start()
            threading.Thread(target=go_on.wait, daemon=True).start()
            subprocess.Popen([sys.executable, "-c", ""]).wait()
        with pytest.raises(LeftBehind, match="^it left the thread 'endless' running$"), boxed():
            threading.Thread(target=go_on.wait, name="endless").start()
        sleeping = r"it left the process \d+ \(sleep 60\) running"
        with pytest.raises(LeftBehind, match=sleeping), boxed():
            started.append(subprocess.Popen(["sleep", "60"]))
            time.sleep(0.05)
        with pytest.raises(LeftBehind, match="it left the process"), boxed():
            child.start()
    finally:
        go_on.set()
        others.join()
        for process in (*started, child):
            process.kill()
        started[0].wait()
        child.join()


def test_a_copy_of_the_process_that_a_job_forked_does_not_finish_the_job(tmp_path: Path) -> None:
    status = 0
    with boxed():
        if copy := os.fork():
            _, status = os.waitpid(copy, 0)
    (tmp_path / str(os.getpid())).touch()
    assert os.waitstatus_to_exitcode(status) == 1
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


# What is raised ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said", "spoiled"),
    [
        (KeyboardInterrupt(), "KeyboardInterrupt: ", True),
        (SystemExit(0), "SystemExit: 0", True),
        (GeneratorExit("gone"), "GeneratorExit: gone", True),
        (OwnExit("mine"), "OwnExit: mine", True),
        (StopIteration(1), "StopIteration: 1", False),
        (ValueError("caf\udce9"), "ValueError: caf\\udce9", False),
        (Unspeakable(), "Unspeakable: (its text cannot be had: ValueError)", False),
    ],
)
def test_whatever_a_method_raises_fails_its_job_with_the_reason(
    grid: Grid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    said: str,
    spoiled: bool,
) -> None:
    def mishap() -> None:
        raise error

    paint_instead(monkeypatch, mishap)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "this is a worker process")
    directory = RunDirectory(tmp_path / "run")
    workplace = Workplace(
        grid.suite, directory, Examiner(Assessment.of(grid.suite), directory, "cpu")
    )
    (job,) = [job for job in grid.jobs if job.subject == "dog-blue"]
    event = attempt(job, workplace, lambda _: None)
    assert isinstance(event, Failed)
    assert (event.error, event.spoiled) == (said, spoiled)
    assert "in mishap" in event.trace
    event.trace.encode("utf-8")


# A failure that cannot be recorded -----------------------------------------------------------


def test_a_reason_that_is_no_utf_8_is_kept_and_shown(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mishap() -> None:
        raise ValueError("no file caf\udce9.png")

    paint_instead(monkeypatch, mishap)
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 1
    assert "FAILED: ValueError: no file caf\\udce9.png\n" in capsys.readouterr().out
    (error,) = (tmp_path / "run/jobs").glob("*/*.error.txt")
    assert error.read_text("utf-8").endswith("ValueError: no file caf\\udce9.png\n")


def test_a_failure_that_cannot_be_recorded_is_said_and_the_run_goes_on(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paint_instead(monkeypatch, lambda: 1 / 0)
    with starved(errno.ENOSPC, where="dog-blue-s0.error.txt"):
        assert run_grid(grid, tmp_path / "run", resources=ONE) == 1
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("warning: ")]
    job = "tests.toy:PAINT / dog-blue / seed 0"
    assert line.startswith(f"warning: why {job} failed could not be written: cannot write ")
    assert "dog-blue-s0.error.txt: the disk is full: free some space" in line
    assert "FAILED: ZeroDivisionError: division by zero" in shown.out
    assert "1 of 2 jobs failed; the report holds those that are done" in shown.err
    assert len(list((tmp_path / "run/jobs").glob("*/*.json"))) == 1
