"""The floors: each module stands only on those before it, and the front door opens quickly."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.made_up_run import write_run

ROOT = Path(__file__).parent.parent
#: Each room imports only from those before it.
ROOMS = (
    "api",
    "store",
    "data",
    "config",
    "models",
    "scoring",
    "runs",
    "results",
    "report",
    "people",
    "pocket",
    "trackers",
    "grid",
    "studies",
    "cli",
    "__main__",
)
#: What reads runs needs neither a model nor what ran it.
READERS, RUNNERS = {"results", "report", "people"}, {"models", "scoring", "runs"}
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "peft", "timm", "open_clip"}
#: The distributions that bring models, and nothing that a report or a gate needs.
MODELS = (HEAVY - {"open_clip"}) | {"open-clip-torch", "torchmetrics", "safetensors"}
OWNERS = packages_distributions()
#: Of the packages that pyproject.toml asks for, those that every command may load to start.
LIGHT = {"annotated-types", "numpy", "pillow", "pydantic", "typer"}


def imports(path: Path) -> set[str]:
    """The modules that `path` imports anywhere, but for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def rooms_of(path: Path) -> set[str]:
    """The rooms that `path` imports from."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("benchmark.")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room: str) -> None:
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) - (RUNNERS if room in READERS else set())
    paths = [*ROOT.glob(f"benchmark/{room}.py"), *ROOT.glob(f"benchmark/{room}/**/*.py")]
    assert paths
    for path in paths:
        assert rooms_of(path) <= allowed, path
        if room in READERS:
            assert not {name.partition(".")[0] for name in imports(path)} & HEAVY, path


def test_every_folder_is_a_room() -> None:
    found = {p.stem for p in ROOT.glob("benchmark/*") if p.stem not in ("__init__", "__pycache__")}
    assert found - {"shipped"} == set(ROOMS)


def test_what_is_installed_is_all_that_lies_here() -> None:
    """A room that pyproject.toml forgets is missing wherever the suite is not installed with -e."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = subprocess.run(
        ["git", "ls-files", "benchmark", "methods"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    paths = [Path(name) for name in files if name]
    assert paths
    folders = {path.parent for path in paths if path.suffix == ".py"}
    installed = {Path(*name.split(".")) for name in told["packages"]} - {Path("benchmark/shipped")}
    assert installed == folders
    data = {path for path in paths if path.suffix != ".py"}
    for package, patterns in told["package-data"].items():
        folder = Path(told["package-dir"].get(package, package.replace(".", "/")))
        for pattern in patterns:
            found = {path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)}
            assert found, f"{package}: {pattern} is nothing"
            data -= found
    assert not data, "pyproject.toml's package-data leaves these out"


def test_nothing_in_the_suite_imports_a_method() -> None:
    for path in ROOT.glob("benchmark/**/*.py"):
        assert not {name for name in imports(path) if name.startswith("methods")}, path


def declared() -> set[str]:
    """The methods and metrics that pyproject.toml registers."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    groups = ("methods", "metrics")
    return {name for group in groups for name in points[f"dreambooth_benchmark.{group}"]}


def constants(path: Path) -> set[str]:
    """The strings of `path`, without those that stand alone, as docstrings do."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = (n.value for n in nodes if isinstance(n, ast.Constant) and id(n) not in alone)
    return {value for value in found if isinstance(value, str)}


def test_no_method_and_no_metric_is_named_outside_its_declaration() -> None:
    names = declared()
    assert {"dreambooth", "clip_t"} <= names
    # These name encoders, of which one is called as its metric is.
    encoders = {"scoring/metrics.py", "scoring/kinds.py"}
    for path in ROOT.glob("benchmark/**/*.py"):
        name = path.relative_to(ROOT / "benchmark").as_posix()
        if name in encoders or name.startswith("pocket/"):
            continue
        assert not constants(path) & names, path


