"""The fence holds whatever is tried in a test's process: it is tested on files of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storm.fence import fence


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("new"),
        lambda path: path.unlink(),
        lambda path: Path("inside.txt").replace(path),
        lambda path: path.rename("inside.txt"),
        lambda path: path.with_name("new").mkdir(),
        lambda path: path.with_name("new").symlink_to("inside.txt"),
        lambda path: os.truncate(path, 0),
        lambda path: Path("link.txt").write_text("new"),
        lambda path: Path("folder/outside.txt").write_text("new"),
        lambda path: Path("../outside.txt").write_text("new"),
    ],
)
def test_nothing_outside_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    outside, inside = tmp_path / "outside.txt", tmp_path / "inside"
    outside.write_text("as it was")
    inside.mkdir()
    (inside / "inside.txt").write_text("new")
    (inside / "link.txt").symlink_to(outside)
    (inside / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(inside)
    with fence(inside) as refused, pytest.raises(PermissionError, match="outside the fence"):
        change(outside)
    assert refused
    assert outside.read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"outside.txt", "inside"}
    change(outside)  # which is allowed again


def test_what_is_inside_may_be_changed_and_all_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("as it was")
    (tmp_path / "inside").mkdir()
    with fence(tmp_path / "inside") as refused:
        (tmp_path / "inside" / "a").write_text((tmp_path / "outside.txt").read_text())
        (tmp_path / "inside" / "a").replace(tmp_path / "inside" / "b")
        Path(os.devnull).write_text("nothing")
    assert refused == []
    assert (tmp_path / "inside" / "b").read_text() == "as it was"
