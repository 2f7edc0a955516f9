"""The documents keep their word: their commands are the ones that are run, their example works."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import typer
import yaml

from benchmark.cli import app as cli

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def benchmark(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_continuous_integration_installs_and_tests_as_the_readme_says() -> None:
    install, test = re.search(r"^    (pip install .*) && (pytest)$", README, re.M).groups()
    script = (ROOT / ".ci" / "run").read_text()
    assert install.removeprefix("pip install ") in script
    assert re.search(rf"^{test}$", script, re.M)


def test_the_readmes_commands_are_ones_the_command_line_knows() -> None:
    commands = set(re.findall(r"python -m benchmark ([a-z-]+)", README + CONTRIBUTING))
    assert {"run", "list", "sweep", "speed", "pretrain"} <= commands
    shown = benchmark("--help", cwd=ROOT).stdout
    for command in commands:
        assert re.search(rf"^\W+{command}\s", shown, re.M), command


def test_one_grid_is_the_scripts_the_workflows_and_the_baselines() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    kept = (ROOT / "reports" / "README.md").read_text()
    grids = [
        re.search(r"benchmark run (--methods \S+)[\s\\]+(--subjects \S+ --prompts \S+)", text)
        for text in (script, README[README.index("```yaml") :], kept[kept.index(".ci/run") :])
    ]
    assert len({grid.groups() for grid in grids}) == 1
    baseline = "--baseline reports/pocket/ci-baseline.toml"
    assert baseline in script
    assert baseline in README
    assert f"{baseline} --update" in kept


def test_the_workflow_is_yaml_and_its_options_are_ones_the_command_line_knows() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    steps = yaml.safe_load(text)["jobs"]["gate"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    (install,) = re.findall(r"^    (pip install .*) && python", README, re.M)
    assert scripts[0] == install
    commands = typer.main.get_command(cli.app).commands
    made = set()
    for script in scripts[1:]:
        python, flag, module, command, *arguments = shlex.split(script)
        assert (python, flag, module) == ("python", "-m", "benchmark")
        given = commands[command].make_context(command, arguments).params
        made |= {given.get("out"), given.get("junit")} - {None}
        if command == "check":
            assert set(given["runs"]) <= made
    # What is uploaded is what the run and the check leave behind.
    uploaded = {Path(line) for line in steps[-1]["with"]["path"].split()}
    left = {"report.md", "summary.csv", "figures"}
    assert uploaded == {Path("runs/gate") / name for name in left} | {Path("runs/gate/junit.xml")}
    assert made == {Path("runs/gate"), Path("runs/gate/junit.xml")}


def test_every_command_of_the_readme_is_one_the_command_line_knows() -> None:
    commands = typer.main.get_command(cli.app).commands
    found = re.findall(r"(?:^    |`)python -m benchmark ([^#`\n]+)", README, re.M)
    assert len(found) > 25
    for line in found:
        command, *arguments = shlex.split(line)
        if "--help" not in arguments:
            commands[command].make_context(command, arguments)


def test_the_outside_method_of_the_contributing_guide_runs_beside_ours(tmp_path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.S)
    assert len(code.splitlines()) < 50
    (tmp_path / "my_method.py").write_text(code)
    done = benchmark(
        *("run", "--methods", "my_method:METHOD,untuned", "--subjects", "dog", "--prompts", "1"),
        *("--images-per-prompt", "1", "--workers", "1", "--out", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for method in ("my_method:METHOD", "untuned"):
        found = {row["metric"] for row in rows if row["method"] == method}
        assert {"dino", "clip_i", "clip_t", "pres"} <= found
    report = (tmp_path / "out" / "report.md").read_text()
    assert "my_method:METHOD" in report.replace("\\", "")
