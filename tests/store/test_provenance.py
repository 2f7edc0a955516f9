"""What is on record of the checkout that a run was made with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmark.store.provenance import _git


def test_the_checkout_is_looked_at_without_touching_it(tmp_path: Path) -> None:
    """Git would refresh its index under a lock, which a killed run would leave behind."""
    file = tmp_path / "file"
    file.write_text("1")
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (["init", "-q"], ["add", "file"], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    index = tmp_path / ".git" / "index"
    os.utime(file, (1e9, 1e9))  # the same content: only the index's times are old
    before = index.read_bytes()
    assert _git(tmp_path, "status", "--porcelain") == ""
    assert index.read_bytes() == before
    subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, check=True)
    assert index.read_bytes() != before, "as git does of itself"
    file.write_text("2")
    assert _git(tmp_path, "status", "--porcelain") == " M file\n"
