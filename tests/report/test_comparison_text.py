"""`compare`: what is printed, what is written, and what is refused in one line."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.cli import app as cli
from tests.made_up_run import SCORING, World, metric, write_run

METHODS = ("dreambooth", "untuned")
SUBJECTS = ("cat", "dog", "fox", "owl", "pot", "toy")
EVIL = "<script>|alert(1)</script>"


def value(job, request, name):
    return 0.5 + 0.01 * request.index + 0.02 * SUBJECTS.index(job.subject)


def better(job, request, name):
    """dreambooth is better, worse in PRES (lower is better), and by the subject's place more so."""
    more = 0.01 * (1 + SUBJECTS.index(job.subject)) * (job.method == "dreambooth")
    return value(job, request, name) + (more if name != "clip_t" else 0)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """`a` and `b` in the working folder, b on another device, with a name that is markup."""
    monkeypatch.chdir(tmp_path)
    grid = {"methods": METHODS, "subjects": SUBJECTS}
    write_run(Path("a"), value, **grid)
    write_run(Path("b"), better, world=World(provenance={"device": EVIL}), **grid)


@pytest.fixture
def shell(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code or 0, *capsys.readouterr())

    return run


def test_what_differs_comes_first_then_pictures_then_scores(shell, runs):
    code, text, _ = shell("a", "b")
    assert code == 0
    titles = re.findall(r"^##+ (.*)$", text, re.M)
    assert titles[:3] == ["What differs", "Pictures", "Differences (toy-1)"]
    assert "| device | cpu | \\<script\\>\\|alert(1)\\</script\\> |" in text
    assert "60 of the 60 pictures of both are byte-identical." in text
    dino = text[text.index("### DINO ↑") :]
    row = next(line for line in dino.splitlines() if line.startswith("| dreambooth"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # 0.01 to 0.06 more, 0.035 in the mean, on two images of two prompts of six subjects.
    assert cells[:4] == ["dreambooth", "better", "0.555", "0.590"]
    assert cells[4].startswith("+0.035 [+0.0") and cells[5:] == ["0.031", "6", "24"]
    assert re.search(r"### PRES ↓\n\n.*\n.*\n\| dreambooth *\| worse ", text)
    assert re.search(r"### CLIP-T ↑\n\n.*\n.*\n\| dreambooth *\| identical ", text)
    assert "Of 12 comparisons: identical 7; better 4; worse 1." in text
    assert "## Not compared" not in text


def test_the_same_run_says_that_nothing_differs(shell, runs):
    _, text, _ = shell("a", "a")
    assert "Nothing that is on record: settings, versions, libraries and machine" in text
    assert "Of 12 comparisons: identical 12." in text


def test_too_few_subjects_for_a_test_are_told(shell, runs):
    write_run(Path("c"), better, methods=METHODS, subjects=SUBJECTS[:3])
    _, text, _ = shell("a", "c")
    assert "too few subjects" in text and "A test needs 6 subjects: with 3" in text
    assert re.search(r"\| jobs of untuned +\| owl \(seed 0\); pot \(seed 0\); toy", text)


def test_it_is_written_and_not_overwritten_unasked(shell, runs, tmp_path):
    code, text, _ = shell("a", "b", "--out", "out")
    assert code == 0
    out = Path("out")
    names = {path.name for path in out.iterdir()}
    figures = {"differences-toy-1.png", "differences-toy-1.svg"}
    assert names == {"comparison.md", "differences.csv"} | figures
    written = (out / "comparison.md").read_text()
    assert written.startswith(text) and "(differences-toy-1.png)" in written
    with (out / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    (one,) = [r for r in rows if (r["metric"], r["method_b"]) == ("DINO", "dreambooth")]
    assert (one["difference"], one["p"], one["verdict"]) == ("0.035000", "0.031250", "better")
    assert float(one["b"]) - float(one["a"]) == pytest.approx(0.035)
    code, _, error = shell("a", "a", "--out", "out")
    assert code == 2 and "out holds a comparison: replace it with --overwrite" in error
    assert (out / "comparison.md").read_text() == written
    assert shell("a", "a", "--out", "out", "--overwrite")[0] == 0
    assert "identical 12" in (out / "comparison.md").read_text()


def test_a_protocol_under_which_nothing_is_compared_has_no_figure(shell, runs):
    """Of two protocols, the runs share a metric under one only."""
    other = {
        name: replace(SCORING, protocol="other-1", metrics={name: metric(name, "diversity")})
        for name in ("mine", "yours")
    }
    grid = {"methods": METHODS, "subjects": SUBJECTS}
    for name, scoring in other.items():
        write_run(Path(name), value, world=World(scorings=(SCORING, scoring)), **grid)
    code, out, _ = shell("mine", "yours", "--out", "d")
    assert code == 0
    assert "## Differences (other-1)\n\nNo metric has scores of both to compare.\n" in out
    assert [path.name for path in Path("d").glob("*.svg")] == ["differences-toy-1.svg"]


def test_a_folder_with_other_files_is_left_alone(shell, runs):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        code, said, error = shell("a", "b", "--out", "mine", *more)
        assert (code, said) == (2, "") and "mine holds other files" in error
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("a", "nothing"), "nothing is no run directory: it has no run.json"),
        (("a", "b/images"), "b/images is no run directory: it has no run.json"),
        (("a", "b", "--pair", "dreambooth"), "--pair 'dreambooth' should read METHOD=METHOD"),
        (("a", "b", "--pair", "x=y"), "a has no scores of a method 'x'; it has: dreambooth, un"),
        (("a", "b", "--out", "a/run.json"), "a/run.json is a file: choose another --out"),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(shell, runs, arguments, why):
    code, said, error = shell(*arguments)
    assert (code, said) == (2, "")
    assert error.count("\n") == 1 and why in error


def test_an_altered_run_is_not_compared(shell, runs):
    path = Path("b/scores.csv")
    path.write_text(path.read_text().replace("0.5", "0.6"))
    code, _, error = shell("a", "b")
    assert code == 2 and "scores.csv (changed)" in error
