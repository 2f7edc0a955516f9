"""What a run says of itself while it is at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.config.suite import load_suite
from benchmark.runs.attempt import Finished, Started, Stepped
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import plan
from benchmark.runs.progress import Display
from benchmark.runs.time_left import Forecast
from benchmark.store.records import JobRecord, Phases
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
        assert "; 5 workers, 3600 tasks/h)" in capsys.readouterr().out
        display(Finished(others[0], record, 60.0))
        display(Finished(others[1], record, 60.0))
        assert display._doing() == "fit 1/4; fit 1/4"
