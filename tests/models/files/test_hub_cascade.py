"""A cascade on the hub, without the hub: two repositories, one of which is gated."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.utils import filter_repo_objects

from benchmark.api import SUPER_RESOLUTION, TEXT_TO_IMAGE, TRAINING, WORDS, Sampler, UserError
from benchmark.models.families import INDEX
from benchmark.models.files import hub
from benchmark.models.files.hub import CASCADES, HubModel, hub_model
from benchmark.models.files.identity import backbone_id
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.models.files.test_hub import COMMIT, put
from tests.tiny_pipeline import save_tiny_cascade

BASE, LARGER = CASCADES["if"]["base"], CASCADES["if"]["super_resolution"]

#: Of what lies in such a repository.
LISTING = [
    "README.md",
    "config.yml",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "pytorch_model.bin",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "image_noising_scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/spiece.model",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "watermarker/config.json",
    "watermarker/diffusion_pytorch_model.safetensors",
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
    return save_tiny_cascade(tmp_path_factory.mktemp("models") / "tiny")


def fetched(names: list[str], stage: str) -> set[str]:
    patterns = list(hub.patterns(hub._parts("if", stage)))
    return {n for n in filter_repo_objects(names, allow_patterns=patterns) if ".json" not in n}


def test_no_text_encoder_is_fetched_twice_and_no_safety_checker_at_all() -> None:
    assert fetched(LISTING, "super_resolution") == {
        "tokenizer/spiece.model",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert fetched(LISTING, "base") == {
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "tokenizer/spiece.model",
        "unet/diffusion_pytorch_model.safetensors",
    }


def test_it_is_known_without_being_here_and_both_commits_are_its_identity(monkeypatch) -> None:
    before = backbone_id("if")
    assert before.startswith("if@") and len(before) == 15
    assert DIFFUSERS.capabilities("if") == {TEXT_TO_IMAGE, TRAINING, WORDS, SUPER_RESOLUTION}
    DIFFUSERS.check_sampler("if", Sampler("own", 100, 7.0, super_resolution_steps=50))
    with pytest.raises(UserError, match="'euler' does not draw DeepFloyd IF"):
        DIFFUSERS.check_sampler("if", Sampler("euler", 50, 5.0))
    with pytest.raises(UserError, match="'if' is several repositories, each pinned: leave out '@m"):
        hub_model("if@main")
    for stage, (repository, commit) in CASCADES["if"].items():
        assert len(commit) == 40 and int(commit, 16)
        monkeypatch.setitem(CASCADES["if"], stage, (repository, COMMIT))
        assert backbone_id("if") != before
        monkeypatch.setitem(CASCADES["if"], stage, (repository, commit))
    assert backbone_id("if") == before


def test_two_cached_repositories_are_loaded_as_one_model(cache, tiny) -> None:
    put(cache, *BASE, tiny / "base")
    with pytest.raises(UserError, match=r"IF-I-XL-v1.0@\w+ and DeepFloyd/IF-II-L-v1.0@\w+ are not"):
        load_backbone("if", device="cpu")
    put(cache, *LARGER, tiny / "super_resolution")
    backbone = load_backbone("if", device="cpu", precision="fp32")
    assert backbone.id == backbone_id("if")
    images = backbone.sample(backbone.encode(["a dog"]), [1], sampler=Sampler("own", 2, 1.0))
    assert images.shape == (1, 3, 16, 16)


def test_what_is_missing_is_fetched_by_two_commands() -> None:
    with pytest.raises(UserError) as caught:
        load_backbone("if", device="cpu")
    first, second = str(caught.value).split(" && ")
    assert f"hf download {BASE[0]} --revision {BASE[1]} --include '*.json'" in first
    assert "--include 'text_encoder/*model-*-of-*.safetensors'" in first
    assert f"hf download {LARGER[0]} --revision {LARGER[1]}" in second
    assert "text_encoder" not in second and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["if", "owner/name"])
def test_a_gated_repository_says_what_to_accept_and_where_the_token_goes(
    monkeypatch, model: str
) -> None:
    response = Mock(headers={}, status_code=403)
    original = huggingface_hub.snapshot_download

    def refuse(repository: str, *, local_files_only: bool = False, **options):
        if local_files_only:
            return original(repository, local_files_only=True, **options)
        raise GatedRepoError("Access to model is restricted.\nAsk.", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "_knock", lambda: None)
    with pytest.raises(UserError, match=r"gated \(Access.*\): accept .* on https") as caught:
        DIFFUSERS.fetch(model)
    places = [BASE[0], LARGER[0]] if model == "if" else [model]
    assert all(f"https://huggingface.co/{place}" in str(caught.value) for place in places)
    assert "`hf auth login`, or the environment variable HF_TOKEN" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_of_the_two_is_named_before_its_weights_are_fetched(cache, tiny) -> None:
    (cache.parent / "half").mkdir()
    (cache.parent / "half" / INDEX).write_bytes((tiny / "base" / INDEX).read_bytes())
    put(cache, "owner/half", COMMIT, cache.parent / "half")
    with pytest.raises(UserError, match="it is one of two: .*; or known by name: if"):
        DIFFUSERS.fetch("owner/half")
    assert hub_model("owner/half") == HubModel("owner/half", "owner/half", None)
