"""A crew whose workers are lost, and what is sent to workers that do not see the run directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.cli.options import WorkerOptions
from benchmark.grid.running import run_grid
from benchmark.runs.agenda import Agenda, Task, work_left
from benchmark.runs.attempt import Event, Failed, Finished, Lost, Started, attempt
from benchmark.runs.existing_run import missing, read_existing
from benchmark.runs.local_worker import ThisMachine
from benchmark.runs.luggage import luggage_of, unpacked
from benchmark.runs.machine import Resources
from benchmark.runs.node import Node
from benchmark.runs.on_ray import Cluster, ClusterOptions
from benchmark.runs.parcel import clear, made_in, needed_by, packed, prior_files, unpack
from benchmark.runs.plan import Grid
from benchmark.runs.score import Assessment, Examiner
from benchmark.runs.workers import execute
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.records import Job
from tests import toy
from tests.runs.test_run import grid_of, suite_file
from tests.toy import ONE

__all__ = ["suite_file"]


@dataclass(eq=False)
class Hand:
    """A worker of this process; it is lost at the tasks of `fatal` methods."""

    workplace: Workplace
    fatal: frozenset[str]
    heard: list[Event] = field(default_factory=list)

    def take(self, task: Task) -> None:
        if isinstance(task, Job) and task.method in self.fatal:
            self.heard = [Lost(task, "the node is gone")]
        else:
            self.heard = [attempt(task, self.workplace, lambda event: None)]

    def hear(self, limit: float | None) -> Event | None:
        return self.heard.pop() if self.heard else None

    def renew(self, patience: float = 0.0) -> None:
        raise AssertionError("nothing here is spoiled")

    def let_go(self) -> None: ...

    def end(self, patience: float = 0.0) -> None: ...


@dataclass
class Fragile:
    """A place with room for one worker, which comes a while after the last one was lost."""

    workplace: Workplace
    fatal: frozenset[str]
    hired: int = 0
    away: int = 0  #: so many looks, and there is room again

    @property
    def vacant(self) -> int:
        self.away -= 1
        return int(self.away < 0 and not self.hired)

    @property
    def expects(self) -> bool:
        return True

    def hire(self) -> Hand:
        self.hired += 1
        return Hand(self.workplace, self.fatal)

    def vacate(self, worker: Hand) -> None:
        self.hired, self.away = 0, 3

    def wait(self, busy: Sequence[Hand], seconds: float) -> None: ...


def workplace_of(grid: Grid, path: Path) -> Workplace:
    directory = RunDirectory(path)
    examiner = Examiner(Assessment.of(grid.suite), directory, grid.device)
    return Workplace(grid.suite, directory, examiner)


def agenda_of(grid: Grid, workplace: Workplace) -> Agenda:
    existing = read_existing(workplace.directory)
    scoring = workplace.examiner.assessment.scoring
    left = work_left(grid.jobs, grid.priors, scoring, existing)
    return Agenda(left, lambda work: None)


def test_a_task_whose_worker_is_lost_is_done_by_another_and_given_up_after_three(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file, "tests.toy:PRIMED", "tests.toy:PAINT")
    workplace = workplace_of(grid, tmp_path / "run")
    place = Fragile(workplace, frozenset({"tests.toy:PAINT"}))
    events: list[Event] = []
    execute(agenda_of(grid, workplace), workplace, place=place, listen=events.append)
    for subject in toy.SUBJECTS:
        label = f"tests.toy:PAINT / {subject} / seed 0"
        ends = [type(e) for e in events if e.task.label == label and not isinstance(e, Started)]
        assert ends == [Lost, Lost, Failed]
        (failed,) = [e for e in events if isinstance(e, Failed) and e.task.label == label]
        assert failed.error == "3 workers were lost that were at it: the node is gone"
    done = [event.task.label for event in events if isinstance(event, Finished)]
    assert len(done) == len(set(done)) == 3 + 2, "the other jobs, and two sets of prior images"


def test_a_machine_has_all_its_room_again_when_its_workers_have_ended(
    suite_file: Path, tmp_path: Path
) -> None:
    workplace = workplace_of(grid_of(suite_file), tmp_path)
    with ThisMachine(("", "")).serving(workplace, []) as place:
        place.hire()
        assert place.vacant == 1
    assert place.vacant == 2


class Deserted(Cluster):
    """A cluster that nobody comes to."""

    room, where, vacant, expects = 2, "no worker at all", 0, False

    @contextmanager
    def serving(self, workplace: Workplace, jobs: Sequence[Job]) -> Iterator[Cluster]:
        yield self


def test_a_run_that_no_worker_is_left_for_is_not_done(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:PRIMED")
    here = Node("here", "cpu", "EPYC", "fp32", None, {})
    nobody = Resources(cluster=Deserted(ClusterOptions(), here))
    jobs = len(grid.jobs)
    with pytest.raises(UserError, match=f"no worker was left: 0 of {jobs} jobs .* goes on"):
        run_grid(grid, tmp_path / "run", resources=nobody)
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 0


def test_a_job_done_elsewhere_and_sent_back_is_the_job_done_here(
    suite_file: Path, tmp_path: Path
) -> None:
    first = grid_of(suite_file, "tests.toy:PRIMED")
    here, there = tmp_path / "here", tmp_path / "there"
    assert run_grid(first, here, resources=ONE, keep_weights=True) == 0
    job = next(job for job in first.jobs if job.method == "tests.toy:PRIMED")
    home, away = RunDirectory(here), RunDirectory(there)
    protocol = first.suite.protocol.label
    needed = needed_by(job, home, protocol)
    kinds = {path.partition("/")[0] for path in needed}
    assert kinds == {"images", "jobs", "scores", "weights"}
    sent = packed(home, [*needed, *prior_files(job.fit.prior or "")])
    unpack(sent, away)
    record = away.job_record(job.name)
    assert record == home.job_record(job.name) and not missing(job, record)
    assert made_in(away, sent) == {}, "nothing is sent back that was sent there"
    for path in sent:
        if path.startswith(("jobs", "scores", "images")):
            (there / path).unlink()
    event = attempt(job, workplace_of(first, there), lambda event: None)
    assert isinstance(event, Finished)
    made = made_in(away, {path: b"" for path in sent} | sent)
    images = [path for path in made if path.endswith(".png")]
    assert not images, "the same bytes again"
    assert [path.partition("/")[0] for path in made] == ["jobs", "scores"], "records, in order"
    clear(away)
    left = {p.relative_to(there).parts[0] for p in there.rglob("*") if p.is_file()}
    assert left == {"prior"}


def test_what_nodes_lack_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver").mkdir()
    monkeypatch.chdir(tmp_path / "driver")
    grid = grid_of(toy.write_world(Path.cwd()), "tests.toy:PAINT")
    Path("plugin_of_mine.py").write_text("import tests.toy\nMINE = tests.toy.PAINT\n")
    package = Path("package_of_mine")
    (package / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "later.py", "data.bin", "__pycache__/later.pyc"):
        (package / name).touch()
    Path("notes.txt").touch()
    monkeypatch.syspath_prepend(str(Path.cwd()))
    __import__("plugin_of_mine")
    __import__("package_of_mine")
    luggage = luggage_of(grid.suite, subjects={"dog-red"})
    sent = {"plugin_of_mine.py", *(f"package_of_mine/{n}" for n in ("__init__.py", "data.bin"))}
    assert luggage.code.keys() == {*sent, "package_of_mine/later.py"}
    assert luggage.code["plugin_of_mine.py"] == Path("plugin_of_mine.py").read_bytes()
    there = unpacked(luggage, grid.suite, tmp_path / "node")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver").rename(tmp_path / "gone")
    assert str(tmp_path / "node/code") in sys.path
    sys.path.remove(str(tmp_path / "node/code"))
    digests = {subject.name: subject.digest for subject in there.data.load().subjects}
    planned = {job.subject: job.references_digest for job in grid.jobs}
    assert planned.items() <= digests.items()


def test_what_is_a_clusters_is_refused_without_one() -> None:
    for options in (WorkerOptions(worker_cpus=4.0), WorkerOptions(worker_gpus=0.0)):
        with pytest.raises(UserError, match="are a cluster's: add --on ray"), options.resources():
            pass


def test_a_node_that_computes_otherwise_is_told_by_what_differs() -> None:
    versions: dict[str, str | None] = {"torch": "2.9", "diffusers": "0.35"}
    node = Node("a", "cuda", "NVIDIA H200", "bf16", "1f2e", versions)
    assert not node.difference(replace(node, name="b", packages=dict(versions)))
    other = replace(node, processor="NVIDIA A100")
    assert node.difference(other) == "its processor is NVIDIA A100, and the run's is NVIDIA H200"
    newer = replace(node, commit="3d4c")
    assert node.difference(newer) == "its commit is 3d4c, and the run's is 1f2e"
    older = replace(node, packages={"torch": "2.8", "diffusers": "0.35"})
    assert node.difference(older) == "it has torch 2.8, and the run 2.9"
