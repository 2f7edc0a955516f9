"""Digests of files, and gzip files."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.store import files
from benchmark.store.files import expanded, file_digest, gunzipped, gzipped, write_atomically


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


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("fifo", "null"):
        with pytest.raises(UserError, match="it is no regular file"):
            write_atomically(tmp_path / name, "content")
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "null").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"fifo", "null"}


def test_the_home_of_nobody_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/models") == tmp_path / "models"
    with pytest.raises(UserError, match="~nobody-here/x: nobody of that name"):
        expanded("~nobody-here/x")


def test_gzip_files_are_the_same_each_time_and_hold_what_was_put_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = b"a line of text\n" * 1000
    made = gzipped(content)
    assert gunzipped(made) == gzip.decompress(made) == content
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert gzipped(content) == made and len(made) < len(content) / 50
    for broken in (b"no gzip", made[:-9], made[:40] + b"?" + made[41:]):
        with pytest.raises(ValueError, match="no whole gzip file"):
            gunzipped(broken)
    monkeypatch.setattr(files, "LARGEST", len(content) - 1)
    with pytest.raises(ValueError, match=f"holds more than {len(content) - 1} bytes"):
        gunzipped(made)
