"""Each method's file reads like its paper's method section: it is short."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
MODULES = {point.partition(":")[0] for point in POINTS["dreambooth_benchmark.methods"].values()}


def test_methods_are_declared_in_files_of_their_own() -> None:
    assert {"methods.dreambooth", "methods.textual_inversion", "methods.ip_adapter"} <= MODULES


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_methods_file_is_under_120_lines(module: str) -> None:
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert len(path.read_text().splitlines()) < 120, f"{path.name}: move what others share"
