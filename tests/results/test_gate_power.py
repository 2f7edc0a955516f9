"""The gate on real trainings: four injected faults are stopped, ten honest re-runs pass.

    pytest -m slow tests/results/test_gate_power.py

On the pocket world, with a DreamBooth short enough that two dozen seeds of it take minutes. Its
settings stand here, so that what the suite chooses for its own does not move the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.api import Subject
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.results.baseline import Baseline, read_baseline
from benchmark.results.gate import check_runs, check_scores, load_runs
from benchmark.results.gated import Outcome
from benchmark.runs.machine import Resources
from benchmark.runs.plan import plan
from methods.dreambooth import DreamBooth

pytestmark = pytest.mark.slow

METHODS = ("dreambooth", "untuned", "real-images")
#: Of six, the means move too far from seed to seed.
SUBJECTS = (
    "dog",
    "cat",
    "duck",
    "rabbit",
    "backpack",
    "teapot",
    "vase",
    "boot",
    "clock",
    "robot",
)
PROMPTS = ("1", "2", "4")
#: Short trainings: a fault in them shows as it would in long ones, or better.
SETTINGS: dict[str, Any] = {
    "steps": 40, "learning_rate": 2e-4, "batch_size": 2, "prior_images": 16, "prior_steps": 25,
}  # fmt: skip
BASELINE_SEEDS = range(6)
HONEST_SEEDS = range(100, 110)
FAULTY_SEEDS = (200, 201, 202)  # more of them are held to less


@dataclass(frozen=True)
class Nameless(DreamBooth):
    """DreamBooth whose identifier gets lost: "a class" for "a [V] class", whatever is asked for."""

    def phrase(self, subject: Subject) -> str:
        return subject.class_noun


NAMELESS = Nameless()
FAULTY = f"{__name__}:NAMELESS"


def run(
    path: Path,
    seeds: Any,
    *,
    method: str = METHODS[0],
    workers: int | None = None,
    **settings: Any,
) -> Path:
    """A finished run of the grid, with these settings of DreamBooth changed."""
    suite = load_suite("pocket")
    suite = suite.model_copy(update={"methods": {method: SETTINGS | settings}})
    methods = (method, *METHODS[1:])
    grid = plan(suite, methods, subjects=SUBJECTS, prompts=PROMPTS, seeds=tuple(seeds))
    assert run_grid(grid, path, resources=Resources(workers)) == 0
    return path


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gate")
    check_runs([run(folder / "seeds", BASELINE_SEEDS)], folder / "baseline.toml", update=True)
    yield folder / "baseline.toml"


def regressions(directory: Path, baseline: Path) -> set[tuple[str, str]]:
    """The (method, metric) pairs that are worse than they may be; the gate says no if there are."""
    found = worse(directory, read_baseline(baseline), baseline)
    assert check_runs([directory], baseline) == bool(found)
    return found


def worse(directory: Path, held: Baseline, path: Path) -> set[tuple[str, str]]:
    checks, _ = check_scores(load_runs([directory]).under(held.task.protocol), held, path)
    return {(c.method, c.metric) for c in checks if c.outcome is Outcome.REGRESSION}


@pytest.mark.parametrize("seed", HONEST_SEEDS)
def test_an_honest_re_run_passes(tmp_path, baseline, seed) -> None:
    assert not regressions(run(tmp_path / "run", [seed]), baseline)


def test_no_prior_term_is_caught(tmp_path, baseline) -> None:
    found = regressions(run(tmp_path / "run", FAULTY_SEEDS, prior_weight=0.0), baseline)
    assert ("dreambooth", "pres") in found
    assert {method for method, _ in found} == {"dreambooth"}


def test_a_dropped_identifier_is_caught(tmp_path, baseline) -> None:
    # Another method, since none takes an empty identifier: held against what the baseline has of
    # DreamBooth.
    held = read_baseline(baseline)
    methods = {FAULTY if name == METHODS[0] else name: own for name, own in held.methods.items()}
    held = held.model_copy(update={"methods": methods})
    found = worse(run(tmp_path / "run", FAULTY_SEEDS, method=FAULTY), held, baseline)
    assert found
    assert {method for method, _ in found} == {FAULTY}


def test_half_the_steps_are_caught(tmp_path, baseline) -> None:
    steps = SETTINGS["steps"] // 2
    found = regressions(run(tmp_path / "run", FAULTY_SEEDS, steps=steps), baseline)
    assert ("dreambooth", "dino") in found
    assert {method for method, _ in found} == {"dreambooth"}


def test_a_wrong_crop_is_caught(tmp_path, baseline, monkeypatch) -> None:
    from benchmark.scoring.encoders import Preprocessing

    right = Preprocessing.__call__

    def zoomed(self: Preprocessing, pixels: Any) -> Any:
        # timm's own transform for DINO: a crop of nine tenths.
        return right(replace(self, resize=round(self.crop / 0.9)), pixels)

    monkeypatch.setattr(Preprocessing, "__call__", zoomed)
    # In this process, where the patch is.
    found = regressions(run(tmp_path / "run", FAULTY_SEEDS[:1], workers=1), baseline)
    assert {("real-images", "dino"), ("real-images", "clip_i")} <= found
