"""The schedule drawn up: checked by hand, by bounds that hold for any list schedule, in one go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config.suite import load_suite
from benchmark.runs.agenda import Agenda, Work, key_of
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import Grid, plan
from benchmark.store.records import Job, Prior
from tests import toy


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    suite = toy.write_world(tmp_path_factory.mktemp("world"))
    return plan(load_suite(str(suite)), ["tests.toy:PRIMED"])


@dataclass(frozen=True)
class Takes:
    """Tasks, and how long each takes."""

    works: list[Work]
    each: dict[object, float]

    def seconds(self, work: Work) -> float:
        return self.each[key_of(work.task)]

    def outlook(self, folder: Path = Path("nowhere")) -> Outlook:
        return Outlook([], self.works, folder, self.seconds)

    def agenda(self) -> Agenda:
        return Agenda(self.works, self.seconds)


def takes(grid: Grid, seconds: list[int], *, prior: int = 0) -> Takes:
    """Jobs that take `seconds`; if `prior`, all wait for prior images that take that long."""
    (job, *_), (images, *_) = grid.jobs, grid.priors.values()
    waits = images.key if prior else None
    jobs = [
        Work(replace(job, fit=replace(job.fit, seed=seed)), True, 1, 1, waits)
        for seed in range(len(seconds))
    ]
    each = {key_of(w.task): float(s) for w, s in zip(jobs, seconds, strict=True)}
    if not prior:
        return Takes(jobs, each)
    return Takes([*jobs, Work(images, draws=4)], each | {images.key: float(prior)})


@pytest.mark.parametrize(
    ("seconds", "prior", "workers", "wall"),
    [
        ([3, 3, 2, 2, 2], 0, 1, 12),
        ([3, 3, 2, 2, 2], 0, 2, 7),  # 3 + 2 + 2 and 3 + 2: the longest first
        ([3, 3, 2, 2, 2], 0, 5, 3),
        ([3, 3, 2, 2, 2], 0, 64, 3),
        ([2, 1], 4, 2, 6),  # both wait for the prior images
        ([], 0, 2, 0),
    ],
)
def test_the_time_with_some_workers(
    grid: Grid, seconds: list[int], prior: int, workers: int, wall: float
) -> None:
    assert takes(grid, seconds, prior=prior).outlook().wall(workers) == wall


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 12))
def test_a_schedule_lies_within_the_bounds_of_any_list_schedule(
    grid: Grid, seconds: list[int], workers: int
) -> None:
    wall = takes(grid, seconds).outlook().wall(workers)
    assert wall is not None
    assert max(max(seconds), sum(seconds) / workers) <= wall
    assert wall <= sum(seconds) / workers + max(seconds) * (1 - 1 / workers) + 1e-9  # Graham, 1966


def test_what_takes_nobody_knows_how_long_has_no_schedule(grid: Grid) -> None:
    found = Outlook([], takes(grid, [1, 2]).works, Path("nowhere"), lambda work: None)
    assert found.work is None
    assert found.wall(2) is None


def test_disk_space_is_that_of_what_there_is(grid: Grid, tmp_path: Path) -> None:
    found = takes(grid, [1, 1, 1], prior=1)
    assert found.outlook(tmp_path).disk is None
    for name, size in (("images/a/b/0.png", 10), ("images/a/b/1.png", 30)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior/x.safetensors").write_bytes(bytes(500))
    assert found.outlook(tmp_path).disk == 3 * 20 + 500


def test_tasks_are_taken_put_back_and_given_up(grid: Grid) -> None:
    found = takes(grid, [1, 3, 2], prior=1)
    agenda = found.agenda()
    images = agenda.take()
    assert isinstance(images, Prior)
    assert agenda.take() is None, "all wait for the prior images"
    agenda.put_back(images)
    assert agenda.take() is images
    agenda.finish(images)
    taken = [agenda.take(), agenda.take()]
    assert [key_of(task)[2] for task in taken if isinstance(task, Job)] == [1, 2]
    agenda.put_back(taken[0])
    assert agenda.take() is taken[0], "before what has waited all the time"
    again = found.agenda()
    images = again.take()
    assert len(again.give_up(images)) == 3
    assert not again.waiting
