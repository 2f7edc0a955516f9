"""Models of the hub, without the hub: a cache as its client lays it out, a download as it does."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from benchmark.api import UserError
from benchmark.models.families import INDEX
from benchmark.models.files import hub
from benchmark.models.files.hub import NAMED, HubModel, fetch_command, hub_model
from benchmark.models.files.identity import backbone_id
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import save_tiny_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: What lies in the repository of Stable Diffusion 1.5 beside configuration.
LISTING_15 = [
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


#: The weights of Stable Diffusion 3.5's, as its model card lists them.
LISTING_3 = [
    "sd3.5_medium.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.fp16.safetensors",
    "text_encoder_2/model.safetensors",
    "text_encoder_3/model-00001-of-00002.safetensors",
    "text_encoder_3/model-00002-of-00002.safetensors",
    "text_encoder_3/model.fp16-00001-of-00002.safetensors",
    "text_encoder_3/model.fp16-00002-of-00002.safetensors",
    "text_encoders/clip_g.safetensors",
    "text_encoders/t5xxl_fp16.safetensors",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]
#: The same of Stable Diffusion XL's.
LISTING_XL = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "sd_xl_base_1.0.safetensors",
    "sd_xl_base_1.0_0.9vae.safetensors",
    "sd_xl_offset_example-lora_1.0.safetensors",
    *(
        f"{folder}/{name}"
        for folder in ("text_encoder", "text_encoder_2")
        for name in (
            "config.json",
            "flax_model.msgpack",
            "model.fp16.safetensors",
            "model.onnx",
            "model.onnx_data",
            "model.safetensors",
            "openvino_model.bin",
        )
    ),
    "tokenizer/merges.txt",
    "tokenizer_2/merges.txt",
    "unet/config.json",
    "unet/diffusion_flax_model.msgpack",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/model.onnx_data",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/diffusion_pytorch_model.safetensors",
    "vae_decoder/model.onnx",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


def put(cache: Path, repository: str, commit: str, source: Path) -> Path:
    """A copy of `source` as the hub's client keeps it: links into blobs, a ref for `main`."""
    place = cache / f"models--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    for number, path in enumerate(p for p in sorted(source.rglob("*")) if p.is_file()):
        blob = place / "blobs" / f"{number:040x}"
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def test_what_is_fetched_is_what_is_read_and_nothing_else():
    options = {"allow_patterns": list(hub.PATTERNS)}
    kept = set(filter_repo_objects(LISTING_15, **options))
    weights = {name for name in kept if name.endswith(".safetensors")}
    assert weights == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert {name for name in LISTING_15 if name.startswith(("tokenizer/", "scheduler/"))} <= kept
    assert not any(name.endswith((".bin", ".ckpt")) for name in kept)
    xl = {n for n in filter_repo_objects(LISTING_XL, **options) if "token" not in n}
    assert {name for name in xl if not name.endswith(".json")} == {
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert list(filter_repo_objects(LISTING_3, **options)) == [
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    shards = [f"unet/diffusion_pytorch_model{v}-00001-of-00002.safetensors" for v in ("", ".fp16")]
    assert list(filter_repo_objects(shards, **options)) == shards[:1]


@pytest.mark.parametrize("name", NAMED)
def test_named_models_are_pinned_and_known_without_being_here(name):
    repository, commit = NAMED[name]
    assert hub_model(name) == HubModel(name, repository, commit)
    assert len(commit) == 40 and int(commit, 16)
    assert backbone_id(name) == f"{name}@{commit[:12]}"
    assert backbone_id(f"{name}@{COMMIT}") == f"{name}@{COMMIT[:12]}"


def test_what_can_be_a_hub_id():
    assert hub_model("owner/name") == HubModel("owner/name", "owner/name", None)
    assert hub_model("owner/na.me@v1") == HubModel("owner/na.me", "owner/na.me", "v1")
    for other in ("name", "./owner/name", "/owner/name", "a/b/c", "../name", "~/name", ""):
        assert hub_model(other) is None


def test_a_cached_model_is_loaded_without_the_network(cache, tiny):
    put(cache, NAMED["sd15"][0], NAMED["sd15"][1], tiny)
    backbone = load_backbone("sd15", device="cpu", precision="fp32")
    assert backbone.id == f"sd15@{NAMED['sd15'][1][:12]}"
    assert backbone.sample(backbone.encode(["a dog"]), [1]).shape == (1, 3, 16, 16)


def test_the_commit_of_an_unpinned_model_is_its_identity(cache, tiny):
    put(cache, "owner/name", COMMIT, tiny)
    for model in ("owner/name", "owner/name@main", f"owner/name@{COMMIT}"):
        assert backbone_id(model) == f"owner/name@{COMMIT[:12]}"
    assert load_backbone("owner/name", device="cpu").id == f"owner/name@{COMMIT[:12]}"


def test_a_directory_of_that_name_goes_before_the_hub(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "owner" / "name")
    assert backbone_id("owner/name").startswith("name@")


@pytest.fixture
def remote(cache, tiny, monkeypatch) -> list[dict]:
    """The hub can be reached: it holds `tiny` as every model. Returns what was asked for."""
    asked: list[dict] = []
    original = huggingface_hub.snapshot_download

    def download(repository: str, *, local_files_only: bool = False, **options):
        if local_files_only:
            return original(repository, local_files_only=True, **options)
        asked.append({"repository": repository} | options)
        shutil.rmtree(cache, ignore_errors=True)
        return str(put(cache, repository, options["revision"] or COMMIT, tiny))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "_knock", lambda: None)
    return asked


def test_what_is_not_here_is_fetched_once_at_its_commit(remote):
    DIFFUSERS.fetch("sd14")
    DIFFUSERS.fetch("sd14")
    index, asked = remote
    assert index["allow_patterns"] == [INDEX], "what it is goes before gigabytes"
    assert (asked["repository"], asked["revision"]) == NAMED["sd14"]
    assert asked["allow_patterns"] == list(hub.PATTERNS)


def test_another_family_is_named_before_its_weights_are_fetched(remote, cache, tiny, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / INDEX).write_text('{"_class_name": "KandinskyV22Pipeline"}')
    put(cache, "owner/name", COMMIT, other)
    with pytest.raises(UserError, match="model 'owner/name': .*this is a KandinskyV22 model"):
        DIFFUSERS.fetch("owner/name")
    assert not remote, "what the cache holds is enough to know"


def test_a_half_fetched_model_is_fetched_again(remote, cache, tiny):
    snapshot = put(cache, NAMED["sd14"][0], NAMED["sd14"][1], tiny)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    DIFFUSERS.fetch("sd14")
    assert len(remote) == 2


def test_missing_weights_say_how_to_bring_them():
    with pytest.raises(UserError) as caught:
        load_backbone("sd15", device="cpu")
    text = str(caught.value)
    repository, commit = NAMED["sd15"]
    assert f"{repository}@{commit} is not in the cache" in text
    assert "HF_HUB_OFFLINE is set" in text
    assert f"hf download {repository} --revision {commit} --include '*.json'" in text
    assert "`--suite pocket` runs without" in text
    assert "\n" not in text


class Gated(GatedRepoError):
    """Without the answer of the hub, whose class depends on the version of its client."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


def test_a_gated_repository_says_what_to_accept_and_where_the_token_goes(remote, monkeypatch):
    def refuse(*_arguments, **options):
        if options.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        raise Gated("401 Client Error.\n\nAccess is restricted.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    for model, licence in (
        ("sd35-medium", "the Stability AI Community License"),
        ("owner/name", "its licence"),
    ):
        with pytest.raises(UserError) as caught:
            DIFFUSERS.fetch(model)
        page = f"https://huggingface.co/{hub_model(model).repository}"
        assert "is gated (401 Client Error.): " in str(caught.value)
        assert f"accept {licence} on {page}, log in with a token" in str(caught.value)
        assert "`hf auth login`" in str(caught.value) and "HF_TOKEN" in str(caught.value)


def test_that_a_named_model_is_gated_is_said_offline_too():
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set.*It is gated: accept the Stability"):
        DIFFUSERS.fetch("sd35-medium")
    with pytest.raises(UserError) as caught:
        DIFFUSERS.fetch("sd15")
    assert "gated" not in str(caught.value)


def test_the_command_that_brings_them_is_one_the_hubs_client_knows():
    command = fetch_command(hub_model("sd15"))
    script = Path(sys.executable).with_name("hf")
    done = subprocess.run([script, "download", "--help"], capture_output=True, text=True)
    options = {word for word in command.split() if word.startswith("--")}
    assert command.startswith("hf download ")
    assert options == {"--revision", "--include"}
    assert all(option in done.stdout for option in options)


def test_without_a_network_it_fails_at_once(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def refuse(*_arguments, **_options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be fetched .*Name or service not known"):
        DIFFUSERS.fetch("owner/name")
    assert time.monotonic() - start < 2 * hub.SECONDS


def test_a_repository_with_half_precision_alone_is_refused(remote, tiny, monkeypatch, tmp_path):
    half = shutil.copytree(tiny, tmp_path / "half")
    stored = half / "unet" / "diffusion_pytorch_model.safetensors"
    stored.rename(stored.with_suffix(".fp16.safetensors"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_a, **_o: str(half))
    with pytest.raises(UserError, match="only half-precision weights of unet"):
        DIFFUSERS.fetch("owner/name")
