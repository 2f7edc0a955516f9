"""One job: images, scores and records that agree; what it leaves behind; what it is told."""

from __future__ import annotations

import csv
import gc
import json
import sys
import time
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.api import Prompt, UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.runs.box import LeftBehind
from benchmark.runs.job import run_job, run_prior
from benchmark.runs.plan import Grid, plan
from benchmark.runs.prior import read_prior
from benchmark.runs.score import Assessment, Examiner
from benchmark.runs.tools import Pace
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.records import JobRecord
from tests import toy


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(str(toy.write_world(tmp_path)))


def workplace_of(grid: Grid, path: Path) -> Workplace:
    directory = RunDirectory(path)
    examiner = Examiner(Assessment.of(grid.suite), directory, grid.device)
    return Workplace(grid.suite, directory, examiner)


def quiet(phase: str, done: int, steps: int) -> None:
    """Nobody listens."""


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_job_leaves_images_scores_and_a_record_that_agree(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PAINT"])
    workplace = workplace_of(grid, tmp_path / "run")
    told: list[tuple[str, int, int]] = []
    done = run_job(grid.jobs[2], workplace, tell=lambda *step: told.append(step))
    assert told == [
        ("loading", 0, 1),
        ("fit", 0, 1),
        ("fit", 1, 2),
        ("fit", 2, 2),
        ("draw", 0, 8),
        ("score", 0, 1),
    ]
    record = done.record
    assert record == workplace.directory.job_record(grid.jobs[2].name)
    assert record.job == grid.jobs[2]
    assert record.provenance["threads"] >= 1
    assert record.peak_memory_mb > 10
    assert (record.learned_numbers, record.learned_bytes) == (4, 16)  # four float32
    assert record.losses == {}  # it tells steps alone
    folder = next((tmp_path / "run/images").iterdir()).name
    assert record.images[f"images/{folder}/vase-green/prior-s0-1.png"].text == "a vase"
    assert len(record.images) == record.drawn == 8

    # Every DINO, PRES and CLIP-T row again, by hand, from the PNGs that were kept.
    eye = toy.Eye()
    real = eye.embeddings([read(path) for path in workplace.examiner.subjects["vase-green"].images])
    (scores,) = (tmp_path / "run/scores/toy-1").glob("*/*.csv")
    found = {
        (row["prompt"], row["sample"], row["metric"]): float(row["value"])
        for row in rows_of(scores)
    }
    for path, image in record.images.items():
        prompt, index = image.prompt.template, str(image.index)
        seen = eye.embeddings([read(tmp_path / "run" / path)])[0]
        fidelity = "pres" if image.prompt.kind == "prior" else "dino"
        assert found[prompt, index, fidelity] == pytest.approx((real @ seen).mean(), abs=2e-6)
        if image.prompt.kind != "prior":
            text = eye.text_embeddings([image.text])[0]
            assert found[prompt, index, "clip_t"] == pytest.approx(text @ seen, abs=2e-6)
    assert done.means["pres"] == pytest.approx(
        np.mean([value for (_, _, metric), value in found.items() if metric == "pres"]), abs=2e-6
    )


def test_real_images_load_no_backbone_and_are_kept_byte_for_byte(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Easels, "load", no_backbone)
    grid = plan(suite, ["real-images"])
    workplace = workplace_of(grid, tmp_path / "run")
    done = run_job(grid.jobs[0], workplace, tell=quiet)
    originals = [read(path) for path in workplace.examiner.subjects["dog-red"].images]
    for index, original in enumerate(originals):
        kept = tmp_path / f"run/images/real-images/dog-red/real-s0-{index}.png"
        np.testing.assert_array_equal(read(kept), original)
    first, second = toy.Eye().embeddings(originals)
    assert done.means["dino"] == pytest.approx(first @ second, abs=2e-6)


def no_backbone(*_: object, **__: object) -> None:
    raise AssertionError("no backbone is to be loaded")


def test_what_a_method_leaves_behind_fails_its_job_alone(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:LEAVES", "tests.toy:PAINT"])
    workplace, alone = workplace_of(grid, tmp_path / "run"), workplace_of(grid, tmp_path / "alone")
    red, blue, green = grid.jobs[:3]
    run_job(red, workplace, tell=quiet)
    with pytest.raises(LeftBehind, match="a forward hook was left on 'canvas'"):
        run_job(blue, workplace, tell=quiet)
    assert workplace.directory.job_record(blue.name) is None
    assert not list((tmp_path / "run/images").glob("*/dog-blue/*"))
    for job in (green, *grid.jobs[3:]):
        assert run_job(job, workplace, tell=quiet).means == run_job(job, alone, tell=quiet).means
    images = [
        path.relative_to(tmp_path / "run") for path in (tmp_path / "run/images").rglob("*.png")
    ]
    for path in images:
        if "dog-red" not in path.parts or "LEAVES" not in str(path):
            assert (tmp_path / "run" / path).read_bytes() == (
                tmp_path / "alone" / path
            ).read_bytes()


def test_a_backbone_that_cannot_be_put_back_is_loaded_anew(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = toy.Easels.load
    monkeypatch.setattr(toy.Easels, "load", lambda *a, **k: loaded.append(1) or load(*a, **k))
    monkeypatch.setattr(
        "benchmark.models.lending.loan.Loan.settle", lambda loan, thorough: broken(loan)
    )
    grid = plan(suite, ["tests.toy:PAINT"])
    workplace = workplace_of(grid, tmp_path / "run")
    for job in grid.jobs[:2]:
        with pytest.raises(LeftBehind, match="beyond repair"):
            run_job(job, workplace, tell=quiet)
    assert len(loaded) == 2


def broken(loan: object) -> list[str]:
    loan.whole = False  # type: ignore[attr-defined]
    return ["something beyond repair"]


@pytest.mark.parametrize(("method", "thorough"), [("untuned", False), ("tests.toy:PAINT", True)])
def test_only_outside_methods_and_failures_are_settled_thoroughly(
    suite: Suite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    thorough: bool,
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        "benchmark.models.lending.loan.Loan.settle",
        lambda loan, thorough: asked.append(thorough) or [],
    )
    grid = plan(suite, [method], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    run_job(grid.jobs[0], workplace, tell=quiet)
    monkeypatch.setattr(type(grid.suite.method(method)), "generate", no_backbone)
    with pytest.raises(AssertionError):
        run_job(grid.jobs[0], workplace_of(grid, tmp_path / "again"), tell=quiet)
    assert asked == [thorough, True]


def test_a_worker_refuses_a_model_that_is_not_the_planned_one(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = plan(suite, ["untuned"], subjects=["dog-red"])
    load = toy.Easels.load
    monkeypatch.setattr(toy.Easels, "load", lambda *a, **k: load(*a, **k | {"precision": "bf16"}))
    with pytest.raises(Exception, match="planned was .*' in fp32 at 12 px, .* in bf16 at 12 px"):
        run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet)
    monkeypatch.setattr(toy.Easels, "load", lambda *a, **k: load(*a, **k | {"resolution": None}))
    sized = suite.model_copy(
        update={"backbone": suite.backbone.model_copy(update={"resolution": 16})}
    )
    grid = plan(sized, ["untuned"], subjects=["dog-red"])
    with pytest.raises(UserError, match="in fp32 at 16 px, and loaded was .* in fp32 at 12 px"):
        run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet)


@pytest.mark.parametrize("when", ["before it was read", "while it was read"])
def test_a_model_whose_files_change_after_the_plan_fails_the_job_by_name(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    grid = plan(suite, ["untuned"], subjects=["dog-red"])
    load = toy.Easels.load

    def changing(self: toy.Easels, *given: Any, **options: Any) -> toy.Easel:
        loaded = load(self, *given, **options)
        monkeypatch.setattr(toy.Easels, "identify", lambda *_: "colours@changed")
        return loaded

    if when == "while it was read":
        monkeypatch.setattr(toy.Easels, "load", changing)
    else:
        monkeypatch.setattr(toy.Easels, "identify", lambda *_: "colours@changed")
    with pytest.raises(UserError, match=r"was backbone 'colours@.* 'colours@changed'.* --out"):
        run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet)
    assert not (tmp_path / "run").exists()


def test_a_model_with_at_in_its_name_is_itself(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite.on("dogs at home"), ["untuned"], subjects=["dog-red"])
    assert run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet).means


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"tests.toy:PAINT": {"steps": 3}}}, "with steps 2, and found was 3"),
        ({"version": "2"}, "with version '1', and found was '2'"),
    ],
)
def test_a_worker_refuses_a_method_that_is_not_the_planned_one(
    suite: Suite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    if "version" in change:
        monkeypatch.setattr(toy.Paint, "version", change["version"])
    else:
        workplace.suite = suite.model_copy(update=change)
    with pytest.raises(UserError, match=f"planned was method 'tests.toy:PAINT' {message}"):
        run_job(grid.jobs[0], workplace, tell=quiet)
    assert not (tmp_path / "run").exists()


def test_two_prompts_with_one_file_are_refused_and_no_image_is_overwritten(
    suite: Suite, tmp_path: Path
) -> None:
    (job,) = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red"], prompts=["1"]).jobs
    grid = plan(suite, ["tests.toy:PAINT"])
    workplace = workplace_of(grid, tmp_path / "run")
    other = Prompt("a {}, in the snow", "recontextualization")
    twins = replace(job, prompts=(*job.prompts, other))
    with pytest.raises(UserError, match=r"two prompts would both write images/.*snow-s0-0\.png"):
        run_job(twins, workplace, tell=quiet)
    record = run_job(job, workplace, tell=quiet).record
    before = {path: (tmp_path / "run" / path).read_bytes() for path in record.images}
    with pytest.raises(UserError, match="two prompts would both write"):
        run_job(replace(job, prompts=(other,)), workplace, tell=quiet)
    assert {path: (tmp_path / "run" / path).read_bytes() for path in record.images} == before


# Prior images ----------------------------------------------------------------------------------


def test_prior_images_are_the_backbones_own_in_batches_and_recorded(
    suite: Suite, tmp_path: Path
) -> None:
    import torch

    from benchmark.api import noise_seed

    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["vase-green"], seeds=[3])
    (prior,) = grid.priors.values()
    workplace = workplace_of(grid, tmp_path / "run")
    told: list[tuple[str, int, int]] = []
    record = run_prior(prior, workplace, tell=lambda *step: told.append(step))
    drawn = [("prior images", count, 20) for count in (0, 16, 20)]
    assert told == [("loading", 0, 1), *drawn]
    assert workplace.directory.prior_record(prior.key) == record
    assert record.seconds > 0
    easel = toy.KIND.load("colours", sampler=prior.sampler)
    seeds = [noise_seed("prior", "a vase", index, 3) for index in range(20)]
    one_by_one = [easel.sample(easel.encode(["a vase"]), [seed])[0] for seed in seeds]
    expected = (torch.stack(one_by_one) * 255).round().to(torch.uint8)
    assert torch.equal(read_prior(record, workplace.directory), expected)


