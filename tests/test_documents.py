"""The documents keep their word: their commands are known, their code runs, their links lead on."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.config.suite import load_suite
from benchmark.models.assets.assets import identify
from benchmark.pocket.text_encoder import TEXT_WIDTH
from benchmark.report.write import write_report
from benchmark.results.gate import check_runs
from benchmark.results.run import read_run
from tests.made_up_run import DRAWN, World, write_run

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "reports/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
README, GATE = PAGES["README.md"], PAGES["docs/ci-gate.md"]
PACKAGE = ROOT / "tests/plugin_package/outside"


def benchmark(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def snippets(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.S)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 110


def test_continuous_integration_installs_and_tests_as_the_readme_says() -> None:
    install, test = re.search(r"^    (pip install .*) && (pytest)$", README, re.M).groups()
    script = (ROOT / ".ci" / "run").read_text()
    assert install.removeprefix("pip install ") in script
    assert re.search(rf"^{test}$", script, re.M)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_the_command_line_knows(page: str) -> None:
    commands = typer.main.get_command(cli.app).commands
    text = PAGES[page].replace("\\\n", " ")
    lines = re.findall(r"(?:^    (?:.* && )?|`)python -m benchmark ([^#`\n]+)", text, re.M)
    for line in lines:
        command, *arguments = shlex.split(line)
        if "--help" not in arguments:
            commands[command].make_context(command, arguments)
    if page in ("README.md", "reports/README.md"):
        assert len(lines) > 5


def test_kept_results_are_made_by_commands_that_the_command_line_knows() -> None:
    script = [ROOT / "reports" / "renew", "--print", "all"]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    commands = typer.main.get_command(cli.app).commands
    asked = [shlex.split(line.removeprefix("python -m benchmark ")) for line in said.splitlines()]
    for command, *arguments in asked:
        commands[command].make_context(command, arguments)
    assert {"sweep", "run", "publish", "curve", "check"} <= {command for command, *_ in asked}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_something(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\((docs/[\w-]+\.md)\)", README))
    assert linked == {page for page in PAGES if page.startswith("docs/")}


def test_every_room_stands_in_the_map_and_nothing_else() -> None:
    rooms = set(re.findall(r"^\| `(benchmark/[\w.]+/?)` \|", PAGES["CONTRIBUTING.md"], re.M))
    found = {
        f"benchmark/{path.name}{'/' if path.is_dir() else ''}"
        for path in (ROOT / "benchmark").iterdir()
        if not path.name.startswith("__")
    }
    assert rooms == found


def test_one_grid_is_the_scripts_the_workflows_and_the_baselines() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    kept = PAGES["reports/README.md"]
    renew = (ROOT / "reports" / "renew").read_text()
    grids = [
        re.search(
            r"benchmark run (--methods \S+)[\s\\]+(--subjects \S+)[\s\\]+(--prompts \S+)", text
        )
        for text in (
            script,
            GATE[GATE.index("```yaml") :],
            kept[kept.index(".ci/run") :],
            renew[renew.index("\nci-baseline()") :],
        )
    ]
    assert len({grid.groups() for grid in grids}) == 1
    baseline = "--baseline reports/pocket/ci-baseline.toml"
    assert baseline in script
    assert baseline in GATE
    assert f"{baseline} --update" in kept


def test_the_workflow_is_yaml_and_its_options_are_ones_the_command_line_knows() -> None:
    (text,) = snippets("docs/ci-gate.md", "yaml")
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
    assert made == {Path("runs/gate"), Path("runs/gate/junit.xml")}


def test_the_workflow_uploads_what_a_run_and_a_check_leave(tmp_path: Path) -> None:
    (text,) = snippets("docs/ci-gate.md", "yaml")
    upload = yaml.safe_load(text)["jobs"]["gate"]["steps"][-1]["with"]["path"].split()
    grid = {"methods": ("dreambooth", "untuned"), "subjects": ("cat", "dog", "owl")}
    run = write_run(tmp_path / "runs/gate", lambda *_: 0.5, seeds=(0, 1, 2), **grid)
    write_report(run)
    check_runs([run], tmp_path / "baseline.toml", update=True)
    check_runs([run], tmp_path / "baseline.toml", junit=run / "junit.xml")
    assert {"runs/gate/index.html", "runs/gate/junit.xml"} <= set(upload)
    assert [name for name in upload if not (tmp_path / name).exists()] == []


def test_the_layout_of_a_run_directory_is_what_a_run_leaves(tmp_path: Path) -> None:
    page = PAGES["docs/reading-a-report.md"]
    layout = page[page.index("## The run directory") : page.index("**It can grow.**")]
    lines = re.findall(r"^        (\S.*?)  ", layout, re.M)
    named = {name.partition("/")[0] for line in lines for name in line.split(", ")}
    run = write_run(
        *(tmp_path / "run", lambda *_: 0.5),
        methods=("dreambooth", "untuned"),
        subjects=("cat",),
        world=World(priors=(DRAWN,)),
    )
    write_report(run)
    optional = {"answers", "gallery", "weights", "logged", "tensorboard", "wandb"}
    assert {path.name for path in run.iterdir()} == named - optional


@pytest.mark.parametrize(
    ("page", "file"),
    [("docs/write-a-method.md", "low_rank.py"), ("docs/write-a-backbone.md", "pixels.py")],
)
def test_the_pages_code_is_the_packages(page: str, file: str) -> None:
    code, *_ = snippets(page, "python")
    assert code == (PACKAGE / file).read_text("utf-8")


@pytest.mark.slow
def test_the_methods_page_runs(tmp_path: Path) -> None:
    code, *_ = snippets("docs/write-a-method.md", "python")
    (tmp_path / "low_rank.py").write_text(code)
    done = benchmark(
        *("run", "--methods", "low_rank:METHOD[steps=3]", "--subjects", "dog", "--prompts", "1"),
        *("--images-per-prompt", "1", "--workers", "1", "--out", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for method in ("low_rank:METHOD[steps=3]", "untuned"):
        found = {row["metric"] for row in rows if row["method"] == method}
        assert {"dino", "clip_i", "clip_t", "pres"} <= found
    report = (tmp_path / "out" / "report.md").read_text()
    assert "low_rank:METHOD" in report.replace("\\", "")


@pytest.mark.slow
def test_the_methods_page_preserves_the_prior(tmp_path: Path) -> None:
    names = ("low_rank.py", "preserving.py")
    for name, code in zip(names, snippets("docs/write-a-method.md", "python")[:2], strict=True):
        (tmp_path / name).write_text(code)
    done = benchmark(
        *("run", "--methods", "preserving:METHOD[steps=2,prior_images=2]", "--subjects", "dog"),
        *("--prompts", "1", "--images-per-prompt", "1", "--workers", "1", "--out", "out"),
        "--no-controls",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (record,) = read_run(tmp_path / "out").records
    assert set(record.losses) == {"instance", "prior"}
    (prior,) = read_run(tmp_path / "out").priors
    assert (record.job.fit.prior, prior.prior.count) == (prior.prior.key, 2)


@pytest.mark.slow
def test_the_methods_page_learns_a_word(tmp_path: Path) -> None:
    (tmp_path / "own_word.py").write_text(snippets("docs/write-a-method.md", "python")[2])
    done = benchmark(
        *("run", "--methods", "own_word:METHOD[steps=2]", "--subjects", "dog", "--prompts", "1"),
        *("--images-per-prompt", "1", "--workers", "1", "--out", "out", "--no-controls"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (record,) = read_run(tmp_path / "out").records
    assert record.learned_numbers == TEXT_WIDTH, "a vector of the pocket text encoder's width"


@pytest.mark.slow
def test_the_backbones_page_runs(tmp_path: Path) -> None:
    (code,) = snippets("docs/write-a-backbone.md", "python")
    (tables,) = snippets("docs/write-a-backbone.md", "toml")
    (tmp_path / "pixels.py").write_text(code)
    rest = '[data]\ndataset = "pocket"\nsplit = "test"\n[evaluation]\nimages_per_prompt = 1\n'
    head = 'name = "mine"\ndescription = "mine"\nprotocol = "pocket"\n'
    (tmp_path / "mine.toml").write_text(head + rest + "prior_prompt_images = 1\n" + tables)
    asked = ("run", "--suite", "mine.toml", "--subjects", "dog", "--prompts", "1", "--out", "out")
    done = benchmark(*asked, "--methods", "untuned", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = benchmark(*asked, "--methods", "textual-inversion", cwd=tmp_path)
    assert done.returncode == 2
    assert "words" in done.stderr


def test_the_data_pages_suite_says_what_the_page_says(tmp_path: Path) -> None:
    *_, text, of_backbone = snippets("docs/your-own-data.md", "toml")
    (tmp_path / "my_suite.toml").write_text(text + of_backbone)
    suite, extended = load_suite(str(tmp_path / "my_suite.toml")), load_suite("pocket")
    assert (suite.name, suite.data.subjects) == ("two-dogs", ["dog", "dog2"])
    methods = extended.methods | {"dreambooth": extended.methods["dreambooth"] | {"steps": 400}}
    assert (suite.methods, suite.sampler) == (methods, extended.sampler)
    there = suite.on("pocket-cascade")
    assert (there.sampler.scheduler, there.method("dreambooth").prior_steps) == ("ddpm", 20)


def shown_with(text: str) -> str:
    """The only snippet of the data page that has `text`."""
    (found,) = (shown for shown in snippets("docs/your-own-data.md", "toml") if text in shown)
    return found


@pytest.mark.parametrize(
    ("text", "extended"),
    [("true_guidance", "dreambench-flux"), ("super_resolution_noise", "dreambench-if")],
)
def test_the_data_pages_settings_of_a_family_are_understood(
    tmp_path: Path, text: str, extended: str
) -> None:
    shown = shown_with(text)
    head = f'extends = "{extended}"\nname = "mine"\ndescription = ""\n'
    (tmp_path / "suite.toml").write_text(head + shown)
    suite, given = load_suite(str(tmp_path / "suite.toml")), tomllib.loads(shown)
    assert given["sampler"].items() <= suite.sampler.sampler().said().items()
    assert given["methods"]["dreambooth"].items() <= suite.settings("dreambooth").items()


def test_the_data_pages_segmenter_is_understood(tmp_path: Path) -> None:
    shown = shown_with("[assets.segmenter]")
    (tmp_path / "suite.toml").write_text(
        f'extends = "dreambench"\nname = "mine"\ndescription = ""\n{shown}'
    )
    table = load_suite(str(tmp_path / "suite.toml")).assets["segmenter"]
    assert table == tomllib.loads(shown)["assets"]["segmenter"], (
        "nothing of the suite's own segmenter"
    )
    with pytest.raises(UserError, match="assets.segmenter.model: my-clipseg has no config.json"):
        identify("segmenter", table)


def test_the_data_pages_subjects_are_understood(tmp_path: Path) -> None:
    table = shown_with("class_noun")
    subjects = tomllib.loads(table)
    (tmp_path / "my-subjects").mkdir()
    (tmp_path / "my-subjects" / "subjects.toml").write_text(table)
    for name, entry in subjects.items():
        folder = entry.get("folder", name)
        (tmp_path / "my-subjects" / folder).mkdir()
        shutil.copy(ROOT / "datasets/pocket/dog/00.png", tmp_path / "my-subjects" / folder)
    done = benchmark("list", "subjects", "--data", "my-subjects", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in subjects)


def test_the_table_of_methods_by_families_is_the_commands() -> None:
    page = PAGES["docs/add-a-family.md"]
    shown = re.search(r"list methods --families\n\n(.*?)\n\n", page, re.S)[1].splitlines()
    printed = benchmark("list", "methods", "--families", cwd=ROOT).stdout.splitlines()
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    methods = set(points["dreambooth_benchmark.methods"]) - {"checkpoint"}  # that is its file's
    assert {line.split()[1] for line in shown[2:]} == methods
    assert shown[:2] == printed[:2] and set(shown) <= set(printed)


def test_the_declaration_that_is_shown_is_the_familys() -> None:
    (shown,) = (tomllib.loads(text) for text in snippets("docs/add-a-family.md", "toml"))
    declared = tomllib.loads((ROOT / "benchmark/models/families.toml").read_text())
    ((module, table),) = shown.items()
    assert table == {key: value for key, value in declared[module].items() if key != "named"}
