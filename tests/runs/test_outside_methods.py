"""Methods from outside, in worker processes of their own: what they change changes no other's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from benchmark.api import Request, Subject
from benchmark.config.suite import load_suite
from benchmark.runs.attempt import Failed, Finished, Started
from benchmark.runs.machine import VISIBLE
from benchmark.runs.plan import plan
from tests import toy
from tests.runs.test_run import executed, scores


@pytest.fixture
def trusted() -> None:
    """Here nothing is: methods of tests are from outside, as they are anywhere else."""


@dataclass(frozen=True)
class Vandal(toy.Paint):
    """Changes torch itself. It needs no backbone, and so there is nothing to settle."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, subject: Subject, backbone: None, tools: Any) -> dict[str, Tensor]:
        colour = tools.images(toy.SIZE).mean((0, 2, 3))
        torch.set_default_dtype(torch.float64)
        torch.rand = lambda *_, **__: torch.full((3, toy.SIZE, toy.SIZE), 0.5)  # type: ignore[assignment]
        return {"colour": colour, "process": torch.tensor([os.getpid()])}

    def generate(
        self,
        weights: Mapping[str, Tensor],
        subject: Subject,
        requests: Sequence[Request],
        backbone: None,
        tools: Any,
    ) -> Tensor:
        process = int(weights["process"])
        with Path(os.environ["VANDALS"]).open("a") as file:
            file.write(f"{process} {os.environ.get(VISIBLE)}\n")
        return weights["colour"].float().expand(len(requests), toy.SIZE, toy.SIZE, 3).movedim(3, 1)


VANDAL = Vandal()


def images(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in path.rglob("*.png")
        if "VANDAL" not in str(p)
    }


@pytest.mark.more
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_method_changes_in_its_process_reaches_no_other_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("VANDALS", str(tmp_path / "vandals"))
    suite = load_suite(str(toy.write_world(tmp_path)))
    clean, run = tmp_path / "clean", tmp_path / "run"
    executed(plan(suite, ["tests.toy:PAINT", "untuned"]), clean)
    methods = [f"{__name__}:VANDAL", "tests.toy:PAINT", "untuned"]
    events = executed(plan(suite, methods), run, slots=("7",) * workers)
    failed = [event for event in events if isinstance(event, Failed)]
    assert not failed
    first = next(event.task.label for event in events if isinstance(event, Started))
    assert "VANDAL" in first, "it had its chance to harm the others"
    assert len([event for event in events if isinstance(event, Finished)]) == 9
    assert images(run) == images(clean)
    lines = [line for line in scores(run).splitlines() if b"VANDAL" not in line]
    assert lines == scores(clean).splitlines()
    lines_of_jobs = (tmp_path / "vandals").read_text().splitlines()
    processes = [line.split()[0] for line in lines_of_jobs]
    assert [line.split()[1] for line in lines_of_jobs] == ["7"] * 3, "the GPU of its slot"
    assert len(set(processes)) <= workers, "its jobs share a process"
    assert str(os.getpid()) not in processes


@pytest.mark.more
def test_an_interrupted_worker_process_ends_and_what_is_done_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "benchmark", "run", "--methods"]
    command += [
        "tests.toy:SLOW,tests.toy:HANGS",
        "--no-controls",
        "--workers",
        "1",
        "--out",
        str(run),
    ]
    command += ["--suite", str(toy.write_world(tmp_path))]
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background may have been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(run.glob("jobs/*/*.json")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    (line,) = errors.splitlines()
    assert "of 6 jobs are done and kept" in line
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # nobody is left of its group, soon
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.more
def test_a_worker_that_is_killed_leaves_no_semaphore_to_complain_of(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmark", "run", "--suite", str(toy.write_world(tmp_path))]
    command += ["--methods", "tests.toy:HANGS", "--subjects", "dog-blue", "--no-controls"]
    command += ["--workers", "1", "--job-timeout", "2", "--out", str(tmp_path / "run")]
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": paths}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "the time limit of a job" in ended.stdout
    assert [line for line in ended.stderr.splitlines() if "resource_tracker" in line] == []