def test_prior_images_are_drawn_once_and_each_job_has_a_copy(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = []
    prepare = toy.CanvasStage.prepare
    monkeypatch.setattr(
        toy.CanvasStage, "prepare", lambda *a: prepared.append(len(a[1])) or prepare(*a)
    )
    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["dog-red", "dog-blue"])
    workplace = workplace_of(grid, tmp_path / "run")
    for prior in grid.priors.values():
        run_prior(prior, workplace, tell=quiet)
    first, second = (run_job(job, workplace, tell=quiet) for job in grid.jobs)
    assert prepared == [16, 4], "prepared once for both jobs"
    fresh = workplace_of(grid, tmp_path / "fresh")
    run_prior(*grid.priors.values(), fresh, tell=quiet)
    assert run_job(grid.jobs[1], fresh, tell=quiet).means == second.means
    assert first.record.job.fit.prior == second.record.job.fit.prior == prior.key


def test_only_the_last_prior_images_are_kept_prepared(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["dog-red", "vase-green"])
    workplace = workplace_of(grid, tmp_path / "run")
    for prior in grid.priors.values():
        run_prior(prior, workplace, tell=quiet)
    kept = []
    for job in grid.jobs:
        run_job(job, workplace, tell=quiet)
        easel = toy.KIND.load("colours", sampler=grid.suite.sampler.sampler())
        kept.append(weakref.ref(workplace.prepared(job.fit.prior, easel)["canvas"]))
    gc.collect()
    assert [one() is None for one in kept] == [True, False]


