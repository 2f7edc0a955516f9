"""One job, and whole grids: the same bytes in any order, after failures and after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark.scoring.features
from benchmark.config.suite import load_suite
from benchmark.grid import run_grid
from benchmark.runs import workers as execution
from benchmark.runs.job import Pace, Workplace, pixels, run_job
from benchmark.runs.plan import Plan, plan
from benchmark.runs.workers import Failed, Finished, execute, free_memory, worker_count
from benchmark.store.directory import RunDirectory
from tests import toy


@pytest.fixture(autouse=True)
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The toy backbone puts its encoders here; this takes them out again afterwards.
    monkeypatch.setattr(benchmark.scoring.features, "load_encoders", toy.load_encoders)
    return toy.write_world(tmp_path)


def grid_of(suite_file: Path, *methods: str) -> Plan:
    return plan(load_suite(str(suite_file)), methods or ("tests.toy:PAINT", "real-images"))


def prepared(grid: Plan, path: Path) -> RunDirectory:
    directory = RunDirectory(path)
    directory.prepare(configuration=grid.configuration, suite_toml="", jobs=grid.jobs)
    return directory


def scores_in_order(grid: Plan, path: Path, jobs: list) -> bytes:
    directory = prepared(grid, path)
    execute(jobs, Workplace(grid.suite, directory), workers=1, listen=lambda event: None)
    directory.assemble_scores()
    return (path / "scores.csv").read_bytes()


def test_a_job_leaves_images_scores_and_a_record_that_agree(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file, "tests.toy:PAINT")
    job = grid.jobs[2]
    directory = prepared(grid, tmp_path / "run")
    steps: list[tuple[int, int]] = []
    workplace = Workplace(grid.suite, directory)
    record = run_job(job, workplace, progress=lambda *done: steps.append(done))
    assert steps == [(1, 2), (2, 2)]
    assert record.losses == {}  # it calls progress with the steps alone
    assert workplace.backbone.weight == 0.0
    kept = directory.record(job)
    assert kept is not None
    assert asdict(kept) == json.loads(json.dumps(asdict(record)))
    assert kept.job["subject"] == "vase-green"
    assert record.provenance["metrics"]["dino"] == "1"
    assert record.provenance["threads"] >= 1
    assert record.peak_memory_mb > 10
    assert record.files["images/tests.toy-PAINT/vase-green/prior-s0-1.png"] == "a vase"
    assert len(record.files) == record.images == 8

    # Every DINO, PRES and CLIP-T row again, by hand, from the PNGs that were kept.
    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))

    encoders = toy.Colours()
    real = encoders.dino([read(path) for path in workplace.subjects["vase-green"].images])
    with (directory.path / "jobs/tests.toy-PAINT/vase-green-s0.csv").open() as file:
        rows = list(csv.DictReader(file))
    paths = {path: text for path, text in record.files.items()}
    for path, text in paths.items():
        slug, seed, index = Path(path).stem.rsplit("-", 2)
        image = encoders.dino([read(directory.path / path)])[0]
        found = {
            row["metric"]: float(row["value"])
            for row in rows
            if row["sample"] == index
            and (row["prompt"].replace("{}", "subject").replace(" ", "-") == slug
                 or row["prompt_kind"] == slug)
        }  # fmt: skip
        fidelity = "pres" if slug == "prior" else "dino"
        assert seed == "s0"
        assert found[fidelity] == pytest.approx(float((real @ image).mean()), abs=2e-6)
        if slug != "prior":
            text_row = encoders.clip_text([text])[0]
            assert found["clip_t"] == pytest.approx(float(text_row @ image), abs=2e-6)
            assert set(found) == {"dino", "clip_i", "clip_t", "div"}


def test_real_images_are_kept_byte_for_byte_and_never_scored_with_themselves(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file, "real-images")
    directory = prepared(grid, tmp_path / "run")
    workplace = Workplace(grid.suite, directory)
    run_job(grid.jobs[0], workplace, progress=lambda *_: None)
    originals = [np.asarray(Image.open(p)) for p in workplace.subjects["dog-red"].images]
    for index, original in enumerate(originals):
        kept = directory.path / f"images/real-images/dog-red/real-s0-{index}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(kept)), original)
    first, second = toy.Colours().dino(originals)
    assert directory.job_means(grid.jobs[0])["dino"] == pytest.approx(first @ second, abs=2e-6)


def test_the_pace_of_training_leaves_out_what_is_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 10.5, 11.0, 12.0])
    monkeypatch.setattr("benchmark.runs.job.time.perf_counter", lambda: next(clock))
    seen: list[tuple[int, int]] = []
    pace = Pace(lambda *done: seen.append(done))
    assert pace.steps_per_second is None
    pace(1, 5)
    assert pace.steps_per_second is None
    pace(2, 5)
    pace(3, 5)
    pace(5, 5)
    assert pace.steps_per_second == 2.0  # four steps in the two seconds from 10 to 12
    assert seen == [(1, 5), (2, 5), (3, 5), (5, 5)]


def test_losses_are_kept_to_four_digits_and_if_told_often_as_means() -> None:
    pace = Pace(lambda done, steps: None)
    for step in range(1, 101):
        told = {"instance": 1 / 3, "prior": step / 7}
        pace(step, 101, losses=told)
    pace(101, 101)
    assert pace.losses["instance"][:2] == [(3, 0.3333), (6, 0.3333)]
    assert pace.losses["prior"][:2] == [(3, 0.2857), (6, 0.7143)]  # 2/7 and 5/7
    assert pace.losses["prior"][-1] == (100, 14.29)  # of step 100 alone: 100/7
    assert len(pace.losses["prior"]) == 34


def test_a_record_has_the_losses_that_were_told_but_for_what_is_no_number(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file, "tests.toy:TELL")
    directory = prepared(grid, tmp_path / "run")
    record = run_job(grid.jobs[0], Workplace(grid.suite, directory), progress=lambda *_: None)
    assert record.losses == {"instance": [(1, 0.3333), (2, 0.1667)], "prior": [(2, 0.25)]}
    kept = directory.record(grid.jobs[0])
    assert kept is not None
    assert kept.losses == {"instance": [[1, 0.3333], [2, 0.1667]], "prior": [[2, 0.25]]}
    path = next((tmp_path / "run").glob("jobs/*/*.json"))
    old = json.loads(path.read_text())
    del old["losses"]
    path.write_text(json.dumps(old))
    read = directory.record(grid.jobs[0])
    assert read is not None and read.losses == {}


def test_a_record_has_the_pace_of_what_was_trained_and_a_peak_of_its_own(
    suite_file: Path, tmp_path: Path
) -> None:
    grid = grid_of(suite_file)
    workplace = Workplace(grid.suite, prepared(grid, tmp_path / "run"))
    first = run_job(grid.jobs[0], workplace, progress=lambda *_: None)
    assert first.steps_per_second is not None and first.steps_per_second > 0
    np.ones(2**26).sum()  # half a gigabyte, which the next job has no part in
    second = run_job(grid.jobs[-1], workplace, progress=lambda *_: None)
    assert (grid.jobs[-1].method, second.steps_per_second) == ("real-images", None)
    if sys.platform == "linux":
        assert second.peak_memory_mb < first.peak_memory_mb + 256


def test_images_of_different_sizes_and_bad_ones() -> None:
    import torch

    mixed = [torch.zeros(3, 2, 4), torch.full((3, 5, 1), 128 / 255)]
    assert [image.shape for image in pixels(mixed)] == [(2, 4, 3), (5, 1, 3)]
    assert pixels(mixed)[1].max() == 128
    for bad in (torch.full((1, 3, 2, 2), 1.5), torch.full((1, 3, 2, 2), torch.nan)):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            pixels(bad)


def test_scores_are_the_same_bytes_in_any_order_and_twice(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file)
    forward = scores_in_order(grid, tmp_path / "a", list(grid.jobs))
    assert forward.count(b"\n") > 50
    assert forward == scores_in_order(grid, tmp_path / "b", list(grid.jobs[::-1]))
    assert forward == scores_in_order(grid, tmp_path / "a", list(grid.jobs))


def test_a_metric_that_is_not_a_number_fails_its_job(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:PAINT")
    directory = prepared(grid, tmp_path / "run")
    workplace = Workplace(grid.suite, directory)
    workplace.metrics = {"broken": lambda features: {0: float("nan")}}
    with pytest.raises(ValueError, match="metric 'broken' gave nan for image 0 of tests.toy:PAINT"):
        run_job(grid.jobs[0], workplace, progress=lambda *_: None)
    assert directory.record(grid.jobs[0]) is None


def test_a_failed_job_stops_nothing_and_is_tried_again(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(suite_file, "tests.toy:RAISES")
    assert run_grid(grid, tmp_path / "run", workers=1) == 1
    output = capsys.readouterr()
    assert (
        "tests.toy:RAISES / dog-blue / seed 0  FAILED: RuntimeError: the paint is dry\n"
        in output.out
    )
    failed = (
        "failed; the report holds the 2 that are done:\n  tests.toy:RAISES / dog-blue / seed 0\n"
    )
    assert f"1 of 3 jobs {failed}" in output.err
    error = tmp_path / "run" / "jobs" / "tests.toy-RAISES" / "dog-blue-s0.error.txt"
    assert "Traceback" in error.read_text()
    assert (tmp_path / "run" / "report.md").exists()
    assert b"vase-green" in (tmp_path / "run" / "scores.csv").read_bytes()
    assert run_grid(grid, tmp_path / "run", workers=1) == 1
    output = capsys.readouterr()
    assert "2 of the 3 jobs are done and will be skipped" in output.out
    assert "[3/3] tests.toy:RAISES / dog-blue" in output.out


def test_nothing_to_report_is_said_and_no_scores_are_made_up(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load_suite(str(suite_file))
    grid = plan(suite, ["tests.toy:RAISES"], subjects=["dog-blue"])
    assert run_grid(grid, tmp_path / "run", workers=1) == 1
    assert "there is nothing to report" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.md").exists()


def test_an_interrupted_run_keeps_what_is_done_and_goes_on(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    grid = grid_of(suite_file, "tests.toy:INTERRUPTED")
    assert run_grid(grid, tmp_path / "run", workers=1) == 130
    assert "interrupted: 2 of 3 jobs are done and kept" in capsys.readouterr().err
    assert not (tmp_path / "run" / "scores.csv").exists()
    monkeypatch.setattr(toy, "meet", lambda mishap: None)
    assert run_grid(grid, tmp_path / "run", workers=1) == 0
    whole = scores_in_order(grid, tmp_path / "whole", list(grid.jobs))
    assert (tmp_path / "run" / "scores.csv").read_bytes() == whole


def test_there_are_as_many_workers_as_cores_jobs_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(execution, "on_cuda", lambda: False)
    assert (worker_count(20), worker_count(3), worker_count(0)) == (8, 3, 1)
    assert worker_count(20, memory=3, free=10) == 3
    assert worker_count(20, memory=3, free=2) == 1
    assert worker_count(20, memory=None, free=2) == worker_count(20, memory=3, free=None) == 8
    monkeypatch.setattr(execution, "on_cuda", lambda: True)
    assert worker_count(20, memory=3, free=100) == 1


def test_free_memory_is_linuxs_within_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, container = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(execution, "MEMORY", machine)
    monkeypatch.setattr(execution, "MEMORY_LIMIT", container)
    assert free_memory() is None
    machine.write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    5000 kB\n")
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
    monkeypatch.setattr("benchmark.grid.free_memory", lambda: 30 * 10**9)
    monkeypatch.setattr("benchmark.grid.worker_memory", lambda _: 18 * 10**9)
    assert run_grid(grid_of(suite_file, "real-images"), tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "with 1 worker\n" in output
    assert "memory      about 18 GB a worker, 30 GB free\n" in output


def test_a_dry_run_writes_nothing(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_grid(grid_of(suite_file), tmp_path / "run", dry_run=True) == 0
    assert not (tmp_path / "run").exists()
    output = capsys.readouterr().out
    assert "jobs        6, 30 images\n" in output
    assert "time left   unknown" in output


def test_a_killed_run_resumes_to_the_same_bytes(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:SLOW")
    command = [
        sys.executable,
        "-m",
        "benchmark",
        "run",
        "--methods",
        "tests.toy:SLOW",
        "--no-controls",
        "--workers",
        "1",
    ]
    command += ["--suite", str(suite_file), "--out", str(tmp_path / "killed")]
    paths = os.pathsep.join([str(Path(toy.__file__).parent.parent), *filter(None, sys.path)])
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("jobs/*/*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((tmp_path / "killed").glob("jobs/*/*.json"))) in (1, 2)
    assert not (tmp_path / "killed" / "scores.csv").exists()
    assert run_grid(grid, tmp_path / "killed", workers=1) == 0
    whole = scores_in_order(grid, tmp_path / "whole", list(grid.jobs))
    assert (tmp_path / "killed" / "scores.csv").read_bytes() == whole


def test_workers_give_the_same_bytes_and_survive_a_death(suite_file: Path, tmp_path: Path) -> None:
    grid = grid_of(suite_file, "tests.toy:PAINT", "tests.toy:DIES")
    directory = prepared(grid, tmp_path / "two")
    events: list = []
    execute(grid.jobs, Workplace(grid.suite, directory), workers=2, listen=events.append)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.job.label == "tests.toy:DIES / dog-blue / seed 0"
    assert "its worker process died (exit code -9)" in failed.error
    assert len([event for event in events if isinstance(event, Finished)]) == 5
    directory.assemble_scores()
    alive = [job for job in grid.jobs if job != failed.job]
    here = scores_in_order(grid, tmp_path / "one", alive)
    assert (tmp_path / "two" / "scores.csv").read_bytes() == here
