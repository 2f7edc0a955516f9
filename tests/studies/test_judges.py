"""How far a judge agrees with itself: measured, kept, and shown beside its scores."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.api import UserError
from benchmark.cli.app import app
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.results.judges import usage
from benchmark.results.run import read_run
from benchmark.runs.plan import plan
from benchmark.store.answers import Repeatability
from benchmark.store.reading import read_contents
from benchmark.studies.judges import Sample, measure, repeatability
from benchmark.studies.publish import publish_run
from tests import toy
from tests.judge_server import KEY, MODEL, Server, serving, write_judged
from tests.toy import ONE

SOME = Sample(images=5, repeats=3)
PRICES = "price_in = 3.0\nprice_out = 15.0\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("judge")) as found:
        yield found


@pytest.fixture(scope="module")
def world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world, and in it a run that the judge has scored."""
    folder = tmp_path_factory.mktemp("world")
    suite = load_suite(str(toy.write_world(folder)))
    judged = suite.under(str(write_judged(folder, server, "well", more=PRICES)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_KEY", KEY)
        patch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
        patch.setattr("benchmark.report.terminal.print_table", lambda run: None)
        grid = plan(judged, ["tests.toy:PAINT"])
        assert run_grid(grid, folder / "finished", resources=ONE) == 0
    return folder


@pytest.fixture
def run(world: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    server.forget()
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return shutil.copytree(world / "finished", tmp_path / "run")


def test_the_numbers_by_hand() -> None:
    def of(*scores: float | None) -> dict:
        return {("m", "s", 0, "p", "k", i): score for i, score in enumerate(scores)}

    found = repeatability(of(4, 2, 0, 1), [of(4, 3, 0, 1), of(2, 2, 0, None)], of(3, 3, 2, 1))
    assert found == Repeatability(
        images=4,
        read=3,
        spread=pytest.approx((8 / 3) ** 0.5),
        change=pytest.approx((0 + 1 + 0 + 2 + 0 + 0) / 6),
        same=pytest.approx(4 / 6),
        swapped_change=pytest.approx((1 + 1 + 2) / 3),
        swapped_same=0.0,
        swapped_shift=pytest.approx((-1 + 1 + 2) / 3),
    )
    nothing = repeatability(of(None), [of(1)], None)
    assert nothing == Repeatability(images=1, read=0, spread=None, change=None, same=None)


def test_a_steady_judge_that_minds_the_order(run: Path, server: Server, world: Path) -> None:
    """It answers by a hash of all that it is sent, so that only another order changes anything."""
    server.forget()
    found = measure(run, SOME)
    identity, prompt = found.metrics["judge_identity"], found.metrics["judge_prompt"]
    for one in (identity, prompt):
        assert (one.images, one.read, one.change, one.same) == (5, 5, 0.0, 1.0)
    assert prompt.swapped_change is prompt.swapped_same is prompt.swapped_shift is None
    assert identity.swapped_same is not None
    count = 5 * (2 * 3 + 1)  # with those that were answered for the scores
    assert (len(found.answers), found.tokens_in, found.tokens_out) == (
        count,
        100 * count,
        7 * count,
    )
    assert found.price == pytest.approx(count * (100 * 3 + 7 * 15) / 1e6)
    times = Counter(one["question"] for one in server.asked())
    assert sum(times.values()) == 5 * (2 + 2 + 1)  # repeats of both, the other order of one
    contents = read_contents(run)
    by_image = {answer.images: answer for answer in contents.answers.values() if answer.swapped}
    assert len(by_image) == 5
    scores = [int(answer.reply.text[-1]) for answer in by_image.values()]
    firsts = {
        (*a.images[-1:], *a.images[:-1]): int(a.reply.text[-1])
        for a in contents.answers.values()
        if not a.swapped and not a.repeat and a.rubric.startswith("likeness")
    }
    shifts = [score - firsts[images] for images, score in zip(by_image, scores, strict=True)]
    assert identity.swapped_shift == pytest.approx(sum(shifts) / 5)
    assert not contents.altered and contents.agreements == {"judged-1": found}
    server.forget()
    assert measure(run, SOME).metrics == found.metrics and not server.asked()


def test_a_moody_judge(run: Path, server: Server, world: Path) -> None:
    moody = write_judged(world, server, "moody", name="moody", more="parallel = 1\nseed = 5\n")
    found = measure(run, SOME, protocol=str(moody)).metrics["judge_identity"]
    assert found.change is not None and found.change > 0 and found.same is not None
    assert found.same < 1


def test_it_stands_in_the_report(
    run: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.report.write._figures", lambda run, views, figures: {})
    monkeypatch.setattr("benchmark.report.page_html.page_html", lambda text, **_: "")
    monkeypatch.setattr("benchmark.report.write._grid", lambda run: None)
    assert "was not measured: `python -m benchmark judge RUN`" in _report(run)
    done = CliRunner().invoke(app, ["judge", str(run), "--images", "5", "--repeats", "2"])
    assert done.exit_code == 0, done.output
    assert "judge_identity: 5 of 5 images read" in done.output
    text = (run / "report.md").read_text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    (row,) = (line for line in lines if line.startswith("| judged identity | judged-1"))
    assert "| 5 of 5 |" in row and "| 0.000 | 1.000 |" in row
    (used,) = usage(read_run(run))
    asked = used.answers
    assert (used.tokens_in, used.tokens_out) == (100 * asked, 7 * asked)
    assert used.price == pytest.approx((100 * asked * 3 + 7 * asked * 15) / 1e6)
    assert f"| judge: {MODEL} | judged-1 | {asked} |" in "\n".join(lines)
    publish_run(run, tmp_path / "kept")
    assert read_contents(tmp_path / "kept").agreements == read_contents(run).agreements
    assert (tmp_path / "kept/report.md").read_text() == text


def _report(run: Path) -> str:
    from benchmark.report.write import write_report

    return write_report(run).read_text()


def test_what_cannot_be_measured_is_refused(run: Path, server: Server, world: Path) -> None:
    with pytest.raises(UserError, match="no metric of protocol 'other-1' asks a judge"):
        measure(run, SOME, protocol=str(toy.write_protocol(world)))
    down = write_judged(world, server, "down", name="down", more="seed = 9\n")
    down.write_text(down.read_text().replace("attempts = 2", "attempts = 1"))
    with pytest.raises(UserError, match="a judge gives no answer now .*HTTP 503"):
        measure(run, SOME, protocol=str(down))
    assert "down-1" not in read_contents(run).agreements
