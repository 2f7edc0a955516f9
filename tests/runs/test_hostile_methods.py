"""Methods that exit, crash, hang and litter, in real worker processes; runs that are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.config.suite import load_suite
from benchmark.runs.attempt import Failed, Finished
from benchmark.runs.plan import plan
from tests import toy
from tests.runs.test_run import executed, scores

HOSTILE = {
    "INTERRUPTED": "KeyboardInterrupt: ",
    "LEAVES_AT_ONCE": "its worker process ended with exit code 3",
    "CRASHES": "its worker process died (signal 11: Segmentation fault)",
    "HANGS": "it took more than 8 s, the time limit of a job; it was at: fit, 0 of 1",
    "LITTERS": "LeftBehind: it left the working folder at /; the umask at 777; the environment "
    "variable OMP_NUM_THREADS changed; the thread 'endless' running; the process ",
}


pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="they look for processes where Linux shows them"
)


def images(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*.png")}


def processes(word: str) -> set[int]:
    """Ids of the processes that run and whose command line or working folder has `word`."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = folder.joinpath("cmdline").read_bytes().decode(errors="replace")
            where = line + str(folder.joinpath("cwd").readlink())
        except OSError:  # it has ended
            continue
        if line and word in where and "resource_tracker" not in line:  # which is this process's own
            found.add(int(folder.name))
    return found - {os.getpid()}


@pytest.mark.slow
def test_hostile_methods_fail_alone_and_later_jobs_are_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(str(toy.write_world(tmp_path)))
    methods = [f"tests.toy:{name}" for name in HOSTILE]
    # The hostile jobs first, so that all the others come later; one worker, so that they follow.
    grid = plan(suite, methods, subjects=["dog-blue", "dog-red"])
    monkeypatch.chdir(tmp_path)
    events = executed(grid, tmp_path / "run", slots=("",), job_timeout=8)
    failed = {e.task.method: e.error for e in events if isinstance(e, Failed)}
    for name, reason in HOSTILE.items():
        assert failed.pop(f"tests.toy:{name}").startswith(reason)
    assert not failed
    assert len([e for e in events if isinstance(e, Finished)]) == len(HOSTILE)
    assert not processes(str(tmp_path)), "what they started has ended too"
    errors = [p.read_text() for p in (tmp_path / "run").glob("jobs/*/dog-blue-s0.error.txt")]
    assert len(errors) == len(HOSTILE)
    monkeypatch.setattr(toy, "meet", lambda mishap, backbone: None)
    executed(grid, tmp_path / "clean")
    made = images(tmp_path / "run")
    assert len(made) == len(HOSTILE) * 8
    assert made == {p: i for p, i in images(tmp_path / "clean").items() if "dog-red" in p}
    rows = scores(tmp_path / "clean").splitlines()
    assert scores(tmp_path / "run").splitlines() == [r for r in rows if b"dog-blue" not in r]
    assert {p.name for p in tmp_path.iterdir()} == {"data", "eye.txt", "toy.toml", "run", "clean"}


@pytest.mark.more
def test_prior_images_that_are_never_drawn_end_in_time(tmp_path: Path) -> None:
    suite_file = toy.write_world(tmp_path)
    suite_file.write_text(suite_file.read_text().replace("toy:KIND", "toy:DRY"))
    grid = plan(load_suite(str(suite_file)), ["tests.toy:PRIMED"], subjects=["dog-red"])
    events = executed(grid, tmp_path / "run", slots=("",), job_timeout=0.5)
    prior, job = (e for e in events if isinstance(e, Failed))
    late = "it took more than 0.5 s, the time limit of a job; it was at: prior images, 0 of 20"
    assert prior.task == next(iter(grid.priors.values())) and prior.error == late
    assert job.task == grid.jobs[0] and job.error == f"its prior images failed: {late}"


@pytest.fixture
def labouring(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, whose worker is in one long call of torch."""
    command = [sys.executable, "-m", "benchmark", "run", "--methods", "tests.toy:LABOURS"]
    command += ["--subjects", "dog-blue", "--no-controls", "--workers", "1", "--out", "run"]
    command += ["--suite", str(toy.write_world(tmp_path))]
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "labours").exists():
            assert run.poll() is None, "it ended before it could be ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)  # so that it is in the call
        yield run
    finally:
        for process in processes(str(tmp_path)):
            os.kill(process, signal.SIGKILL)


def gone(folder: Path, seconds: float) -> bool:
    """Whether nothing runs in `folder` after at most so long."""
    deadline = time.monotonic() + seconds
    while processes(str(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("everybody", [False, True])
def test_a_terminated_run_ends_as_an_interrupted_one(
    labouring: subprocess.Popen[str], tmp_path: Path, everybody: bool
) -> None:
    found = processes(str(tmp_path))
    assert len(found) == 3  # the run, its worker, and what the method started
    if everybody:  # as Slurm does: it is no job that failed, even if the run is the last to know
        for process in found - {labouring.pid}:
            os.kill(process, signal.SIGTERM)
        time.sleep(0.3)
    labouring.terminate()
    _, errors = labouring.communicate(timeout=30)
    assert labouring.returncode == 130
    kept = "interrupted: 0 of 1 jobs are done and kept in run; run the same command again to go on"
    assert errors == kept + "\n"
    assert not list(tmp_path.rglob("*.error.txt"))
    assert gone(tmp_path, 2)


def test_the_workers_of_a_killed_run_end_in_the_middle_of_a_call(
    labouring: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert len(processes(str(tmp_path))) == 3
    labouring.kill()
    labouring.wait()
    assert gone(tmp_path, 2)


def test_a_worker_of_a_killed_run_ends_while_it_starts(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, os, signal\n"
        "from benchmark.runs.worker_process import serve\n"
        "context = multiprocessing.get_context('spawn')\n"
        "if __name__ == '__main__':\n"
        "    here, theirs = context.Pipe()\n"
        "    context.Process(target=serve, args=(theirs,)).start()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "start.py").write_text(code)
    done = subprocess.run([sys.executable, "start.py"], cwd=tmp_path, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert gone(tmp_path, 2)
