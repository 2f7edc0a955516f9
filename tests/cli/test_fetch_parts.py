"""`fetch` brings what a suite needs: listed, fetched once, checked; the hub is a double."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pooch
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from typer.testing import CliRunner

from benchmark.api import UserError
from benchmark.cli import fetch_command
from benchmark.cli.app import app
from benchmark.config.suite import load_suite
from benchmark.models.files import hub
from benchmark.runs.provisions import PARTS, provisions

ENCODERS = ("fetch", "encoders", "--suite", "dreambench")


class Gated(GatedRepoError):
    """Without the answer of the hub, whose class depends on the version of its client."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub and the web can be reached, and hold what is asked for. What was downloaded."""
    cache, downloaded = tmp_path / "hub", []

    def snapshot(repository: str, **options: Any) -> Any:
        if options.get("dry_run"):
            return [SimpleNamespace(file_size=2 * 10**8, will_download=True)]
        assert not options.get("local_files_only"), "encoders are looked for by file"
        downloaded.append(repository)
        place = cache / f"models--{repository.replace('/', '--')}"
        folder = place / "snapshots" / options["revision"]
        folder.mkdir(parents=True)
        for name in options["allow_patterns"]:
            (folder / name).write_text(repository)
        return str(folder)

    def retrieve(address: str, *, fname: str, path: Path, **_: Any) -> str:
        downloaded.append(address)
        path.mkdir(parents=True)
        (path / fname).write_text("weights")
        return str(path / fname)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub, "knock", lambda: None)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr("benchmark.models.files.downloads.WebFile.size", lambda self: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return downloaded


def fetch(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_what_is_missing_is_listed_with_size_and_place(asked: list[str], tmp_path: Path) -> None:
    lines = fetch(*ENCODERS, "--dry-run").splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "encoders.dino",
        "encoders.clip",
        "encoders.lpips",
    ]
    assert (
        f"200.0 MB  timm/vit_small_patch16_224.dino@733b42a211eb, to {tmp_path / 'hub'}" in lines[0]
    )
    assert "size unknown  https://download.pytorch.org/models/alexnet" in lines[2]
    assert lines[-1] == "to fetch: 400.0 MB, and what is of unknown size"
    assert asked == []
    assert not (tmp_path / "hub").exists()


def test_what_is_here_is_not_fetched_again(asked: list[str]) -> None:
    assert fetch(*ENCODERS).count("fetched") == 3
    assert len(asked) == 3
    again = fetch(*ENCODERS)
    assert again.count("is here") == again.count("checked") == 3
    assert len(asked) == 3


def test_a_gated_repository_says_what_to_accept(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(repository: str, **options: Any) -> Any:
        raise Gated("403 Client Error.\n\nAccess is restricted.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError) as caught:
        fetch(*ENCODERS)
    page = "https://huggingface.co/timm/vit_small_patch16_224.dino"
    assert f"(403 Client Error.): it is gated: accept its licence on {page}" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)


def test_without_a_connection_it_says_so_and_goes_on_later(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence() -> None:
        raise ConnectionError("no way out")

    monkeypatch.setattr(hub, "knock", silence)
    assert fetch(*ENCODERS, "--dry-run").count("size unknown") == 3
    with pytest.raises(UserError, match=r"cannot fetch timm/.* \(no way out\): .* goes on"):
        fetch(*ENCODERS)


def test_all_are_the_dataset_encoders_assets_and_the_backbone(asked: list[str]) -> None:
    needed = provisions(load_suite("pocket"), PARTS)
    assert [one.name.split()[0].split(".")[0] for one in needed] == [
        "dataset",
        *["encoders"] * 3,
        *["assets"] * 3,
        "backbone",
    ]
    assert [one for one in needed if one.downloads] == [], "the pocket world needs nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encodrs",), r"'encodrs' \(did you mean 'encoders'\?\); known: all, dataset, "),
        (("dreambnch",), r"did you mean 'dreambench'"),
        (("encoders", "--out", "x"), "--to moves all caches"),
    ],
)
def test_what_cannot_be_fetched_is_named(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch("fetch", *arguments)


def test_caches_go_into_no_file(tmp_path: Path) -> None:
    (tmp_path / "stick").write_text("mine")
    with pytest.raises(UserError, match="--to .*stick: it is no folder"):
        fetch("fetch", "dreambench", "--to", str(tmp_path / "stick"), "--dry-run")


def test_another_machines_caches_are_filled_where_it_will_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"HF_HOME": "/home/me/hf"})
    fetch_command._move_caches(tmp_path)
    code = (
        "import pooch; from huggingface_hub import constants as c; "
        "print(c.HF_HUB_CACHE, c.HF_TOKEN_PATH, pooch.os_cache('x'))"
    )
    python = [sys.executable, "-c", code]
    found = subprocess.run(python, capture_output=True, text=True, env=os.environ, check=True)
    assert found.stdout.split() == [
        f"{tmp_path}/huggingface/hub",
        "/home/me/hf/token",
        f"{tmp_path}/x",
    ]
