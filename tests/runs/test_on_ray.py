"""A grid on the nodes of a Ray cluster: the bytes of one process, also when a node is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmark.api import UserError
from benchmark.grid.running import run_grid
from benchmark.runs import on_ray
from benchmark.runs.machine import Resources
from benchmark.runs.node import Mark
from benchmark.runs.on_ray import ClusterOptions, joined
from benchmark.runs.plan import Grid
from benchmark.store.reading import read_contents
from tests import toy
from tests.runs.test_run import grid_of, scores
from tests.toy import ONE

pytestmark = pytest.mark.slow
METHODS = ("tests.toy:SLOW", "tests.toy:PRIMED")
ray = pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head without room for workers and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    here = str(Path(toy.__file__).parent.parent)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)  # the test's plugins, which no node has installed
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


def on(nodes: Any, grid: Grid, run: Path, *, shared: bool = False) -> int:
    with joined(ClusterOptions(nodes.address, shared=shared)) as cluster:
        return run_grid(grid, run, resources=Resources(cluster=cluster))


def images(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("images/**/*.png")}


def test_two_nodes_give_the_bytes_of_one_process_also_if_one_is_lost(
    nodes: Any, tmp_path: Path
) -> None:
    suite = toy.write_world(tmp_path)
    grid = grid_of(suite, *METHODS, "tests.toy:DIES")
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert run_grid(grid_of(suite, *METHODS), whole, resources=ONE) == 0

    def lose_one() -> None:
        while not list(run.glob("jobs/*/*.json")):
            time.sleep(0.1)
        nodes.remove_node(nodes.workers[0], allow_graceful=False)

    threading.Thread(target=lose_one, daemon=True).start()
    assert on(nodes, grid, run) == 1, "a job that kills its process fails, and it alone"
    failed = [path.name for path in run.glob("jobs/*/*.error.txt")]
    assert failed == ["dog-blue-s0.error.txt"]
    assert not read_contents(run).altered
    rows = [line for line in scores(run).splitlines() if b"DIES" not in line]
    assert rows == scores(whole).splitlines()
    found = {path: content for path, content in images(run).items() if "DIES" not in path}
    assert found == images(whole)


def test_workers_that_share_the_disk_give_the_same_bytes(nodes: Any, tmp_path: Path) -> None:
    grid = grid_of(toy.write_world(tmp_path), *METHODS)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert run_grid(grid, whole, resources=ONE) == 0
    assert on(nodes, grid, run, shared=True) == 0
    assert scores(run) == scores(whole)
    assert images(run) == images(whole)
    assert not read_contents(run).altered
    assert not list(run.rglob("*.tmp"))


def test_a_node_that_does_not_see_the_run_directory_is_named(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def elsewhere(folder: Path) -> Iterator[Mark]:
        yield Mark(folder / "not-there.tmp", "0")

    monkeypatch.setattr(on_ray, "marked", elsewhere)
    grid = grid_of(toy.write_world(tmp_path), *METHODS)
    with pytest.raises(UserError, match="no worker was left: 0 of .* the same command goes on"):
        on(nodes, grid, tmp_path / "run", shared=True)
    said = capsys.readouterr().err
    assert f"{os.uname().nodename} does not see the run directory {tmp_path / 'run'}" in said


def test_a_driver_that_is_killed_goes_on_where_it_was(nodes: Any, tmp_path: Path) -> None:
    suite = toy.write_world(tmp_path)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert run_grid(grid_of(suite, *METHODS), whole, resources=ONE) == 0
    command = [sys.executable, "-m", "benchmark", "run", "--suite", str(suite), "--out", str(run)]
    command += ["--methods", ",".join(METHODS), "--no-controls", "--on", "ray"]
    command += ["--address", nodes.address]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (done := list(run.glob("jobs/*/*.json"))):
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    times = {path: path.stat().st_mtime_ns for path in done}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert {path: path.stat().st_mtime_ns for path in done} == times, "what was done stays"
    assert scores(run) == scores(whole)
    assert images(run) == images(whole)
