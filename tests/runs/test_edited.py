"""A plugin's file that is edited without another version: nothing is made anew, and it is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmark.config.source import source_of
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.report.caveats import mixed
from benchmark.results.conditions import conditions_between
from benchmark.results.merge import join
from benchmark.results.run import read_run
from benchmark.runs.plan import plan
from benchmark.store.files import sha256
from benchmark.store.reading import read_contents
from benchmark.store.seals import sealed, unsealed
from benchmark.studies.publish import publish_run
from tests import toy
from tests.toy import ONE

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from tests.toy import Paint, Brightness
@dataclass(frozen=True)
class Mine(Paint):
    pass
@dataclass(frozen=True)
class Own(Brightness):
    label: ClassVar[str] = "own"
    def __call__(self, batch):
        return {i: float(image.mean()) for i, image in enumerate(batch.pixels())}
METHOD, METRIC = Mine(), Own()
"""
MINE, OWN = "edited_for_test:METHOD", "edited_for_test:METRIC"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a method and a metric, in a folder from which plugins are imported."""
    monkeypatch.setattr(
        "benchmark.report.write.write_report_of", lambda run, *_, **__: run.directory
    )
    monkeypatch.setattr("benchmark.report.terminal.print_table", lambda run: None)
    monkeypatch.syspath_prepend(tmp_path)
    toy.write_world(tmp_path)
    path = tmp_path / "edited_for_test.py"
    edit(path, METHOD)
    return path


def edit(path: Path, text: str) -> None:
    """As somebody does between two commands: the next one is a process of its own."""
    path.write_text(text)
    sys.modules.pop(path.stem, None)
    source_of.cache_clear()


def run(folder: Path, *subjects: str, out: str = "run") -> Path:
    grid = plan(load_suite(str(folder / "toy.toml")), [MINE, "untuned"], subjects=subjects)
    assert run_grid(grid, folder / out, resources=ONE) == 0
    return folder / out


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


def written(path: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in path.glob("images/**/*.png")}


def test_fits_by_an_older_text_stay_and_are_counted(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(mine.parent, "dog-red", "dog-blue")
    before = written(path)
    run(mine.parent, "dog-red", "dog-blue")
    assert warnings(capsys) == [], "nothing was edited"
    edit(mine, METHOD + "# longer\n")
    run(mine.parent)  # one subject more, by the new text
    (line,) = warnings(capsys)
    assert line.startswith(f"warning: {mine} was edited since: 2 fits in {path} are by its older")
    assert "raise `version` in it and choose another --out" in line
    assert before.items() <= written(path).items(), "an image was drawn again"
    run(mine.parent)
    assert [one.count("2 fits") for one in warnings(capsys)] == [1], "the third is by this text"
    edit(mine, METHOD)
    run(mine.parent)
    assert [one.count("1 fit ") for one in warnings(capsys)] == [1], "the two are as it is again"


def test_more_images_of_a_fit_do_not_make_it_one_by_the_newer_text(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load_suite(str(mine.parent / "toy.toml"))
    for text, count in ((METHOD, 1), (METHOD + "# longer\n", 2)):
        edit(mine, text)
        grid = plan(suite, [MINE], subjects=["dog-red"], images_per_prompt=count)
        assert run_grid(grid, mine.parent / "run", resources=ONE) == 0
    capsys.readouterr()
    assert run_grid(grid, mine.parent / "run", resources=ONE) == 0
    assert [one.count("1 fit ") for one in warnings(capsys)] == [1]


def test_records_that_tell_no_text_say_nothing(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(mine.parent)
    for record in path.glob("jobs/*/*.json"):
        content = unsealed(json.loads(record.read_text()))
        if "untuned" in str(record):
            assert "sources" not in content["provenance"], "it is our own"
        else:
            assert content["provenance"].pop("sources") == {MINE: sha256(METHOD.encode())[:16]}
        record.write_text(json.dumps(sealed(content)))
    edit(mine, METHOD + "# longer\n")
    run(mine.parent)
    assert warnings(capsys) == []


def test_scores_by_an_older_text_stay_and_are_counted(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(mine.parent, "dog-red")
    assert score_run(path, metrics=[OWN]) == 0
    assert warnings(capsys) == []
    edit(mine, METHOD.replace("float(image.mean())", "2 * float(image.mean())"))
    before = (path / "scores.csv").read_bytes()
    assert score_run(path, metrics=[OWN, "tests.toy:BRIGHTNESS"]) == 0
    (line,) = warnings(capsys)
    assert f"{mine} was edited since: 1 fit and the scores of 2 jobs in {path}" in line
    rows = {*(path / "scores.csv").read_bytes().splitlines()}
    assert {*before.splitlines()} <= rows, "they stay as they are"
    assert score_run(path, metrics=[OWN]) == 0
    assert len(warnings(capsys)) == 1, "another metric's scores, made since, do not hide it"


def test_what_is_by_two_texts_is_said_in_reports_merges_and_comparisons(mine: Path) -> None:
    one = run(mine.parent, "dog-red", out="one")
    edit(mine, METHOD + "# longer\n")
    other = run(mine.parent, "dog-blue", out="other")
    runs = [read_run(one), read_run(other)]
    assert [mixed(run) for run in runs] == [[], []]
    (text,) = mixed(join(runs, mine.parent / "both"))
    digests = sorted(sha256(t.encode())[:16] for t in (METHOD, METHOD + "# longer\n"))
    assert f"text of {MINE}: {', '.join(digests)}" in text.replace("\\", "")
    told = {c.what: (c.before, c.after) for c in conditions_between(*runs, [(MINE, MINE)])}
    assert set(told[f"text of {MINE}"]) == {(digest,) for digest in digests}


def test_a_run_by_two_texts_is_whole_and_can_be_published(mine: Path) -> None:
    path = run(mine.parent, "dog-red")
    edit(mine, METHOD + "# longer\n")
    run(mine.parent, "dog-blue")
    assert not read_contents(path).altered
    out = mine.parent / "published"
    publish_run(path, out)
    assert not read_contents(out).altered
    assert mixed(read_run(out)) == mixed(read_run(path)) != []
