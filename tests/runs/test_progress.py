"""What a run says of itself while it is at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.config.suite import Estimate, load_suite
from benchmark.runs import progress
from benchmark.runs.attempt import Event, Finished, Started, Stepped
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import plan
from benchmark.runs.progress import Display, duration, print_plan
from benchmark.runs.time_left import Forecast
from benchmark.store.records import Job, JobRecord, Phases
from tests.runs.test_run import suite_file
from tests.runs.test_workers import agenda_of, workplace_of

__all__ = ["suite_file"]


def test_a_finished_job_tells_time_left_workers_and_pace(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = plan(load_suite(str(suite_file)), ["tests.toy:PAINT"], seeds=[0, 1])
    workplace = workplace_of(grid, tmp_path / "run")
    left = [*agenda_of(grid, workplace).waiting.values()]
    outlook = Outlook(grid.jobs, left, tmp_path, lambda work: 60.0)
    forecast = Forecast(grid.suite)
    display = Display(outlook, workplace.examiner.assessment.scoring, forecast)
    first, *others = grid.jobs
    with display:
        for job in (first, *others[:4]):
            display(Started(job))
            display(Stepped(job, "fit", 1, 4))
        assert display._doing() == "5 fit", "of many workers only how many are at what"
        record = JobRecord(first, {}, 8, Phases(1.0, 60.0, 4.0), {}, 0.0)
        display(Finished(first, record, 60.0, score_seconds=1.0))
        said = capsys.readouterr().out
        assert "(time left being measured; 5 workers, 3600 tasks/h)" in said
        display(Finished(others[0], record, 60.0))
        display(Finished(others[1], record, 60.0))
        assert display._doing() == "fit 1/4; fit 1/4"


@pytest.mark.parametrize("emulated", [True, False])
def test_the_plan_tells_of_a_precision_that_the_processor_emulates(
    emulated: bool,
    suite_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = load_suite(str(suite_file))
    slow = suite.model_copy(
        update={"backbone": suite.backbone.model_copy(update={"precision": "bf16"})}
    )
    flags = {"avx2"} if emulated else {"amx_tile"}
    monkeypatch.setattr("benchmark.models.precision._cpu_flags", lambda: flags)
    grid = plan(slow, ["dreambooth", "paste"])
    scoring = workplace_of(grid, tmp_path / "run").examiner.assessment.scoring
    print_plan(grid, Outlook(grid.jobs, [], tmp_path, lambda _: 1.0), scoring, workers=1, where="")
    assert (
        "precision   bf16, which this processor emulates" in capsys.readouterr().out
    ) is emulated


class Clock:
    """A machine on which a training step takes 3 s where the suite says 1 s, and so on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


SLOWER = 3
LOADING, SCORE = 20.0, 0.5  # seconds: a worker's first task; an image


def test_after_a_minute_the_forecast_is_within_a_third_of_what_it_takes(
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One worker, a cold start, two methods of which one takes six times as long as the other."""
    rates = Estimate(train_step_seconds=1, image_seconds=1)
    suite = load_suite(str(suite_file)).model_copy(update={"estimate": rates})
    grid = plan(suite, ["tests.toy:PAINT[steps=10]", "tests.toy:PAINT[steps=60]"], seeds=[0, 1])
    workplace = workplace_of(grid, tmp_path / "run")
    left = [*agenda_of(grid, workplace).waiting.values()]
    forecast = Forecast(grid.suite)
    outlook = Outlook(grid.jobs, left, tmp_path, forecast.seconds)
    display = Display(outlook, workplace.examiner.assessment.scoring, forecast)
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    told: list[tuple[float, float | None, str]] = []

    def tell(event: Event, seconds: float) -> None:
        display(event)
        told.append((clock.now, display._seconds_left(), display._time_left()))
        clock.now += seconds

    jobs = [work.task for work in left if isinstance(work.task, Job)]
    with display:
        for job in jobs:
            steps, images = job.fit.settings["steps"], len(job.requests)
            tell(Started(job), 0)
            tell(Stepped(job, "loading", 0, 1), LOADING if job is jobs[0] else 0)
            tell(Stepped(job, "fit", 0, 1), 0)
            for step in range(1, steps + 1):
                clock.now += SLOWER
                tell(Stepped(job, "fit", step, steps), 0)
            tell(Stepped(job, "draw", 0, images), SLOWER * images)
            tell(Stepped(job, "score", 0, 1), SCORE * images)
            phases = Phases(fit=SLOWER * steps, draw=SLOWER * images)
            record = JobRecord(job, dict.fromkeys(map(str, range(images))), images, phases, {}, 0.0)  # type: ignore[arg-type]
            tell(Finished(job, record, 1.0, score_seconds=SCORE * images), 0)
    began, end = told[0][0], clock.now
    assert end - began > 600, "long enough to tell"
    for now, seconds, words in told:
        if now - began < 60:
            assert words == "being measured"
        elif end - now > 5:
            assert seconds == pytest.approx(end - now, rel=1 / 3), f"after {now - began} s"
            assert words == duration(seconds)
    assert "time left being measured" not in capsys.readouterr().out


def test_a_task_shows_its_phase_from_its_start(suite_file: Path, tmp_path: Path) -> None:
    grid = plan(load_suite(str(suite_file)), ["tests.toy:PAINT"])
    workplace = workplace_of(grid, tmp_path / "run")
    left = [*agenda_of(grid, workplace).waiting.values()]
    forecast = Forecast(grid.suite)
    display = Display(
        Outlook(grid.jobs, left, tmp_path, forecast.seconds),
        workplace.examiner.assessment.scoring,
        forecast,
    )
    job = grid.jobs[0]
    seen = []
    for event in (
        Started(job),
        Stepped(job, "loading", 0, 1),
        Stepped(job, "prior images", 12, 64),
        Stepped(job, "draw", 2, 8),
        Stepped(job, "score", 0, 1),
    ):
        display(event)
        seen.append(display._doing())
    assert seen == ["starting", "loading", "prior images 12/64", "draw 2/8", "score"]