@pytest.mark.parametrize("method", ["resolve", "expanduser"])
def test_paths_are_read_in_one_place_since_these_methods_raise_what_nobody_expects(
    method: str,
) -> None:
    for path in ROOT.glob("benchmark/**/*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        found = [n for n in nodes if isinstance(n, ast.Attribute) and n.attr == method]
        assert not found or path.name == "files.py", path


def test_no_family_of_models_is_named_outside_their_room() -> None:
    tables = tomllib.loads((ROOT / "benchmark/models/families.toml").read_text())
    declared = [(*table["named"], *table.get("pipelines", ())) for table in tables.values()]
    names = {name for some in declared for name in some}
    names |= set(tables) | {table["name"] for table in tables.values()}
    assert {"sd15", "stable_diffusion_xl", "StableDiffusionPipeline"} <= names
    for path in (*ROOT.glob("benchmark/**/*.py"), *ROOT.glob("methods/*.py")):
        if not {"models", "pocket"} & {*path.relative_to(ROOT).parts}:
            assert not constants(path) & names, path
            assert not re.search(r"stable.?diffusion|sdxl|flux", " ".join(constants(path)), re.I), (
                path
            )


def test_the_datasets_are_data() -> None:
    assert not list((ROOT / "datasets").rglob("*.py"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["curve", "--help"],
        ["calibrate", "--help"],
        ["report", "--help"],
        ["check", "--help"],
        ["compare", "--help"],
        ["publish", "--help"],
        ["list", "methods"],
        ["list", "metrics"],
        ["list", "suites"],
        ["list", "protocols"],
        ["score", "--help"],
        ["list", "subjects"],
    ],
    ids=" ".join,
)
def test_the_front_door_opens_quickly_without_torch(arguments: list[str]) -> None:
    loaded, said = loaded_by(*arguments)
    assert said
    assert not loaded & (asked_for() - LIGHT)


def loaded_by(*arguments: object) -> tuple[set[str], str]:
    """The distributions that a command, as one types it, loads until its end; what it prints."""
    command = [sys.executable, "-X", "importtime", "-m", "benchmark", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^import time: .*\| +([\w.]+)$", done.stderr, re.M)
    packages = {name.partition(".")[0] for name in names}
    loaded = {spelt(owner) for package in packages for owner in OWNERS.get(package, ())}
    assert "typer" in loaded  # the names are found at all
    return loaded, done.stdout


def asked_for() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w.-]+", wanted)[0] for wanted in project["dependencies"]}
    return set(map(spelt, names))


def spelt(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run of three seeds, and one of another."""

    def value(job, request, metric):
        mean = {"real-images": 0.9, "untuned": 0.1}.get(job.method, 0.5)
        return mean + 0.01 * (job.seed % 3) * (job.method == "dreambooth")

    folder = tmp_path_factory.mktemp("runs")
    grid = {"methods": ("dreambooth", "real-images", "untuned"), "subjects": ("cat", "dog", "owl")}
    seeds = write_run(folder / "seeds", value, seeds=(0, 1, 2), **grid)
    return seeds, write_run(folder / "one", value, seeds=(4,), **grid)


@pytest.mark.more
def test_whole_commands_that_read_runs_load_no_models_library(runs, tmp_path) -> None:
    seeds, one = runs
    baseline, junit = tmp_path / "baseline.toml", tmp_path / "junit.xml"
    commands = (
        ("check", seeds, "--baseline", baseline, "--update"),
        ("check", one, "--baseline", baseline, "--junit", junit),
        ("report", one, "--out", tmp_path / "report"),
        (
            "study",
            one,
            "--methods",
            "dreambooth,untuned",
            "--pairs",
            "2",
            "--out",
            tmp_path / "study",
        ),
        ("compare", seeds, one, "--out", tmp_path / "compared"),
        ("leaderboard", one, "--out", tmp_path / "board"),
    )
    for arguments in commands:
        loaded, said = loaded_by(*arguments)
        assert said, arguments
        assert not loaded & MODELS, arguments


def test_no_method_is_named_but_where_commands_are_shown() -> None:
    """`train_dreambooth_*.py` is diffusers'; `dreambooth_benchmark` are our entry points."""
    named = re.compile(r"(?<!train_)\b(dreambooth|textual-inversion)\b(?!_)")
    shown = re.compile(r"python -m benchmark|--methods|^DISTRIBUTION = ")
    rooms = [path for path in sorted((ROOT / "benchmark").rglob("*.py")) if "cli" not in path.parts]
    assert [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in rooms
        for line in path.read_text("utf-8").splitlines()
        if named.search(line) and not shown.search(line)
    ] == []
