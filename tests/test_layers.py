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
FLOORS = (
    ("records",),
    ("store", "images", "manifest", "plugins", "data", "fetch", "protocol", "suite"),
    ("diffusers_layout", "hub", "model_files", "sampling", "metrics"),
    ("single_file", "checkpoints"),
    ("encoder_models", "encoder_loading", "prior_store", "encoders", "backbone"),
    ("backbone_loading", "loaders"),
    ("methods",),
    ("selection", "plan", "forecast", "run", "execute"),
    ("stats", "pairs", "orderings"),
    ("tables", "figures", "curve_figure", "heat_map", "learning_figure", "steps_figure"),
    ("finished", "join", "image_grid"),
    ("task", "table_formats", "report_tables"),
    ("references", "thumbnails", "gallery", "page_html"),
    ("comparison_text", "runs_text", "short_text", "report_text", "report", "keep", "baseline"),
    ("check",),
    ("console", "grid", "speed", "sweep", "curve", "identifiers", "matching", "score"),
    ("options",),
    ("data_commands", "grid_commands", "report_commands", "model_commands"),
    ("cli",),
    ("__main__",),
)
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "timm", "open_clip"}
#: The distributions that bring models, and nothing that a report or a gate needs.
MODELS = (HEAVY - {"open_clip"}) | {"open-clip-torch", "torchmetrics", "safetensors"}
OWNERS = packages_distributions()
#: Of the packages that pyproject.toml asks for, those that every command may load to start.
LIGHT = {"numpy", "pillow", "pydantic", "typer"}
#: Modules that may import the heavy libraries when they are imported themselves.
WITH_TORCH = {
    "single_file",
    "checkpoints",
    "encoder_models",
    "encoder_loading",
    "prior_store",
    "encoders",
    "backbone",
    "backbone_loading",
    "methods.training",
}
#: What a method may see of the suite (plugins for types).
FOR_METHODS = {"records", "plugins", "backbone", "sampling"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("benchmark.")


def modules() -> dict[str, Path]:
    paths = [*ROOT.glob("benchmark/*.py"), *ROOT.glob("methods/*.py")]
    return {name_of(path): path for path in paths if path.name != "__init__.py"}


def imports(path: Path, *, lazy: bool) -> set[str]:
    """The modules `path` imports: at its top only, or (`lazy`) inside functions as well.

    Imports for type checkers only never count.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.FunctionDef) and not lazy:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def ours(path: Path) -> set[str]:
    """The suite's own modules that `path` imports anywhere, without the prefix `benchmark`."""
    names = {name.removeprefix("benchmark.") for name in imports(path, lazy=True)}
    return names & modules().keys()


def floor(name: str) -> int:
    key = "methods" if name.startswith("methods.") else name
    return next(i for i, names in enumerate(FLOORS) if key in names)


def test_every_module_has_its_floor() -> None:
    known = {name for names in FLOORS for name in names}
    assert {name for name in modules() if not name.startswith("methods.")} <= known


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_stands_only_on_its_own_floor_and_those_below(name: str) -> None:
    above = {other for other in ours(modules()[name]) if floor(other) > floor(name)}
    assert not above


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_circle(name: str) -> None:
    def reaches(start: str, seen: set[str]) -> set[str]:
        for other in ours(modules()[start]) - seen:
            seen |= {other} | reaches(other, seen | {other})
        return seen

    assert name not in reaches(name, set())


def test_methods_see_records_plugins_and_backbone_and_nobody_sees_them() -> None:
    for name, path in modules().items():
        if name.startswith("methods."):
            seen = {other for other in ours(path) if not other.startswith("methods.")}
            assert seen <= FOR_METHODS | {"data"}, name
        else:
            roots = {other.partition(".")[0] for other in imports(path, lazy=True)}
            assert "methods" not in roots, name


@pytest.mark.parametrize("name", sorted(modules().keys() - WITH_TORCH))
def test_no_heavy_library_comes_in_with_a_light_module(name: str) -> None:
    path = modules()[name]
    roots = {other.partition(".")[0] for other in imports(path, lazy=False)}
    assert not roots & HEAVY
    top = {other.removeprefix("benchmark.") for other in imports(path, lazy=False)}
    assert not top & WITH_TORCH


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
        return 0.5 + 0.01 * (job.seed % 3) * (job.method == "dreambooth")

    folder = tmp_path_factory.mktemp("runs")
    grid = {"methods": ("dreambooth", "real-images", "untuned"), "subjects": ("cat", "dog", "owl")}
    seeds = write_run(folder / "seeds", value, seeds=(0, 1, 2), **grid)
    return seeds, write_run(folder / "one", value, seeds=(4,), **grid)


def test_whole_commands_that_read_runs_load_no_models_library(runs, tmp_path) -> None:
    seeds, one = runs
    baseline, junit = tmp_path / "baseline.toml", tmp_path / "junit.xml"
    commands = (
        ("check", seeds, "--baseline", baseline, "--update"),
        ("check", one, "--baseline", baseline, "--junit", junit),
        ("report", one, "--out", tmp_path / "report"),
    )
    for arguments in commands:
        loaded, said = loaded_by(*arguments)
        assert said, arguments
        assert not loaded & MODELS, arguments