def test_prior_images_that_are_no_images_are_refused(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["dog-red"])
    broken = torch.full((16, 3, toy.SIZE, toy.SIZE), torch.nan)
    monkeypatch.setattr(toy.Easel, "sample", lambda *_, **__: broken)
    with pytest.raises(ValueError, match="some are NaN"):
        run_prior(*grid.priors.values(), workplace_of(grid, tmp_path / "run"), tell=quiet)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_preparing_prior_images_is_no_time_of_the_fit_nor_of_loading(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = toy.CanvasStage.prepare

    def slowly(*a: Any) -> object:
        time.sleep(0.1)
        return prepare(*a)

    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    run_prior(*grid.priors.values(), workplace, tell=quiet)
    monkeypatch.setattr(toy.CanvasStage, "prepare", slowly)
    phases = run_job(grid.jobs[0], workplace, tell=quiet).record.phases
    assert phases.preparing >= 0.2  # 20 images in two batches
    assert phases.fit < 0.2 and phases.loading < 0.2
    (other,) = plan(suite, ["tests.toy:PRIMED[steps=5]"], subjects=["dog-red"]).jobs
    assert other.fit.prior == grid.jobs[0].fit.prior
    again = run_job(other, workplace, tell=quiet)
    assert again.record.phases.preparing < 0.1, "they are there by now"


def test_damaged_prior_images_are_named(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PRIMED"], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    run_prior(*grid.priors.values(), workplace, tell=quiet)
    (file,) = (tmp_path / "run/prior").glob("*.safetensors")
    file.write_bytes(b"no")
    with pytest.raises(Exception, match=f"{file} is missing or damaged: remove .*json, and run"):
        run_job(grid.jobs[0], workplace, tell=quiet)


# What a record has -----------------------------------------------------------------------------


def test_the_pace_of_training_leaves_out_what_is_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 10.5, 11.0, 12.0])
    monkeypatch.setattr("benchmark.runs.tools.time.perf_counter", lambda: next(clock))
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
    assert pace.losses["instance"][:2] == ((3, 0.3333), (6, 0.3333))
    assert pace.losses["prior"][:2] == ((3, 0.2857), (6, 0.7143))  # 2/7 and 5/7
    assert pace.losses["prior"][-1] == (100, 14.29)  # of step 100 alone: 100/7
    assert len(pace.losses["prior"]) == 34


