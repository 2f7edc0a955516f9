"""Files that cannot be written: nothing half is left, and why is said in one line."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmark.api import UserError
from benchmark.store import files
from benchmark.store.directory import RunDirectory
from benchmark.store.files import (
    WriteError,
    file_digest,
    remove_leftovers,
    replacing,
    save_tensors,
    write_atomically,
)
from tests.starvation import starved


@contextmanager
def limited(what: int, to: int) -> Iterator[None]:
    """The system's own limit, for this process."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (to, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: free some space, and run the same command again"),
        (errno.EDQUOT, "the disk quota is used up: free some space, and run"),
        (errno.EROFS, "the file system is read-only: change that, or choose another place"),
        (errno.EACCES, "permission is denied: change that, or choose another place (DIR or --out)"),
        (errno.EMFILE, "too many files are open: raise the limit (ulimit -n)"),
        (errno.ENAMETOOLONG, "no file has so long a name: choose a shorter one"),
        (errno.EIO, "Input/output error: write elsewhere"),
    ],
)
def test_a_write_that_fails_half_way_leaves_what_was_there_and_says_why(
    tmp_path: Path, number: int, said: str
) -> None:
    path = tmp_path / "scores.csv"
    write_atomically(path, "before")
    with starved(number), pytest.raises(WriteError) as caught:
        write_atomically(path, "after")
    assert str(caught.value).startswith(f"cannot write {path}: {said}")
    assert caught.value.final == (number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("scores.csv", "before")]


def test_the_systems_own_refusals_are_told_alike(tmp_path: Path) -> None:
    with limited(resource.RLIMIT_FSIZE, 1000):
        with pytest.raises(WriteError, match=r"a\.csv: a file may not be so large here: raise"):
            write_atomically(tmp_path / "a.csv", "x" * 2000)
        with (
            pytest.raises(WriteError, match=r"b\.safetensors: a file may not be so large"),
            replacing(tmp_path / "b.safetensors") as temporary,
        ):
            save_tensors({"a": torch.zeros(1000)}, temporary)
    with (
        limited(resource.RLIMIT_NOFILE, 0),
        pytest.raises(WriteError, match=r"c\.csv: too many files are open: raise the limit"),
    ):
        write_atomically(tmp_path / "c.csv", "x")
    with pytest.raises(WriteError, match="no file has so long a name: choose a shorter one"):
        write_atomically(tmp_path / ("d" * 250), "x")
    assert not list(tmp_path.iterdir())


def test_what_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_tensors_are_written_for_everybody(tmp_path: Path) -> None:
    save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"step": "1"})
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_what_a_killed_run_had_begun_is_removed_when_the_folder_is_locked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun = [
        "run.json.12.tmp",
        "images/paint/dog/prior-s0-0.png.4711.tmp",
        "prior/ab.safetensors.1.tmp",
        "weights/paint/dog-s0.safetensors.7.tmp",
        "weights/paint/.tmpCe9B1M",  # safetensors' own
        "gallery/ab.webp.31.tmp",
    ]
    whole = ["notes.tmp", "images/paint/dog/prior-s0-0.png", "weights/.tmpfile", "a.tmp.png"]
    for name in (*begun, *whole):
        write_atomically(run / name, "x")
    with RunDirectory(run).locked():
        found = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
        assert found == {*whole, "run.lock"}
        write_atomically(run / begun[1], "x")  # by a worker that is ended
    assert not (run / begun[1]).exists()


def test_a_lock_that_another_holds_is_named_at_once(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(UserError, match=f"^another run is writing to {tmp_path}: wait for it"),
        RunDirectory(tmp_path).locked(),
    ):
        pass


def test_a_folder_that_cannot_be_locked_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refused)
    said = "run: the file system is read-only: change that, or choose another place"
    with pytest.raises(UserError, match=said), RunDirectory(tmp_path / "run").locked():
        pass


def test_leftovers_that_cannot_be_removed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "a.png.12.tmp").touch()
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(WriteError, match=r"a\.png\.12\.tmp: permission is denied"):
        remove_leftovers(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_no_place_for_a_cache_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(files, "LARGE", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights"
    path.write_bytes(b"1" * 20)
    with starved(number):
        assert file_digest(path) == files._read_digest(path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", lambda _: (_ for _ in ()).throw(RuntimeError("none")))
    assert file_digest(path) == files._read_digest(path)
    assert not list(tmp_path.rglob("*.tmp"))
