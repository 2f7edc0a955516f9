"""Plugins of another package, installed for real: they run through the whole grid, or are named.

pytest -m slow tests/test_outside_package.py
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parent / "plugin_package"
HOSTILE = ("leaves-hook", "replaces-module", "patches-forward", "changes-settings")
SUITE = """
name = "outside"
description = "another package's backbone"
protocol = "pocket"
controls = ["real-images", "untuned"]

[data]
dataset = "pocket"
split = "test"

[backbone]
kind = "pixels"
model = "mlp"
identifier = "sks"
precision = "fp32"

[sampler]
scheduler = "euler"
steps = 4
guidance = 1.0

[evaluation]
images_per_prompt = 2
prior_prompt_images = 2

[methods.dreambooth]
steps = 5
learning_rate = 1e-3
prior_images = 4
prior_scheduler = "euler"
prior_steps = 2
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that the package was installed into with pip.

    It sees what this environment has, so that no gigabyte is fetched again.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    found = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    parent = sysconfig.get_path("purelib")
    (site / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    package = shutil.copytree(PACKAGE, folder / "package")  # a build leaves files where it is done
    subprocess.run([found, "-m", "pip", "install", "-q", "--no-deps", package], check=True)
    return found


def benchmark(
    python: Path, *arguments: object, cwd: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [python, "-m", "benchmark", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def scores(run: Path) -> list[dict[str, str]]:
    with (run / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_plugins_are_listed(python, tmp_path) -> None:
    assert "low-rank" in benchmark(python, "list", "methods", cwd=tmp_path).stdout
    assert "sharpness" in benchmark(python, "list", "metrics", cwd=tmp_path).stdout


def test_they_run_through_the_whole_grid(python, tmp_path) -> None:
    (tmp_path / "outside.toml").write_text(SUITE)
    grid = ("--suite", "outside.toml", "--subjects", "dog,vase", "--prompts", "1,4")
    methods = ("--methods", "low-rank[steps=5],dreambooth,dreambooth-no-prior[steps=5]")
    benchmark(python, "run", *grid, *methods, "--out", "run", cwd=tmp_path)
    found = scores(tmp_path / "run")
    assert {row["method"] for row in found} == {
        "low-rank[steps=5]",
        "dreambooth",
        "dreambooth-no-prior[steps=5]",
        "real-images",
        "untuned",
    }
    assert "sharpness" not in {row["metric"] for row in found}  # nobody has named it
    before = {path: path.read_bytes() for path in (tmp_path / "run/images").rglob("*.png")}
    benchmark(python, "score", "run", "--metrics", "sharpness", cwd=tmp_path)
    joined = scores(tmp_path / "run")
    assert [row for row in joined if row["metric"] != "sharpness"] == found
    sharp = [row for row in joined if row["metric"] == "sharpness"]
    assert {row["method"] for row in sharp} == {row["method"] for row in found}
    assert "sharpness" in (tmp_path / "run/report.md").read_text()
    assert {path: path.read_bytes() for path in before} == before


def test_what_the_backbone_lacks_is_said_before_anything_runs(python, tmp_path) -> None:
    (tmp_path / "outside.toml").write_text(SUITE)
    asked = ("run", "--suite", "outside.toml", "--methods", "textual-inversion", "--out", "run")
    done = benchmark(python, *asked, cwd=tmp_path, code=2)
    assert "textual-inversion" in done.stderr
    assert "words" in done.stderr
    assert not (tmp_path / "run").exists()


def test_hostile_twins_leave_later_jobs_as_they_would_be(python, tmp_path) -> None:
    grid = ("--subjects", "dog", "--prompts", "1", "--no-controls", "--workers", "1")
    benchmark(python, "run", *grid, "--methods", "untuned", "--out", "alone", cwd=tmp_path)
    methods = ",".join((*HOSTILE, "untuned"))
    done = benchmark(
        python, "run", *grid, "--methods", methods, "--out", "beside", cwd=tmp_path, code=1
    )
    for method in HOSTILE:
        assert f"{method} / dog" in done.stderr, method
        (error,) = (tmp_path / "beside/jobs" / method).glob("*.error.txt")
        assert "left" in error.read_text() or "replaced" in error.read_text()
    alone, beside = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "images/untuned").rglob("*")
         if path.is_file()}
        for name in ("alone", "beside")
    )  # fmt: skip
    assert alone
    assert beside == alone
    kept = [row for row in scores(tmp_path / "beside") if row["method"] == "untuned"]
    assert kept == scores(tmp_path / "alone")
