"""Exit codes and what is printed. Grids themselves are test_run's."""

import csv
from pathlib import Path

import pytest

import benchmark.encoders
from benchmark import cli
from benchmark.plugins import available
from benchmark.protocol import protocol_names
from benchmark.suite import suite_names
from tests import toy


@pytest.fixture(autouse=True)
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(benchmark.encoders, "load_encoders", toy.load_encoders)
    suite = toy.write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return suite


class Shell:
    """`shell("run", "--dry-run")` -> exit code; what was printed is in `out` and `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.error = ""

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        self.out, self.error = self._capsys.readouterr()
        return int(stop.value.code or 0)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


RUN = ("run", "--suite", "toy.toml", "--methods", "tests.toy:PAINT", "--workers", "1")


def test_a_run_from_plan_to_report_and_again(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--methods", "tests.toy:PAINT,real-images", "--seed", "0,1") == 0
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("toy-")
    lines = shell.out.splitlines()
    assert "methods     2: tests.toy:PAINT, real-images" in lines
    assert "jobs        12, 60 images" in lines
    finished = [line for line in lines if line.startswith("[")]
    assert len(finished) == 12
    assert finished[0].startswith("[ 1/12] tests.toy:PAINT / dog-red / seed 0  ")
    assert " DINO 0." in finished[0]
    assert " CLIP-T " not in finished[-1], "real images have no prompt"
    assert f"report: {directory.relative_to(tmp_path)}/report.md" in lines
    with (directory / "summary.csv").open() as file:
        means = {(row["method"], row["metric"]): row["mean"] for row in csv.DictReader(file)}
    (row,) = [line for line in lines if line.startswith("tests.toy:PAINT  ")]
    assert f"{float(means['tests.toy:PAINT', 'dino']):.3f}" in row

    scores = (directory / "scores.csv").read_bytes()
    assert shell(*RUN, "--methods", "tests.toy:PAINT,real-images", "--seed", "0,1") == 0
    assert "12 of the 12 jobs are done and will be skipped" in shell.out
    assert "[12/12]" not in shell.out
    assert (directory / "scores.csv").read_bytes() == scores

    (directory / "report.md").unlink()
    assert shell("report", str(directory)) == 0
    assert shell.out == f"{directory}/report.md\n"
    assert (directory / "report.md").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--dry-run", "--prompts", "accessory", "--images-per-prompt", "5") == 0
    assert "jobs        2, 14 images" in shell.out
    assert "left out    vase-green: none of the chosen prompts is for them" in shell.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "nonesuch"), "unknown method 'nonesuch'; known: dreambooth, "),
        (("--methods", "no_module:M"), "cannot import 'no_module'"),
        (("--subjects", "cat"), "unknown subject 'cat'; known: dog-red, dog-blue, vase-green"),
        (("--suite", "nonesuch"), "unknown suite 'nonesuch'; known: "),
        (("--prompts", "9"), "unknown prompt '9'; known: recontextualization, "),
        (("--seed", "x"), "--seed 'x' is no seed"),
        (("--seed", "-1"), "--seed '-1' is no seed"),
        (("--out", "taken"), "taken is not empty and no run directory"),
        (("--out", "toy.toml"), "cannot use toy.toml as --out: Not a directory"),
        (("--out", "toy.toml/below"), "toy.toml/below"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_writes_nothing(
    shell: Shell, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert shell(*RUN, *arguments) == 2
    assert shell.error.startswith("error: ")
    assert message in shell.error
    assert shell.error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_directory_of_another_configuration_stays_as_it_is(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell(*RUN, "--out", "mine", "--subjects", "dog-red") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    for change in (("--subjects", "dog-blue"), ("--subjects", "dog-red", "--seed", "1")):
        assert shell(*RUN, "--out", "mine", *change) == 2
        assert "mine holds a run of another configuration" in shell.error
    after = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert after == before


def test_a_failed_job_is_code_1(shell: Shell) -> None:
    assert shell(*RUN, "--methods", "tests.toy:RAISES") == 1
    assert "1 of 3 jobs failed" in shell.error


def test_an_interruption_is_code_130(shell: Shell) -> None:
    assert shell(*RUN, "--methods", "tests.toy:INTERRUPTED") == 130
    assert "run the same command again to go on" in shell.error


@pytest.mark.parametrize("kind", ["methods", "metrics", "protocols", "suites", "subjects"])
def test_lists_have_one_name_and_description_a_line(shell: Shell, kind: str) -> None:
    assert shell("list", kind, "--suite", "toy.toml") == 0
    names = {
        "methods": list(available("methods")),
        "metrics": list(available("metrics")),
        "protocols": protocol_names(),
        "suites": suite_names(),
        "subjects": list(toy.SUBJECTS),
    }[kind]
    lines = shell.out.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split()) > 1 for line in lines)
    assert "cannot be loaded" not in shell.out


def test_report_wants_a_run_directory_with_something_in_it(shell: Shell, tmp_path: Path) -> None:
    assert shell("report", "nowhere") == 2
    assert shell.error == "error: nowhere is no run directory: it has no run.json\n"
    assert shell(*RUN, "--methods", "tests.toy:RAISES", "--subjects", "dog-blue") == 1
    (directory,) = (tmp_path / "runs").iterdir()
    assert shell("report", str(directory)) == 2
    assert "has no finished job to report" in shell.error


def test_help_teaches(shell: Shell) -> None:
    assert shell("run", "--help") == 0
    for part in (
        "my_module:METHOD",
        "--images-per-prompt",
        "python -m benchmark run --methods all",
    ):
        assert part in shell.out
