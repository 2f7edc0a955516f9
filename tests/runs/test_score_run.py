"""A run is scored again: other protocols and metrics, and nothing is trained or drawn."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.runs.plan import plan
from benchmark.store.reading import read_contents
from tests import toy
from tests.toy import ONE

BRIGHTNESS = "tests.toy:BRIGHTNESS"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    monkeypatch.setattr("benchmark.report.terminal.print_table", lambda run: None)
    return load_suite(str(toy.write_world(tmp_path)))


@pytest.fixture
def finished(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, after which nobody can load a backbone, fit or draw."""
    grid = plan(suite, ["tests.toy:PAINT", "real-images"])
    assert run_grid(grid, tmp_path / "run", resources=ONE) == 0

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
    assert run_grid(plan(suite, ["tests.toy:PAINT"]), finished, resources=ONE) == 0
    assert values(finished, "toy-1") == after


def test_a_run_is_scored_by_a_metric_of_ones_own_from_its_beginning(
    finished: Path, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    grid = plan(suite, ["tests.toy:PAINT", "real-images"])
    with pytest.raises(UserError, match="unknown metric 'nonesuch'"):
        run_grid(grid, tmp_path / "at-once", resources=ONE, metrics=["nonesuch"])
    assert not (tmp_path / "at-once").exists()
    assert run_grid(grid, tmp_path / "at-once", resources=ONE, metrics=[BRIGHTNESS]) == 0
    assert score_run(finished, metrics=[BRIGHTNESS]) == 0
    assert values(tmp_path / "at-once", "toy-1") == values(finished, "toy-1")


def test_a_metric_that_exits_fails_its_jobs_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(toy.Brightness, "__call__", lambda *_: sys.exit(0))
    assert score_run(finished, metrics=["tests.toy:BRIGHTNESS"]) == 1
    assert "FAILED: SystemExit: 0" in capsys.readouterr().out


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


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('class_noun = "vase"', 'class_noun = "jug"', "has class_noun 'jug', .* with 'vase'"),
        ("live = false", "live = true", "has live True, .* with False"),
    ],
)
def test_another_class_noun_of_a_subject_changes_no_score(
    finished: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    before = values(finished, "toy-1")
    edited(tmp_path / "data/manifest.toml", old, new)
    assert score_run(finished, protocol=str(toy.write_protocol(tmp_path))) == 1
    errors = [path.read_text() for path in finished.glob("jobs/*/vase-green-s0.error.txt")]
    assert len(errors) == 2
    for error in errors:
        assert re.search(f"subject 'vase-green' in data set .* {message}", error)
    assert not [key for key in values(finished, "other-1") if "vase-green" in key]
    assert values(finished, "toy-1") == before


def test_another_identifier_is_refused_where_captions_have_it(
    finished: Path, tmp_path: Path
) -> None:
    named = toy.write_protocol(tmp_path, "named")
    edited(named, 'caption = "class-noun"', 'caption = "identifier-and-class-noun"')
    plain = toy.write_protocol(tmp_path, "plain")
    assert score_run(finished, protocol=str(named)) == score_run(finished, protocol=str(plain)) == 0
    before = values(finished, "named-1")
    assert before.keys() == values(finished, "plain-1").keys()
    assert before != values(finished, "plain-1")
    contents, text = read_contents(finished), (finished / "suite.toml").read_text()
    assert contents.plan is not None
    other = text.replace('identifier = "sks"', 'identifier = "zwx"')
    contents.directory.write_files(contents.plan, {"suite.toml": other.encode()})
    with pytest.raises(UserError, match="with the identifier sks, and now it is zwx"):
        score_run(finished, protocol=str(named))
    assert values(finished, "named-1") == before
    assert score_run(finished, protocol=str(plain)) == 0


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_damaged_file_of_scores_is_scored_again(
    finished: Path, suite: Suite, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.csv")}
    (path,) = finished.glob("scores/toy-1/real-images/dog-red-s0.csv")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"{path.relative_to(finished)} .*: repeat the command"):
        score_run(finished)
    capsys.readouterr()
    assert run_grid(plan(suite, ["tests.toy:PAINT", "real-images"]), finished, resources=ONE) == 0
    said = "dog-red-s0.csv (missing): scored" if damage == "gone" else "(changed): scored anew"
    assert said in capsys.readouterr().out
    assert {path: path.read_bytes() for path in finished.rglob("*.csv")} == before


def test_one_more_metric_computes_that_one_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_to_be_called(*_: object, **__: object) -> None:
        raise AssertionError("what is scored is not scored again")

    before = (finished / "scores.csv").read_text().splitlines()
    for ability in ("embeddings", "text_embeddings", "distances"):
        monkeypatch.setattr(toy.Eye, ability, not_to_be_called)
    assert score_run(finished, metrics=[BRIGHTNESS]) == 0
    after = (finished / "scores.csv").read_text().splitlines()
    assert [line for line in after if BRIGHTNESS not in line] == before
    assert len(after) == len(before) + 3 * 8 + 3 * 2


def test_scores_gained_in_two_goes_are_those_of_one(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, goes in (
        (tmp_path / "two", ([], [BRIGHTNESS])),
        (tmp_path / "one", ([BRIGHTNESS],)),
    ):
        assert run_grid(plan(suite, ["tests.toy:PAINT"]), path, resources=ONE) == 0
        for metrics in goes:
            assert score_run(path, metrics=metrics) == 0
    first, second = ((tmp_path / name / "scores.csv").read_bytes() for name in ("two", "one"))
    assert first == second


def test_a_metric_that_is_gone_keeps_its_scores_and_does_not_block_a_run(
    finished: Path,
    suite: Suite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = ModuleType("gone_for_test")
    module.METRIC = toy.BRIGHTNESS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gone_for_test", module)
    assert score_run(finished, metrics=["gone_for_test:METRIC"]) == 0
    before = values(finished, "toy-1")
    monkeypatch.delitem(sys.modules, "gone_for_test")
    with pytest.raises(UserError, match="cannot import 'gone_for_test'"):
        score_run(finished, metrics=["gone_for_test:METRIC"])
    capsys.readouterr()
    assert run_grid(plan(suite, ["real-images"], seeds=[0, 1]), finished, resources=ONE) == 0
    warned = capsys.readouterr().err
    assert warned.count("warning: ") == warned.count("its scores stay as they are") == 1
    after = values(finished, "toy-1")
    assert before.items() <= after.items()
    # Where it is back, what it lacks is scored.
    monkeypatch.setitem(sys.modules, "gone_for_test", module)
    assert score_run(finished) == 0
    mine = [key for key in values(finished, "toy-1") if "gone_for_test:METRIC" in key]
    assert len(mine) == 3 * 8 + 2 * 3 * 2


def test_a_metric_that_is_gone_has_no_scores_of_images_that_came_later_until_it_is_back(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    module = ModuleType("gone_for_test")
    module.METRIC = toy.BRIGHTNESS  # type: ignore[attr-defined]
    run, one, two = tmp_path / "run", ["tests.toy:PAINT"], {"subjects": ["dog-red"]}

    def mine() -> list[tuple[str, ...]]:
        return [key for key in values(run, "toy-1") if "gone_for_test:METRIC" in key]

    assert run_grid(plan(suite, one, prompts=["1"], **two), run, resources=ONE) == 0  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "gone_for_test", module)
    assert score_run(run, metrics=["gone_for_test:METRIC"]) == 0
    assert len(mine()) == 4
    monkeypatch.delitem(sys.modules, "gone_for_test")
    assert run_grid(plan(suite, one, prompts=["1", "2"], **two), run, resources=ONE) == 0  # type: ignore[arg-type]
    assert score_run(run) == 0
    assert len(mine()) == 4
    monkeypatch.setitem(sys.modules, "gone_for_test", module)
    assert score_run(run) == 0
    assert len(mine()) == 6


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere has no finished job to score"):
        score_run(tmp_path / "nowhere")


# Views, and ranks among look-alikes


def masked_protocol(folder: Path) -> str:
    """One whose DINO sees red alone."""
    path = toy.write_protocol(folder, "masked")
    text = path.read_text().replace(f'file = "{folder}/eye.txt"', 'view = "alone"')
    view = '\n[views.alone]\nbackground = "black"\nnot_found = "zero"\n'
    path.write_text(
        text.replace("pres = {}", "")
        + view
        + '[segmenter]\nkind = "tests.scoring.reds:REDS"\nmodel = "reds"\n'
    )
    return str(path)


def masks(folder: Path, subject: str, white: slice) -> None:
    pixels = np.zeros((toy.SIZE, toy.SIZE), np.uint8)
    pixels[white] = 255
    (folder / "data" / subject / "masks").mkdir(exist_ok=True)
    for i in range(2):
        Image.fromarray(pixels).save(folder / "data" / subject / "masks" / f"{i:02}.png")


def test_masks_of_ones_own_decide_scores_and_are_not_changed_unnoticed(
    finished: Path, tmp_path: Path
) -> None:
    protocol = masked_protocol(tmp_path)
    for subject in toy.SUBJECTS:
        masks(tmp_path, subject, slice(2, 9))
    assert score_run(finished, protocol=protocol) == 0
    with (finished / "scores.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["protocol"] == "masked-1"]
    found = {r["method"]: (r["value"], r["reason"]) for r in rows if r["metric"] == "dino"}
    assert float(found["real-images"][0]) > 0.5 and found["real-images"][1] == ""
    value, reason = found["tests.toy:PAINT"]  # nothing it paints is pure red
    assert float(value) == 0 and reason.endswith("was found")
    assert score_run(finished, protocol=protocol) == 0
    masks(tmp_path, "dog-red", slice(2, 10))
    with pytest.raises(UserError, match="'masked-1' with other masks of subject 'dog-red'"):
        score_run(finished, protocol=protocol)
    assert score_run(finished) == 0  # the run's own protocol looks at no mask


def test_a_noun_that_the_protocols_segmenter_lacks_is_said_first(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.scoring.reds.UNKNOWN", {"dog"})
    with pytest.raises(UserError, match="protocol 'masked-1': .*it knows no 'dog'"):
        score_run(finished, protocol=masked_protocol(tmp_path))
    assert not (finished / "scores/masked-1").exists()


def test_ranks_join_a_run_and_need_every_photograph_of_the_data_set(
    finished: Path, tmp_path: Path
) -> None:
    before = values(finished, "toy-1")
    assert score_run(finished, metrics=["rank_top1", "classmates_mrr"]) == 0
    after = values(finished, "toy-1")
    assert before.items() <= after.items()
    ranks = {key: value for key, value in after.items() if "rank_top1" in key}
    assert {float(value) for value in ranks.values()} <= {0.0, 1.0} and ranks
    with (finished / "scores.csv").open() as file:
        reasons = {
            row["subject"]: row["reason"]
            for row in csv.DictReader(file)
            if row["metric"] == "classmates_mrr"
        }
    assert reasons["vase-green"] == "the data set has no other 'vase'"
    assert reasons["dog-red"] == ""
    one = tmp_path / "data" / "vase-green" / "00.png"
    one.write_bytes(b"another photograph")
    with pytest.raises(UserError, match=r"vase-green/00\.png"):
        score_run(finished, metrics=["rank_map"])
