"""What handing out jobs costs, from moments written by hand, and once measured."""

from __future__ import annotations

import pytest

from benchmark.runs.machine import Resources
from benchmark.studies.overhead import Measured, Moment, measure, overhead_text


def test_figures_of_moments_by_hand() -> None:
    # Two workers, twenty jobs of 1 s: they begin 3 s late, and then two end every 1.25 s.
    ends = [4 + 1.25 * (i // 2) for i in range(20)]
    moments = [Moment(end, 0.01 * i, 10**6) for i, end in enumerate(ends)]
    found = Measured("2 workers", 2, 20, 1.0, 10.0, moments)
    assert found.start.wall == 5.25
    assert found.every == (15.25 - 5.25) / 17
    assert found.overhead == 2 * found.every - 1
    assert found.efficiency == 20 / (2 * 15.25)


@pytest.mark.more
def test_jobs_that_sleep_are_done_by_workers() -> None:
    found = measure(Resources(workers=2), jobs=20, seconds=0.05)
    assert len(found.moments) == 20
    assert found.drawn_up == pytest.approx(0.5)
    assert found.moments[-1].wall > 0.5
    assert 0 < found.efficiency < 1
    assert "20 jobs that sleep for 0.05 s, by 2 workers" in overhead_text(found)