def test_a_record_has_the_losses_that_were_told_but_for_what_is_no_number(
    suite: Suite, tmp_path: Path
) -> None:
    grid = plan(suite, ["tests.toy:TELL"], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    record = run_job(grid.jobs[0], workplace, tell=quiet).record
    assert record.losses == {"instance": ((1, 0.3333), (2, 0.1667)), "prior": ((2, 0.25),)}
    assert workplace.directory.job_record(grid.jobs[0].name) == record


@pytest.mark.more
def test_a_record_has_the_pace_of_what_was_trained_and_a_peak_of_its_own(
    suite: Suite, tmp_path: Path
) -> None:
    grid = plan(suite, ["tests.toy:PAINT", "real-images"], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    first = run_job(grid.jobs[0], workplace, tell=quiet).record
    assert first.steps_per_second is not None and first.steps_per_second > 0
    np.ones(2**26).sum()  # half a gigabyte, which the next job has no part in
    second = run_job(grid.jobs[-1], workplace, tell=quiet).record
    assert second.steps_per_second is None
    if sys.platform == "linux":
        assert second.peak_memory_mb < first.peak_memory_mb + 256


def test_several_goes_add_up_and_keep_what_the_only_fit_told(suite: Suite, tmp_path: Path) -> None:
    def done(prompts: list[str], path: Path, *, keep: bool) -> JobRecord:
        grid = plan(suite, ["tests.toy:TELL"], subjects=["dog-red"], prompts=prompts)
        workplace = workplace_of(grid, path)
        workplace.keep_weights = keep
        return run_job(grid.jobs[0], workplace, tell=quiet).record

    first = done(["1"], tmp_path / "kept", keep=True)
    both = done(["1", "2"], tmp_path / "kept", keep=False)
    assert both.phases.draw > first.phases.draw
    assert (both.losses, both.steps_per_second) == (first.losses, first.steps_per_second)
    assert (first.drawn, both.drawn) == (4, 6)
    assert both.weights == first.weights is not None


def test_a_method_that_draws_too_few_images_fails(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = toy.Paint.generate
    monkeypatch.setattr(toy.Paint, "generate", lambda *a: generate(*a)[1:])
    grid = plan(suite, ["tests.toy:PAINT"])
    with pytest.raises(ValueError, match="8 images were asked for, 7 came"):
        run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet)


def test_an_image_that_was_changed_is_not_scored(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red"])
    workplace = workplace_of(grid, tmp_path / "run")
    record = run_job(grid.jobs[0], workplace, tell=quiet).record
    path = tmp_path / "run" / next(iter(record.images))
    Image.new("RGB", (toy.SIZE, toy.SIZE)).save(path)
    with pytest.raises(Exception, match=f"{path} is missing or was changed since it was drawn"):
        workplace.examiner.score(record)


def test_records_are_json_of_format_3(suite: Suite, tmp_path: Path) -> None:
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red"])
    record = run_job(grid.jobs[0], workplace_of(grid, tmp_path / "run"), tell=quiet).record
    (path,) = (tmp_path / "run/jobs").glob("*/*.json")
    content = json.loads(path.read_text())
    assert (content.pop("format"), content.pop("kind")) == (3, "JobRecord")
    assert len(content.pop("seal")) == 64
    assert content == json.loads(json.dumps(asdict(record)))
