"""Runs that lack room on the disk, file handles or memory: what is done stays, and goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_jobs
from benchmark.models.memory import halving
from benchmark.runs.attempt import Failed, Finished, attempt
from benchmark.runs.plan import Grid, plan
from benchmark.runs.score import Assessment, Examiner
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.files import WriteError
from benchmark.store.records import Job
from tests import toy
from tests.runs.test_run import executed
from tests.starvation import starved
from tests.toy import ONE


@dataclass(frozen=True)
class Batched(toy.Paint):
    """Paints; has a batch size."""

    batch_size: int = 4


BATCHED = Batched()
BATCHED_BY_ONE = Batched(batch_size=1)


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    return toy.write_world(tmp_path)


def grid_of(suite_file: Path, *methods: str, subjects: Sequence[str] = ()) -> Grid:
    names = [f"tests.toy:{name}" if name.isupper() else name for name in methods]
    return plan(load_suite(str(suite_file)), names, subjects=subjects)


def files(path: Path) -> dict[str, bytes]:
    """What does not tell of times."""
    found = [p for p in path.rglob("*") if p.suffix in (".png", ".csv", ".safetensors")]
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which memory never ran out."""
    monkeypatch.setattr(halving, "_sizes", {})
    monkeypatch.setattr(halving, "_taken", {})
    monkeypatch.setattr(halving, "_free_memory", lambda: None)  # a second, after many imports


# The disk ------------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_any_file_ends_the_run_and_the_next_one_goes_on(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file, "PRIMED", subjects=["dog-red", "dog-blue"])
    executed(grid, tmp_path / "clean")
    expected = files(tmp_path / "clean")
    count = sum(p.is_file() for p in (tmp_path / "clean").rglob("*")) + 1  # run.json twice
    assert count > 25
    for whole in range(0, count, 4):
        run = tmp_path / f"full-{whole}"
        with (
            starved(errno.ENOSPC, after=whole, where=str(run)) as refused,
            pytest.raises(UserError, match="^cannot write .*: the disk is full: free some"),
        ):
            executed(grid, run)
        assert len(refused) == 1, "nothing more was tried"
        assert not list(run.rglob("*.tmp"))
        assert files(run).items() <= expected.items(), "what is there is whole"
        executed(grid, run)
        assert files(run) == expected


