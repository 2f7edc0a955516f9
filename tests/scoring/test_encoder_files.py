"""Where encoders' files are looked for, and how to fetch what is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.protocol import load_protocol
from benchmark.scoring import encoder_files, kinds
from benchmark.scoring.encoder_files import ALEXNET
from benchmark.scoring.kinds import identify
from benchmark.scoring.scorer import load_scorer, scoring_of


def test_missing_weights_are_named_all_at_once_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    paper = load_protocol("paper")
    for ask in (scoring_of, load_scorer):
        with pytest.raises(UserError) as caught:
            ask(paper)
        message = str(caught.value)
        assert (
            "hf download timm/vit_small_patch16_224.dino model.safetensors --revision 733b42a"
            in message
        )
        clip, revision = "timm/vit_base_patch32_clip_224.openai", paper.encoders["clip"]["revision"]
        assert f"hf download {clip} open_clip_model.safetensors --revision {revision}" in message
        assert f"curl --create-dirs -o {tmp_path}/torch/hub/checkpoints/alexnet-owt" in message
        assert len(message.splitlines()) == 1


def test_weights_are_looked_for_in_a_folder_and_known_by_their_content(tmp_path: Path) -> None:
    protocol, directory = load_protocol("kosmos-g"), str(tmp_path)
    with pytest.raises(UserError, match=f"--local-dir {tmp_path}/vit_small_patch16_224.dino"):
        scoring_of(protocol, directory=directory)
    places = {
        "dino": tmp_path / "vit_small_patch16_224.dino/model.safetensors",
        "clip": tmp_path / "vit_base_patch32_clip_224.openai/open_clip_model.safetensors",
    }
    for place in places.values():
        place.parent.mkdir()
        place.write_bytes(b"weights")
    first = scoring_of(protocol, directory=directory)
    assert "directory" not in first.encoders["dino"]
    places["dino"].write_bytes(b"others")
    second = scoring_of(protocol, directory=directory)
    assert second.encoders["dino"]["weights"] != first.encoders["dino"]["weights"]
    assert second.encoders["clip"] == first.encoders["clip"]
    assert second.declaration == first.declaration
    assert second.key("dino") != first.key("dino")
    assert second.key("clip_i") == first.key("clip_i")


def test_lpips_is_known_by_its_learned_weights_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchmetrics.functional.image import lpips

    (tmp_path / ALEXNET).write_bytes(b"network")
    tables = {"lpips": load_protocol("paper").encoders["lpips"] | {"directory": str(tmp_path)}}
    learned = Path(lpips.__file__).parent / "lpips_models" / "alex.pth"
    expected = hashlib.sha256(
        ALEXNET.encode()
        + hashlib.sha256(b"network").digest()
        + b"alex.pth"
        + hashlib.sha256(learned.read_bytes()).digest()
    )
    assert identify(tables)["lpips"]["weights"] == expected.hexdigest()[:12]
    (tmp_path / "alex.pth").write_bytes(b"learned otherwise")
    monkeypatch.setattr(kinds, "learned_file", lambda _name: tmp_path / "alex.pth")
    assert identify(tables)["lpips"]["weights"] != expected.hexdigest()[:12]


def test_learned_weights_that_torchmetrics_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_files, "LEARNED", "functional/nowhere.pth")
    with pytest.raises(UserError, match="encoders.lpips: torchmetrics does not hold .*nowhere.pth"):
        encoder_files.learned_file("lpips")


@pytest.mark.parametrize("kind", ["timm", "open_clip", "intermediate"])
def test_what_a_directory_lacks_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    pocket = load_protocol("pocket")
    (name,) = (name for name, table in pocket.encoders.items() if table["kind"] == kind)
    table = pocket.encoders[name] | {"model": str(tmp_path)}
    moved = pocket.model_copy(update={"encoders": pocket.encoders | {name: table}})
    with pytest.raises(UserError, match=rf"encoders.{name}.model: {tmp_path} has no .*tensors"):
        scoring_of(moved)


@pytest.mark.parametrize(
    ("place", "problem"), [("nowhere", "No such file"), ("/dev/zero", "it is no regular file")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, place: str, problem: str) -> None:
    (tmp_path / "eye.txt").symlink_to(place)
    table = {"kind": "tests.toy:EYE", "file": str(tmp_path / "eye.txt")}
    with pytest.raises(UserError, match=rf"encoders\.eye: .*eye\.txt cannot be read: {problem}"):
        identify({"eye": table})
