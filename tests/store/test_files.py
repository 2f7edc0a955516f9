"""Digests of files."""

from __future__ import annotations

from pathlib import Path

from benchmark.store import files
from benchmark.store.files import file_digest


def test_the_digest_of_a_large_file_is_remembered_until_it_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read: list[Path] = []
    digest = files._read_digest

    def counted(path: Path) -> bytes:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(files, "_read_digest", counted)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"1" * 20)
    first = file_digest(path)
    assert file_digest(path) == first == digest(path) and len(read) == 1
    path.write_bytes(b"2" * 20)
    assert file_digest(path) == digest(path) != first and len(read) == 2
    for known in (tmp_path / "cache").rglob("*"):
        if known.is_file():
            known.write_text("00")  # half-written
    assert file_digest(path) == digest(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(path / "no-folder"))
    assert file_digest(path) == digest(path)