def test_a_full_disk_is_told_in_one_line_and_trains_nothing_more(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(suite_file, "PAINT")
    with (
        starved(errno.ENOSPC, after=3, where="/images/"),
        pytest.raises(UserError, match="free some space, and run the same command again; what is"),
    ):
        run_grid(grid, tmp_path / "run", resources=ONE)
    shown = capsys.readouterr()
    assert shown.out.count("FAILED") == 1 and shown.err == ""
    assert not list((tmp_path / "run").rglob("*.error.txt"))
    with RunDirectory(tmp_path / "run").locked():  # it was let go
        pass


def test_one_place_that_cannot_be_written_fails_its_job_alone(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file, "PAINT")
    with starved(errno.EACCES, where="dog-blue") as refused:
        events = executed(grid, tmp_path / "run")
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert refused and failed.task.subject == "dog-blue" and not failed.spoiled
    assert failed.error.endswith(
        "permission is denied: change that, or choose another place (DIR or --out)"
    )
    assert len([event for event in events if isinstance(event, Finished)]) == 2


def test_a_process_without_file_handles_does_nothing_more(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "PAINT", subjects=["dog-red"])
    with starved(errno.EMFILE, where="/images/"):
        (failed,) = [e for e in executed(grid, tmp_path / "run") if isinstance(e, Failed)]
    assert failed.spoiled and "too many files are open: raise the limit" in failed.error


def test_scoring_again_on_a_full_disk_ends_with_the_first_job(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, directory = grid_of(suite_file, "PAINT"), RunDirectory(tmp_path / "run")
    executed(grid, directory.path)
    records = [directory.job_record(job.name) for job in grid.jobs]
    suite = grid.suite.under(str(toy.write_protocol(tmp_path)))
    examiner = Examiner(Assessment.of(suite), directory, "cpu")
    with (
        starved(errno.ENOSPC, where="/scores/") as refused,
        pytest.raises(WriteError, match="the disk is full"),
    ):
        score_jobs(records, examiner)
    assert len(refused) == 1
    with starved(errno.EACCES, where="dog-blue-s0.csv"):
        assert score_jobs(records, examiner) == [grid.jobs[1].label]
    assert capsys.readouterr().out.count("28 scores of 8 images") == 2


# Memory --------------------------------------------------------------------------------------


def tried(grid: Grid, job: Job, path: Path) -> Finished | Failed:
    directory = RunDirectory(path)
    examiner = Examiner(Assessment.of(grid.suite), directory, "cpu")
    return attempt(job, Workplace(grid.suite, directory, examiner), lambda _: None)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("BATCHED", "lower the method's batch_size, now 4, [backbone] resolution, --precision"),
        ("BATCHED_BY_ONE", "lower [backbone] resolution, --precision (bf16), or --workers"),
    ],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_a_training_that_lacks_memory_says_what_to_lower(
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    method: str,
    named: str,
) -> None:
    def meet(*_: object) -> None:
        raise error

    monkeypatch.setattr(toy, "meet", meet)
    grid = grid_of(suite_file, f"tests.runs.test_starved:{method}", subjects=["dog-blue"])
    event = tried(grid, grid.jobs[0], tmp_path / "run")
    assert isinstance(event, Failed) and event.spoiled and not event.halt
    assert event.error.startswith(f"out of memory in fit: {named}")
    assert event.error.endswith(f"({type(error).__name__}: {error})")


@pytest.mark.usefixtures("fresh")
def test_prior_images_are_drawn_fewer_at_once_and_their_record_says_so(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, took = toy.Easel.sample, []

    def small(easel: toy.Easel, condition: toy.Texts, *seeds: object, **how: object) -> object:
        if len(condition) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        took.append(len(condition))
        return sample(easel, condition, *seeds, **how)  # type: ignore[arg-type]

    grid = grid_of(suite_file, "PRIMED", "PAINT", subjects=["dog-red"])
    executed(grid, tmp_path / "whole")
    monkeypatch.setattr(toy.Easel, "sample", small)
    executed(grid, tmp_path / "small")
    assert took == [4, 4, 4, 4, 4]  # of 20
    assert files(tmp_path / "small") == files(tmp_path / "whole")
    (key,) = grid.priors
    for path, batches in (("whole", None), ("small", {"prior images": 4})):
        directory = RunDirectory(tmp_path / path)
        assert directory.prior_record(key).provenance.get("batches") == batches
        assert all("batches" not in directory.job_record(j.name).provenance for j in grid.jobs)


@pytest.mark.usefixtures("fresh")
def test_a_drawing_in_smaller_batches_stands_in_the_record_of_its_job(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = toy.Paint.generate

    def short(*work: object) -> object:
        batch = halving.BatchSize("sampling", 16, "")
        took = []

        def compute(size: int) -> None:
            took.append(size)
            if size > 8:
                raise MemoryError

        batch.halved(100, compute)
        return generate(*work)  # type: ignore[arg-type]

    monkeypatch.setattr(toy.Paint, "generate", short)
    grid = grid_of(suite_file, "PAINT", "real-images", subjects=["dog-red"])
    executed(grid, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    found = [directory.job_record(job.name).provenance.get("batches") for job in grid.jobs]
    assert found == [{"sampling": 8}, None]
    scored = [directory.score_record("toy-1", job.name).provenance for job in grid.jobs]
    assert not any("batches" in one for one in scored)


@pytest.mark.usefixtures("fresh")
def test_encoders_take_fewer_images_at_once_and_the_scores_record_says_so(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = toy.Eye.embeddings

    def small(eye: toy.Eye, images: Sequence[np.ndarray]) -> np.ndarray:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embeddings(eye, images)

    grid = grid_of(suite_file, "PAINT", subjects=["dog-red"])
    executed(grid, tmp_path / "whole")
    monkeypatch.setattr(toy.Eye, "embeddings", small)
    executed(grid, tmp_path / "small")
    assert files(tmp_path / "small") == files(tmp_path / "whole")
    scored = RunDirectory(tmp_path / "small").score_record("toy-1", grid.jobs[0].name)
    assert scored is not None
    assert scored.provenance["batches"] == {
        "encoder dino": 2,
        "encoder clip": 2,
        "distances by encoder lpips": 2,
    }
    assert scored.scoring == Assessment.of(grid.suite).scoring, "it decides no key"


@pytest.mark.usefixtures("fresh")
def test_an_encoder_that_takes_not_one_image_fails_the_scores_with_the_way_out(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(toy.Eye, "embeddings", none)
    grid = grid_of(suite_file, "PAINT", subjects=["dog-red"])
    (failed,) = [e for e in executed(grid, tmp_path / "run") if isinstance(e, Failed)]
    assert "out of memory in encoder " in failed.error and failed.spoiled
    assert "score the run with `score RUN` on a machine with more memory" in failed.error
    assert RunDirectory(tmp_path / "run").job_record(grid.jobs[0].name), "its images stay"


# What nothing can do -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "prior_count=1000000000000000000",
            "it should be PriorImages with a count from 1 to 100000",
        ),
        (f"steps={2**63}", "'steps' of method .* is too large: it should be below 2"),
        (f"steps=-1{'0' * 400}", "'steps' of method .* is too large"),
    ],
)
def test_settings_that_nothing_can_do_are_refused(
    suite_file: Path, settings: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        grid_of(suite_file, f"tests.toy:PAINT[{settings}]")


def test_a_sampler_has_no_more_steps_than_a_scheduler_can_lay_out(suite_file: Path) -> None:
    suite_file.write_text(suite_file.read_text().replace("steps = 2", f"steps = {10**18}"))
    with pytest.raises(UserError, match=r"a sampler takes 1 to 10000 steps, not 1e\+18"):
        grid_of(suite_file, "PAINT")


def test_millions_of_images_are_counted_at_once(
    suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Job, "requests", property(lambda _: pytest.fail("they were listed")))
    grid = plan(load_suite(str(suite_file)), ["tests.toy:PAINT"], images_per_prompt=10_000)
    assert run_grid(grid, tmp_path / "run", dry_run=True) == 0
    shown = capsys.readouterr().out
    assert "jobs        3, 90006 images" in shown
    assert "to do       3 fits, 90006 images to draw, 90006 to score" in shown


def test_images_are_counted_as_they_are_listed(suite_file: Path) -> None:
    for job in grid_of(suite_file, "PAINT", "real-images").jobs:
        for changed in (job, replace(job, images_per_prompt=7), replace(job, prompts=())):
            assert changed.count == len(changed.requests)


@pytest.mark.slow
def test_a_run_on_a_file_system_that_is_too_small_goes_on_once_it_is_larger(
    suite_file: Path, tmp_path: Path
) -> None:
    script = (
        "mount -t tmpfs -o size={size}k small small && "
        "{python} -m benchmark run --suite {suite} --methods tests.toy:PRIMED --no-controls "
        "--workers 1 --out small/run; echo code $?; find small -name '*.tmp*'; "
        "mount -o remount,size=100m small && "
        "{python} -m benchmark run --suite {suite} --methods tests.toy:PRIMED --no-controls "
        "--workers 1 --out small/run; echo code $?; find small -name '*.tmp*'; cp -r small/run kept"
    )
    (tmp_path / "small").mkdir()
    isolated = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"]).returncode:
        pytest.skip("file systems cannot be mounted here")
    command = script.format(size=64, python=sys.executable, suite=suite_file)
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [*isolated, "sh", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == [
        "code 2",
        "code 0",
    ], done.stderr
    assert ".tmp" not in done.stdout
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: cannot write ") and "the disk is full: free some space" in said
    assert "Traceback" not in done.stderr
    executed(grid_of(suite_file, "PRIMED"), tmp_path / "clean")
    expected = files(tmp_path / "clean")
    assert {k: v for k, v in files(tmp_path / "kept").items() if k in expected} == expected
