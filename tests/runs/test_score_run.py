"""A run is scored again: other protocols and metrics, and nothing is trained or drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.grid import run_grid, score_run
from benchmark.runs.plan import plan
from tests import toy

BRIGHTNESS = "tests.toy:BRIGHTNESS"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr("benchmark.report.write.write_report", lambda path: path / "report.md")
    monkeypatch.setattr("benchmark.grid.print_table", lambda path: None)
    return load_suite(str(toy.write_world(tmp_path)))


@pytest.fixture
def finished(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, after which nobody can load a backbone, fit or draw."""
    grid = plan(suite, ["tests.toy:PAINT", "real-images"])
    assert run_grid(grid, tmp_path / "run", workers=1) == 0

    def not_to_be_called(*_: object, **__: object) -> None:
        raise AssertionError("a run that is scored again is not run again")

    monkeypatch.setattr(toy.Easels, "load", not_to_be_called)
    monkeypatch.setattr(toy.Paint, "fit", not_to_be_called)
    monkeypatch.setattr(toy.Paint, "generate", not_to_be_called)
    return tmp_path / "run"


def values(run: Path, protocol: str) -> dict[tuple[str, ...], str]:
    with (run / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["protocol"] == protocol]
    own = ("value", "protocol", "reason")
    return {tuple(v for k, v in row.items() if k not in own): row["value"] for row in rows}


def test_another_protocol_stands_beside_the_first(finished: Path, tmp_path: Path) -> None:
    before = values(finished, "toy-1")
    assert score_run(finished, protocol=str(toy.write_protocol(tmp_path))) == 0
    assert values(finished, "toy-1") == before
    other = values(finished, "other-1")
    assert other.keys() == before.keys()
    for key, value in before.items():
        factor = 2 if "clip_t" in key else 1
        assert float(other[key]) == pytest.approx(factor * float(value), abs=2e-6)
    plan_ = json.loads((finished / "run.json").read_text())
    assert plan_["protocols"] == ["toy-1", "other-1"]
    assert (finished / "protocols/other-1.toml").is_file()


def test_a_metric_of_ones_own_joins_and_stays(
    finished: Path, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    before = values(finished, "toy-1")
    assert score_run(finished, metrics=[BRIGHTNESS]) == 0
    after = values(finished, "toy-1")
    assert before.items() <= after.items()
    bright = {key: value for key, value in after.items() if BRIGHTNESS in key}
    assert len(bright) == 3 * 8 + 3 * 2
    capsys.readouterr()
    assert score_run(finished) == 0, "it is not lost when the run is scored without it"
    assert capsys.readouterr().out.count("scored before") == 6
    assert values(finished, "toy-1") == after
    assert run_grid(plan(suite, ["tests.toy:PAINT"]), finished, workers=1) == 0
    assert values(finished, "toy-1") == after


def test_where_there_is_no_score_a_row_says_why(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.api import Unscored

    monkeypatch.setattr(toy.Brightness, "__call__", lambda *_: {0: Unscored("too dark"), 1: 0.5})
    assert score_run(finished, metrics=[BRIGHTNESS]) == 0
    with (finished / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == BRIGHTNESS]
    assert {(row["value"], row["reason"]) for row in rows} == {("", "too dark"), ("0.500000", "")}


def test_a_metric_that_is_not_a_number_fails_its_jobs_and_no_scores_are_lost(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = values(finished, "toy-1")
    monkeypatch.setattr(toy.Brightness, "__call__", lambda *_: {0: float("nan")})
    assert score_run(finished, metrics=[BRIGHTNESS]) == 1
    assert f"metric '{BRIGHTNESS}' gave nan for image 0" in capsys.readouterr().out
    assert values(finished, "toy-1") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "nonesuch"}, "unknown protocol 'nonesuch'"),
        ({"metrics": ["nonesuch"]}, "unknown metric 'nonesuch'"),
        ({"metrics": ["dinov2"]}, "metric 'dinov2' needs an encoder 'dinov2'"),
    ],
)
def test_what_cannot_be_scored_is_refused(finished: Path, options: dict, message: str) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        score_run(finished, **options)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere has no finished job to score"):
        score_run(tmp_path / "nowhere")
