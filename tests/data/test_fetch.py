"""Fetching from a server of our own, which may lie, break off, or be away."""

import hashlib
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pooch
import pytest
from requests import ConnectionError

import benchmark.data.download
from benchmark.api import UserError
from benchmark.data.dataset import dataset_directory, load_dataset, verify
from benchmark.data.download import check_copy, fetch_images
from benchmark.data.manifest import read_manifest

FILES = {
    "dog/00.jpg": b"first" * 1000,
    "dog/01.jpg": b"second" * 30_000,
    "vase/a #1 50%.jpg": b"third",
}


@dataclass
class Remote:
    """What the server has, what it was asked for, and which files it breaks off half-way."""

    address: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setattr(benchmark.data.download, "RETRIES", 0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path).removeprefix("/photographs/")
            remote.asked.append(name)
            content = remote.files.get(name)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            content = content or b""
            self.wfile.write(content[: len(content) // 2] if name in remote.broken else content)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    remote = Remote(f"http://127.0.0.1:{server.server_port}/photographs", dict(FILES))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield remote
    server.shutdown()
    server.server_close()
    thread.join()


def write_dataset(folder: Path, source: str) -> None:
    lines = ['name = "faraway"', f'source = "{source}"']
    for subject in ("dog", "vase"):
        lines += [f"[subjects.{subject}]", f'class_noun = "{subject}"', "live = true"]
        lines += [f"[subjects.{subject}.files]"]
        for name, content in FILES.items():
            if name.startswith(subject):
                digest = hashlib.sha256(content).hexdigest()
                lines.append(f'"{name.partition("/")[2]}" = "{digest}"')
    folder.mkdir()
    (folder / "manifest.toml").write_text("\n".join(lines))


@pytest.fixture
def dataset(tmp_path: Path, remote: Remote) -> str:
    write_dataset(tmp_path / "faraway", remote.address)
    return str(tmp_path / "faraway")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_everything_comes_once_and_lies_where_runs_look(
    dataset: str, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    where = tmp_path / "cache" / "dreambooth-benchmark" / "faraway"
    assert fetch_images(dataset).root == where
    assert contents(where) == FILES
    assert [path.name for path in where.iterdir() if path.name.startswith(".")] == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in where.glob("*/*")} == {0o644}
    assert sorted(remote.asked) == sorted(FILES)
    verify(load_dataset(dataset))
    fetch_images(dataset)
    assert len(remote.asked) == len(FILES), "nothing is fetched twice"


def test_only_what_is_missing_or_altered_is_fetched_again(
    dataset: str, remote: Remote, out: Path
) -> None:
    fetch_images(dataset, out)
    (out / "dog" / "00.jpg").unlink()
    (out / "dog" / "01.jpg").write_bytes(b"altered")
    remote.asked.clear()
    fetch_images(dataset, out)
    assert sorted(remote.asked) == ["dog/00.jpg", "dog/01.jpg"]
    assert contents(out) == FILES


def test_an_interruption_leaves_whole_files_and_the_next_fetch_goes_on(
    dataset: str, remote: Remote, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = pooch.HTTPDownloader.__call__

    def interrupted(self: object, url: str, output_file: str, *rest: object) -> None:
        if url.endswith("01.jpg"):
            Path(output_file).write_bytes(b"half of it")
            raise KeyboardInterrupt
        download(self, url, output_file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_images(dataset, out)
    assert contents(out) == {"dog/00.jpg": FILES["dog/00.jpg"]}
    remote.asked.clear()
    fetch_images(dataset, out)
    assert sorted(remote.asked) == ["dog/01.jpg", "vase/a #1 50%.jpg"]
    assert contents(out) == FILES


def test_what_a_killed_fetch_left_is_in_nobodys_way(dataset: str, out: Path) -> None:
    (out / ".fetch-killed" / "dog").mkdir(parents=True)
    (out / ".fetch-killed" / "dog" / "tmpx").write_bytes(b"half")
    with pytest.raises(UserError, match="the images of 'faraway' are not in"):
        verify(load_dataset(dataset, folder=str(out)))
    verify(fetch_images(dataset, out))


def test_a_file_that_breaks_off_is_not_put_in_place(
    dataset: str, remote: Remote, out: Path
) -> None:
    remote.broken = {"dog/01.jpg"}
    with pytest.raises(UserError, match=f"cannot fetch {remote.address}/dog/01.jpg"):
        fetch_images(dataset, out)
    assert contents(out) == {"dog/00.jpg": FILES["dog/00.jpg"]}
    remote.broken = set()
    fetch_images(dataset, out)
    assert contents(out) == FILES


def test_a_file_other_than_the_manifest_says_is_refused_with_both_hashes(
    dataset: str, remote: Remote, out: Path
) -> None:
    remote.files["dog/01.jpg"] = b"another"
    with pytest.raises(UserError) as caught:
        fetch_images(dataset, out)
    said = str(caught.value)
    assert f"cannot fetch {remote.address}/dog/01.jpg" in said
    assert hashlib.sha256(b"another").hexdigest() in said
    assert hashlib.sha256(FILES["dog/01.jpg"]).hexdigest() in said
    assert contents(out) == {"dog/00.jpg": FILES["dog/00.jpg"]}


def test_an_altered_file_stays_until_a_right_one_is_there(
    dataset: str, remote: Remote, out: Path
) -> None:
    fetch_images(dataset, out)
    (out / "dog" / "01.jpg").write_bytes(b"mine")
    del remote.files["dog/01.jpg"]
    with pytest.raises(UserError, match="dog/01.jpg: the answer is 404 Not Found"):
        fetch_images(dataset, out)
    assert (out / "dog" / "01.jpg").read_bytes() == b"mine"


def test_a_lost_answer_is_asked_for_again(
    dataset: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.data.download, "RETRIES", 1)
    download, calls = pooch.HTTPDownloader.__call__, []

    def lost_once(self: object, url: str, *rest: object) -> None:
        calls.append(url)
        if len(calls) == 1:
            raise ConnectionError("lost")
        download(self, url, *rest)

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", lost_once)
    fetch_images(dataset, out)
    assert len(calls) == len(FILES) + 1


def test_without_a_connection_the_way_out_is_said(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.data.download, "RETRIES", 0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        write_dataset(tmp_path / "away", f"http://127.0.0.1:{unused.getsockname()[1]}/x")
        dataset = str(tmp_path / "away")
        with pytest.raises(UserError, match=r"no connection .*fetch .*away --data DIR.*run with"):
            fetch_images(dataset, out)
    assert contents(out) == {}


def test_a_folder_that_cannot_be_written_is_named(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/file: "):
        fetch_images(dataset, tmp_path / "file")


def test_a_dataset_that_brings_its_images_has_nothing_to_fetch(out: Path) -> None:
    with pytest.raises(UserError, match="'pocket' come with it"):
        fetch_images("pocket", out)
    assert not out.exists()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "copy" / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "copy" / "dataset" / "prompts.txt").touch()
    (tmp_path / "copy" / "dataset" / "dog" / ".DS_Store").touch()
    return tmp_path / "copy"


def test_a_copy_is_checked_without_asking_the_server(
    dataset: str, remote: Remote, copy: Path
) -> None:
    assert check_copy(dataset, copy).root == copy / "dataset"
    assert check_copy(dataset, copy / "dataset").root == copy / "dataset"
    (copy / "dataset" / "dog" / "00.jpg").unlink()
    (copy / "dataset" / "dog" / "01.jpg").write_bytes(b"altered")
    (copy / "dataset" / "dog" / "02.jpg").touch()
    with pytest.raises(UserError) as caught:
        check_copy(dataset, copy)
    said = str(caught.value)
    assert f"{copy}/dataset/dog/00.jpg: No such file" in said
    assert (
        f"{copy}/dataset/dog/01.jpg has SHA-256 {hashlib.sha256(b'altered').hexdigest()[:12]}..."
        in said
    )
    assert f"{copy}/dataset/dog/02.jpg is not in the manifest" in said
    assert f"fetch {dataset} --out {copy}/dataset` puts missing and altered files right" in said
    assert remote.asked == []


def test_a_folder_too_many_in_a_copy_is_named(dataset: str, copy: Path) -> None:
    (copy / "dataset" / "dog4").mkdir()
    with pytest.raises(UserError, match=f"no such subject: take away {copy}/dataset/dog4"):
        check_copy(dataset, copy)


def test_a_copy_of_something_else_is_said_to_be_that() -> None:
    with pytest.raises(
        UserError, match="holds no copy of the images of 'dreambench', but the dataset .*pocket"
    ):
        check_copy("dreambench", dataset_directory("pocket"))


@pytest.mark.network
def test_dreambenchs_address_answers_with_a_photograph(tmp_path: Path) -> None:
    manifest = read_manifest(dataset_directory("dreambench"))
    dog = manifest.subjects["dog"]
    few = dog.model_copy(update={"files": {"00.jpg": dog.files["00.jpg"]}})
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "manifest.toml").write_text(
        manifest.model_copy(update={"subjects": {"dog": few}}).dump_toml()
    )
    verify(fetch_images(str(tmp_path / "few"), tmp_path / "out"))
