"""The floors: each module stands only on those before it, and the front door opens quickly."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    ("tables", "figures", "curve_figure", "heat_map", "learning_figure"),
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
SLOW_TO_IMPORT = {"scipy", "pandas", "matplotlib"}
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
    code = (
        "import sys\n"
        f"sys.argv = ['benchmark', *{arguments!r}]\n"
        "from benchmark.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"assert not {HEAVY | SLOW_TO_IMPORT!r} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout
