"""Every kind of file of a run directory, damaged in every way, before every command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.cli.app import main
from benchmark.config.suite import Suite, load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.report.write import write_report
from benchmark.results.gate import check_runs
from benchmark.results.run import run_of
from benchmark.runs.plan import plan
from benchmark.runs.workers import execute
from benchmark.store.reading import read_contents
from benchmark.studies.publish import publish_run
from tests import toy
from tests.toy import ONE

#: Kind of file -> one of them, and what the commands are to name.
FILES = {
    "plan": "run.json",
    "suite": "suite.toml",
    "protocol": "protocols/toy-1.toml",
    "scores": "scores.csv",
    "job record": "jobs/*/dog-red-s0.json",
    "score record": "scores/*/*/dog-red-s1.json",
    "rows": "scores/*/*/dog-blue-s0.csv",
    "image": "images/*/dog-blue/prior-s1-0.png",
    "weights": "weights/*/vase-green-s0.safetensors",
    "prior record": "prior/*.json",
    "prior images": "prior/*.safetensors",
}
RECORDS = {"job record", "score record", "prior record"}
DAMAGES = ("edited", "cut short", "emptied", "swapped", "deleted")
METHOD = "tests.toy:PRIMED"


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are done in this process, and a report is not written."""
    monkeypatch.setattr(
        "benchmark.grid.running.execute", lambda *a, **k: execute(*a, **k | {"place": None})
    )
    monkeypatch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    monkeypatch.setattr("benchmark.report.terminal.print_table", lambda run: None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite, a finished run of it and its baseline."""
    folder = tmp_path_factory.mktemp("altered")
    with pytest.MonkeyPatch.context() as patched:
        make_quick(patched)
        assert again(load_suite(str(toy.write_world(folder))), folder / "run") == 0
    check_runs([folder / "run"], folder / "baseline.toml", update=True)
    return folder


@pytest.fixture
def suite(world: Path) -> Suite:
    return load_suite(str(world / "toy.toml"))


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


def again(suite: Suite, path: Path, **options: object) -> int:
    grid = plan(suite, [METHOD], seeds=[0, 1, 2], prompts=["1"], images_per_prompt=1)
    return run_grid(grid, path, resources=ONE, keep_weights=True, **options)  # type: ignore[arg-type]


def damage(run: Path, kind: str, how: str) -> str:
    """Damage a file of that kind; its path in the run."""
    path = sorted(run.glob(FILES[kind]))[0]
    content = path.read_bytes()
    place = len(content) // 2
    if how == "edited":
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how == "cut short":
        path.write_bytes(content[:place])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "swapped":
        path.write_bytes(another(run, path).read_bytes())
    else:
        path.unlink()
    return path.relative_to(run).as_posix()


def another(run: Path, path: Path) -> Path:
    """Another file of the same kind; of a kind with one file, any."""
    alike = sorted(path.parent.glob(f"*{path.suffix}"))
    others = [run / name for name in ("suite.toml", "scores.csv", "run.json")]
    return next(p for p in (*alike, *others) if p.read_bytes() != path.read_bytes())


def contents(run: Path) -> dict[str, bytes]:
    """All that does not hang on when it was made."""
    files = [path for path in run.rglob("*") if path.suffix in (".png", ".csv", ".toml")]
    files += [*run.glob("*/**/*.safetensors"), run / "run.json"]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def command(name: str, run: Path, world: Path) -> Callable[[], object]:
    return {
        "report": lambda: write_report(run, partial=False),
        "check": lambda: check_runs([run], world / "baseline.toml"),
        "keep": lambda: publish_run(run, run.parent / "kept"),
        "score": lambda: score_run(run),
    }[name]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_every_command_names_what_was_altered(
    world: Path, run: Path, suite: Suite, kind: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind in RECORDS and how == "deleted":
        damage(run, kind, how)
        assert read_contents(run).altered == (), "its job is not done"
        return
    path = damage(run, kind, how)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for name in ("report", "check", "keep", "score"):
        with pytest.raises(
            UserError, match=rf"{re.escape(path)} .*: repeat the command that made the run "
        ):
            command(name, run, world)()
    capsys.readouterr()
    assert again(suite, run, dry_run=True) == 0
    assert re.search(rf"^altered     {re.escape(path)} \(", capsys.readouterr().out, re.M)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


#: Records that vouch for others' digests, so that what is altered below them cannot be told.
VOUCHING = {"plan", "prior record"}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kinds", [FILES.keys() - VOUCHING, VOUCHING], ids=["most", "vouching"])
def test_a_run_makes_everything_anew_byte_for_byte(
    world: Path,
    run: Path,
    suite: Suite,
    kinds: set[str],
    how: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = {kind: damage(run, kind, how) for kind in sorted(kinds)}
    paths = {path for kind, path in damaged.items() if kind not in RECORDS or how != "deleted"}
    assert {one.path for one in read_contents(run).altered} == paths
    assert again(suite, run) == 0
    said = capsys.readouterr().out
    assert all(f"altered     {path} (" in said for path in paths)
    found, expected = contents(run), contents(world / "run")
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert read_contents(run).altered == ()
    drawn = {p: p.stat().st_mtime_ns for p in run.rglob("*.png")}
    assert again(suite, run) == 0, "and there is nothing left to do"
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.png")} == drawn


@pytest.mark.parametrize("kind", FILES)
def test_a_run_does_no_more_anew_than_it_must(
    run: Path, suite: Suite, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    fit = toy.Paint.fit

    def counted(self: toy.Paint, subject: object, *rest: object) -> object:
        fitted.append(kind)
        return fit(self, subject, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(toy.Paint, "fit", counted)
    damage(run, kind, "edited")
    assert again(suite, run) == 0
    # An image is drawn anew by the weights that were kept.
    assert len(fitted) == (kind in ("job record", "weights"))


def test_an_altered_job_that_is_not_asked_for_is_forgotten(
    run: Path, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damage(run, "image", "edited")
    grid = plan(suite, [METHOD], subjects=["dog-red"], prompts=["1"], images_per_prompt=1)
    assert run_grid(grid, run, resources=ONE) == 0
    assert f"{path} (changed): forgotten, as this command" in capsys.readouterr().out
    assert read_contents(run).altered == ()
    with pytest.raises(UserError, match=r"dog-blue-s1; "):
        write_report(run, partial=False)


def test_records_that_disagree_make_no_plan(run: Path, suite: Suite, tmp_path: Path) -> None:
    other = suite.on("crayons")
    grid = plan(other, [METHOD], subjects=["vase-green"], seeds=[0], prompts=["1"])
    assert run_grid(grid, tmp_path / "other", resources=ONE) == 0
    for path in (tmp_path / "other").glob("jobs/*/*.json"):
        shutil.copy(path, run / path.relative_to(tmp_path / "other"))
    (run / "run.json").unlink()
    with pytest.raises(UserError, match="run.json was changed, and cannot be .*: .*backbone"):
        again(suite, run)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("how", DAMAGES)
def test_as_found_reads_what_there_is_or_says_why_not(run: Path, kind: str, how: str) -> None:
    path = damage(run, kind, how)
    try:
        found = run_of(read_contents(run))
    except UserError as error:
        assert kind in ("plan", "suite", "protocol"), error
        assert str(run) in str(error)
    else:
        named = {one.path for one in found.altered}
        assert named == ({path} if kind not in RECORDS or how != "deleted" else set())
        found.under("toy-1").summary  # noqa: B018
        assert len(found.under("toy-1").by_image) > 3


@pytest.mark.more
def test_a_report_as_found_opens_with_what_was_altered(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    (rows,) = run.glob("scores/*/*/dog-red-s0.csv")
    text = re.sub(r"dino,0\.\d+", "dino,0.999999", rows.read_text())
    rows.write_text(text)
    for arguments, code in (([], 2), (["--as-found"], 0)):
        monkeypatch.setattr("sys.argv", ["benchmark", "report", str(run), *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert (stop.value.code or 0) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{rows.relative_to(run)} (changed)" in error and "--as-found" in error
    report, page = ((run / name).read_text() for name in ("report.md", "index.html"))
    said = f"**Altered by hand or by accident**: 1 file of run: {rows.relative_to(run)} (changed)"
    assert said.replace("_", r"\_") in report or said in report
    assert report.index("Altered by hand") < report.index("## ")
    assert "Altered by hand or by accident" in page
