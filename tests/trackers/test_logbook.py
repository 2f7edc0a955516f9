"""What trackers are told, and when: a double in their place that keeps all it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.grid.running import run_grid
from benchmark.report.write import write_report
from benchmark.runs.attempt import Finished
from benchmark.runs.machine import Resources
from benchmark.runs.shared import Shard
from benchmark.store.claims import PROCESSES, Claims, Owner
from benchmark.store.directory import RunDirectory
from benchmark.store.reading import read_contents
from benchmark.studies.checkpoint_runs import Asked
from benchmark.trackers import logbook
from benchmark.trackers.entries import JobEntry, ReportEntry, Tracker, job_entry, report_entry
from benchmark.trackers.logbook import TOOLS, Logbook
from tests.made_up_run import edit_records, write_job, write_run, write_scores
from tests.runs.test_run import grid_of, suite_file

__all__ = ["suite_file"]
GRID = {"methods": ("dreambooth", "real-images"), "subjects": ("cat", "dog")}
ONE = Resources(workers=1, log=("tensorboard",))


@dataclass
class Diary:
    """Keeps what it is told, by label and identity; before that does what `mishap` does."""

    mishap: Callable[[str], None] = lambda label: None
    told: list[tuple[str, str]] = field(default_factory=list)
    entries: dict[str, JobEntry | ReportEntry] = field(default_factory=dict)

    def log_job(self, entry: JobEntry, identity: str) -> None:
        self._keep(entry.label, entry, identity)

    def log_report(self, entry: ReportEntry, identity: str) -> None:
        self._keep("report", entry, identity)

    def _keep(self, label: str, entry: JobEntry | ReportEntry, identity: str) -> None:
        self.mishap(label)
        self.told.append((label, identity))
        self.entries[label] = entry

    @property
    def labels(self) -> list[str]:
        return [label for label, _ in self.told]


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> Diary:
    """What `--log tensorboard` tells in these tests."""
    found = Diary()
    monkeypatch.setitem(TOOLS, "tensorboard", lambda path: found)
    return found


def made_up(path: Path) -> Path:
    run = write_run(path, lambda job, request, metric: 0.5 + request.index / 10, **GRID)
    report(run, "a report")
    return run


def report(run: Path, text: str) -> None:
    """As much of a report as is told, drawn in no time."""
    (run / "report.md").write_text(text)
    (run / "summary.csv").write_text("method,mean\n")


def tell(run: Path, diary: Diary) -> None:
    Logbook({"diary": diary}, RunDirectory(run)).complete(read_contents(run))


def test_a_job_is_told_with_all_that_its_record_says(tmp_path: Path) -> None:
    run = made_up(tmp_path / "my run")
    losses = {"subject": [[10, 0.5], [20, 0.25]], "prior": [[20, 0.75]]}
    edit_records(run, "dreambooth/cat-s0", lambda record: record.update(losses=losses))
    contents = read_contents(run)
    name = ("dreambooth", "cat", 0)
    scored = [record for (_, of), record in contents.scores.items() if of == name]
    entry = job_entry(contents.jobs[name], scored, RunDirectory(run))
    assert (entry.label, entry.group) == ("dreambooth / cat / seed 0", "my run")
    assert entry.losses == {10: {"subject": 0.5}, 20: {"subject": 0.25, "prior": 0.75}}
    assert entry.last_step == 20
    # Two images a prompt, 0.5 and 0.6; one of the prior prompt.
    assert entry.scores == pytest.approx(
        {"toy-1/dino": 0.55, "toy-1/clip_i": 0.55, "toy-1/clip_t": 0.55, "toy-1/div": 0.55}
        | {"toy-1/pres": 0.5, "toy-1/prior_div": 0.5}
    )
    assert entry.costs["seconds/fit"] == 20 and entry.costs["seconds/score"] == 1
    assert entry.costs["steps_per_second"] == 7.5
    assert entry.config["fit"]["settings"] == {"steps": 150}
    assert json.loads(json.dumps(entry.config)) == entry.config
    captions = {image.caption for image in entry.images}
    assert captions == {"a dog in the snow", "a red dog", "a dog"}
    assert all(image.path.is_file() for image in entry.images)
    assert len({image.key for image in entry.images}) == 3


def test_no_photograph_is_told_as_a_sample(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    record = read_contents(run).jobs["real-images", "cat", 0]
    assert record.images and not job_entry(record, [], RunDirectory(run)).images


def test_the_report_is_told_by_the_files_that_it_wrote(tmp_path: Path) -> None:
    write_report(made_up(tmp_path))
    entry = report_entry(RunDirectory(tmp_path))
    pd.testing.assert_frame_equal(entry.tables["summary"], pd.read_csv(tmp_path / "summary.csv"))
    assert "tables/toy-1/comparison" in entry.tables
    assert {image.key for image in entry.figures} >= {"figures/grid", "figures/toy-1/fidelity"}
    assert entry.config["name"] == "toy"


def test_nothing_is_told_twice_and_what_changed_is_told_under_the_same_identity(
    tmp_path: Path,
) -> None:
    run, diary = made_up(tmp_path), Diary()
    tell(run, diary)
    jobs = [f"{method} / {subject} / seed 0" for method in GRID["methods"] for subject in ("cat",)]
    assert set(jobs) < set(diary.labels) and diary.labels[-1] == "report"
    assert len(set(diary.told)) == len({identity for _, identity in diary.told}) == 5
    first = dict(diary.told)
    tell(run, diary)
    assert len(diary.told) == 5
    contents = read_contents(run)
    record, scored = contents.jobs["dreambooth", "dog", 0], contents.scores
    scoring = next(iter(scored.values())).scoring
    write_scores(RunDirectory(run), record, scoring, lambda *_: 0.75)
    read_contents(run).write_scores()
    report(run, "another report")
    tell(run, diary)
    label = "dreambooth / dog / seed 0"
    assert diary.told[5:] == [(label, first[label]), ("report", first["report"])]
    assert diary.entries[label].scores["toy-1/dino"] == 0.75


def test_what_has_just_finished_is_told_before_the_end_and_no_second_time(tmp_path: Path) -> None:
    run, diary, seen = made_up(tmp_path), Diary(), []
    book = Logbook({"diary": diary}, RunDirectory(run))
    record = read_contents(run).jobs["dreambooth", "dog", 0]
    event = Finished(record.job, record, 1.0)
    book.beside(seen.append)(event)
    book.wait()
    assert seen == [event] and diary.labels == [record.job.label]
    assert diary.entries[record.job.label].scores["toy-1/dino"] == pytest.approx(0.55)
    book.complete(read_contents(run))
    assert sorted(diary.labels) == sorted({*diary.labels}) and len(diary.told) == 5


def test_names_that_are_no_folders_have_marks_of_their_own_inside_the_run(tmp_path: Path) -> None:
    methods = ("dreambooth[steps=1]", "dreambooth[steps=1", "../../out:METHOD", "a/b")
    run, diary = tmp_path / "run", Diary()
    write_run(run, lambda *_: 0.5, methods=methods, subjects=("cat",))
    report(run, "a report")
    tell(run, diary)
    tell(run, diary)
    assert sorted(diary.labels) == sorted([*(f"{m} / cat / seed 0" for m in methods), "report"])
    assert len([*run.glob("logged/diary/*/cat-s0.json")]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("call", "error"), [("job", SystemExit(3)), ("report", RuntimeError("no\nnetwork"))]
)
def test_a_tool_that_raises_is_left_off_in_one_line_and_told_all_by_the_next_command(
    suite_file: Path,
    tmp_path: Path,
    diary: Diary,
    capsys: pytest.CaptureFixture[str],
    call: str,
    error: BaseException,
) -> None:
    def raises(label: str) -> None:
        calls.append(label)
        if (label == "report") == (call == "report"):
            raise error

    calls: list[str] = []
    diary.mishap = raises
    grid = grid_of(suite_file, "tests.toy:PAINT")
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 0
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    line = f"warning: --log tensorboard: {said}; it is left off, and the run goes on"
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [line] and "was told" not in printed.out
    assert len(calls) == (1 if call == "job" else 4)
    assert (tmp_path / "run/report.md").exists()
    before, marks = [*diary.told], identities(tmp_path / "run")
    diary.mishap = lambda label: None
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 0
    assert not capsys.readouterr().err
    assert len(diary.told) == len({*diary.labels}) == 4
    assert diary.told[: len(before)] == before
    assert marks <= identities(tmp_path / "run") == {identity for _, identity in diary.told}


def identities(run: Path) -> set[str]:
    return {json.loads(path.read_text())["identity"] for path in run.glob("logged/**/*.json")}


def test_a_tool_that_takes_nothing_more_holds_no_run_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, end = made_up(tmp_path), threading.Event()
    monkeypatch.setattr(logbook, "_PATIENCE", 0.2)
    monkeypatch.setattr(logbook, "_LOOK_EVERY", 0.05)
    diary = Diary(mishap=lambda label: end.wait(60) and None)
    tell(run, diary)
    assert "--log diary: it has not taken what it was told" in capsys.readouterr().err
    assert diary.told == []
    end.set()


@pytest.mark.more
def test_a_run_that_goes_on_tells_what_it_adds_and_what_it_had_before_it_was_asked_to(
    suite_file: Path, tmp_path: Path, diary: Diary
) -> None:
    run, small = tmp_path / "run", grid_of(suite_file, "untuned")
    assert run_grid(small, run, resources=replace(ONE, log=())) == 0
    assert not diary.told and not (run / "logged").exists()
    assert run_grid(small, run, resources=ONE, dry_run=True) == 0
    assert not diary.told
    assert run_grid(small, run, resources=ONE) == 0
    assert len(diary.told) == 3 + 1
    assert run_grid(grid_of(suite_file, "untuned", "real-images"), run, resources=ONE) == 0
    added = diary.labels[4:]
    assert len(added) == 3 + 1 and added[-1] == "report"
    assert all(label.startswith("real-images") for label in added[:-1])
    assert diary.told[3] == diary.told[-1], "the report, under one identity"


def test_a_finished_run_says_what_was_told_and_how_to_look_at_it(
    suite_file: Path, tmp_path: Path, diary: Diary, capsys: pytest.CaptureFixture[str]
) -> None:
    run, grid = tmp_path / "run", grid_of(suite_file, "untuned")
    line = f"tensorboard was told of all that is here: tensorboard --logdir {run}/tensorboard"
    for again in (False, True):  # the second time nothing is new
        assert run_grid(grid, run, resources=ONE) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == line
        assert any("nothing is new" in one for one in lines) == again
    assert run_grid(grid, run, resources=replace(ONE, log=())) == 0
    assert "was told" not in capsys.readouterr().out


@pytest.mark.more
def test_processes_that_share_a_run_tell_each_job_once_and_the_last_one_the_report(
    suite_file: Path, tmp_path: Path, diary: Diary
) -> None:
    run, grid = tmp_path / "run", grid_of(suite_file, "tests.toy:PRIMED", "untuned")
    far = Claims(run, owner=replace(Owner.this(), host="far", machine="far"))
    assert far.take(f"{PROCESSES}/far") and far.take("jobs/untuned/dog-red-s0")
    assert run_grid(grid, run, resources=replace(ONE, shard=Shard(1, 2))) == 0
    assert len(diary.told) == 5 and "report" not in diary.labels
    far.give_back("jobs/untuned/dog-red-s0")
    far.give_back(f"{PROCESSES}/far")
    assert run_grid(grid, run, resources=replace(ONE, shard=Shard(2, 2))) == 0
    assert diary.labels[5:] == ["untuned / dog-red / seed 0", "report"]


def test_a_job_without_scores_is_not_told(tmp_path: Path) -> None:
    run, diary = made_up(tmp_path), Diary()
    contents = read_contents(run)
    job = contents.jobs["dreambooth", "dog", 0].job
    other = replace(job, fit=replace(job.fit, subject="owl"))
    write_job(RunDirectory(run), other, {})
    tell(run, diary)
    assert other.label not in diary.labels and len(diary.told) == 5


@pytest.mark.parametrize("command", ["run", "sweep --set steps=1", "curve --over steps=1,2"])
def test_every_command_of_a_grid_asks_for_the_tools(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *rest = command.split()
    method = ["--methods"] if name == "run" else []
    arguments = [name, *method, "dreambooth", *rest, "--log", "tensorboard", "--log", "mlflow"]
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert "--log 'mlflow': known are" in capsys.readouterr().err


def test_checkpoints_hands_the_tools_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_for(asked: Asked, *_: object, dry_run: bool) -> int:
        tools.append(asked.resources.log)
        return 0

    tools: list[tuple[str, ...]] = []
    monkeypatch.setattr("benchmark.studies.checkpoint_runs.run_checkpoints", asked_for)
    command = ["checkpoints", str(tmp_path), "--log", "wandb", "--log", "trackio"]
    monkeypatch.setattr("sys.argv", ["benchmark", *command])
    with pytest.raises(SystemExit):
        cli.main()
    assert tools == [("wandb", "trackio")]


def test_an_unknown_tool_is_refused_before_anything_is_written(
    suite_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--log 'mlflow': known are tensorboard, trackio, wandb"):
        run_grid(grid_of(suite_file), tmp_path / "run", resources=replace(ONE, log=("mlflow",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("raised", [TypeError("Descriptors cannot be created"), SystemExit(3)])
def test_a_tool_that_cannot_be_started_is_refused_before_anything_is_written(
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
) -> None:
    """As a package does on import whose own dependency is of another version."""

    def broken(path: Path) -> Tracker:
        raise raised

    monkeypatch.setitem(logbook.TOOLS, "trackio", broken)
    why = f"--log trackio: it cannot be started: {type(raised).__name__}: {raised}: "
    with pytest.raises(UserError, match=why):
        run_grid(grid_of(suite_file), tmp_path / "run", resources=replace(ONE, log=("trackio",)))
    assert not (tmp_path / "run").exists()
