"""The actor of a node, without Ray: what it refuses before it takes a task, and what it leaves."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark.api import UserError
from benchmark.runs.attempt import Lost
from benchmark.runs.luggage import luggage_of
from benchmark.runs.machine import VISIBLE
from benchmark.runs.plan import Grid
from benchmark.runs.ray_worker import Beginning, Post
from benchmark.store.records import Model
from tests.runs.test_run import grid_of, suite_file
from tests.runs.test_workers import workplace_of

__all__ = ["suite_file"]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a node keeps temporary files; what Ray holds is passed as it is."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda what: what))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    assert not list(folder.iterdir()), "something was left"


def beginning_of(grid: Grid, run: Path) -> Beginning:
    workplace = workplace_of(grid, run)
    luggage = luggage_of(grid.suite, subjects={job.subject for job in grid.jobs})
    backbone, scoring = grid.jobs[0].fit.backbone, workplace.examiner.assessment.scoring
    return Beginning(workplace, luggage, backbone, scoring, gpus=True, mark=None)


def test_a_worker_that_has_no_gpus_sees_none(
    suite_file: Path, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")  # Ray leaves it so for who asks for no GPU
    beginning = beginning_of(grid_of(suite_file), tmp_path / "run")
    for gpus, seen in ((True, "0,1"), (False, "")):
        post = Post(replace(beginning, gpus=gpus))
        post.ready()
        assert os.environ[VISIBLE] == seen
        post.end(0.0)


def test_a_node_without_the_runs_models_is_refused_before_it_takes_a_task(
    suite_file: Path, tmp_path: Path, node: Path
) -> None:
    """Else it would fail one job after the other, and quickly."""
    here, run = os.uname().nodename, tmp_path / "run"
    beginning = beginning_of(grid_of(suite_file), run)
    other = replace(beginning, backbone=Model("tests.toy:KIND", "1", "colours@1"))
    with pytest.raises(UserError, match=f"^{here}: backbone 'colours' is 'colours@.*'colours@1'"):
        Post(other).ready()
    (suite_file.parent / "eye.txt").write_text("another encoder's weights")
    with pytest.raises(UserError, match=f"^{here}: encoder 'dino' has other files here"):
        Post(beginning).ready()


def test_a_task_that_a_node_cannot_store_is_left_to_another(
    suite_file: Path, tmp_path: Path, node: Path
) -> None:
    grid = grid_of(suite_file)
    post = Post(beginning_of(grid, tmp_path / "run"))
    post.ready()
    (task, *_) = grid.jobs
    (folder,) = node.iterdir()
    (folder / "run").touch()  # as a disk that cannot be written to
    post.take(task, {"images/a.png": b""}, [])
    event, made = post.hear(None)
    assert isinstance(event, Lost) and event.why.startswith(f"{os.uname().nodename}: cannot write")
    assert made == {}
    post.end(0.0)


def test_folders_of_actors_that_were_killed_are_removed_and_those_of_others_not(
    suite_file: Path, tmp_path: Path, node: Path
) -> None:
    beginning = beginning_of(grid_of(suite_file), tmp_path / "run")
    alive = Post(beginning)
    alive.ready()
    (there,) = node.iterdir()
    killed, young = (there.with_name(f"{there.name}-{name}") for name in ("killed", "young"))
    killed.mkdir()
    young.mkdir()
    for folder in (there, killed):
        os.utime(folder, (0, time.time() - 100))
    another = Post(beginning)
    another.ready()
    assert not killed.exists() and there.exists() and young.exists()
    young.rmdir()
    alive.end(0.0)
    another.end(0.0)
