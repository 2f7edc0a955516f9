"""Guides: declared, known by their files, loaded; and whether one also scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.models.assets import assets
from benchmark.models.assets.asset_files import SHIPPED
from benchmark.models.files.kinship import same_model
from tests.tiny_clip import LENGTH, PATCH, SIZE, WIDTH, save_as_open_clip, save_tiny_clip

kind_of, identify = (partial(of, "guide") for of in (assets.kind_of, assets.identify))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def guide_of(folder: Path):
    table = {"kind": "clip", "model": str(folder)}
    return kind_of(table).load(table, "cpu")


def test_it_embeds_as_transformers_does(clip: Path) -> None:
    """Against transformers' own preparation and forward pass, of images that are whole pixels."""
    guide, model = guide_of(clip), CLIPModel.from_pretrained(clip).eval()
    pixels = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    texts = ["a red dog", "a vase in the snow"]
    prepared = CLIPProcessor.from_pretrained(clip)(
        text=texts, images=list(pixels), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        answer = model(**prepared, output_hidden_states=True)
    unit = partial(torch.nn.functional.normalize, dim=1)
    images = (pixels.float() / 255).requires_grad_()
    torch.testing.assert_close(unit(guide.embed(images)), answer.image_embeds)
    torch.testing.assert_close(unit(guide.embed_texts(texts)), answer.text_embeds)
    before_last = answer.vision_model_output.hidden_states[-2]
    torch.testing.assert_close(guide.tokens(images), before_last)
    assert before_last.shape == (2, 1 + (SIZE // PATCH) ** 2, WIDTH)
    guide.embed(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in guide.model.parameters())


def test_a_text_is_read_alike_beside_a_longer_one_and_refused_where_it_is_cut(clip: Path) -> None:
    guide = guide_of(clip)
    alone = guide.embed_texts(["a dog"])
    beside = guide.embed_texts(["a dog", "a red dog in the snow over a vase"])
    torch.testing.assert_close(beside[:1], alone)
    assert guide.embed_texts(["dog " * (LENGTH - 2)]).shape == (1, WIDTH)
    with pytest.raises(UserError, match=f"dog ' is longer than the {LENGTH} tokens .*shorten"):
        guide.embed_texts(["a", "dog " * (LENGTH - 1)])


def test_a_guide_is_known_by_its_files_and_a_broken_one_is_named(clip: Path, tmp_path) -> None:
    copy = save_tiny_clip(tmp_path / "copy")
    table = {"kind": "clip", "model": str(copy)}
    same = identify({"kind": "clip", "model": str(clip)}).partition("@")[2]
    assert identify(table).startswith("clip-1 copy@") and identify(table).endswith(same)
    weights = copy / "model.safetensors"
    tensors = load_file(weights)
    tensors["logit_scale"] += 1
    save_file(tensors, weights, {"format": "pt"})
    assert not identify(table).endswith(same)
    del tensors["visual_projection.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights, visual_projection.weight among them"):
        guide_of(copy)
    weights.unlink()
    with pytest.raises(UserError, match="assets.guide.model: .*copy has no model.safetensors"):
        guide_of(copy)


def test_bad_tables_are_named() -> None:
    with pytest.raises(UserError, match="assets.guide.kind is missing; known: clip$"):
        identify({"model": "pocket"})
    with pytest.raises(UserError, match="guide.kind is 'clipseg', whose role is 'segmenter'"):
        identify({"kind": "clipseg", "model": "a"})
    with pytest.raises(UserError, match="guide.colour is unknown; the keys are kind, model"):
        identify({"kind": "clip", "model": "a", "colour": 1})
    with pytest.raises(UserError, match="assets.guide.sha256: it should be a SHA-256"):
        identify({"kind": "clip", "model": "a", "sha256": "abc"})


def test_the_papers_suite_pins_its_guide_and_says_how_to_fetch_it(monkeypatch) -> None:
    import huggingface_hub

    table = load_suite("dreambench").assets["guide"]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UserError) as caught:
        identify(table)
    command = f"hf download {table['hub']} config.json preprocessor_config.json model.safetensors "
    assert command in str(caught.value) and f"--revision {table['revision']}" in str(caught.value)


# The same model in other files ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_is_known_in_open_clips_layout(clip: Path, tmp_path: Path, dtype) -> None:
    """That the conversion is right: open_clip's own model draws the same embeddings from it."""
    converted = save_as_open_clip(clip, tmp_path / "converted", dtype)
    weights = converted / "open_clip_model.safetensors"
    own = [clip / "model.safetensors"]
    assert same_model(own, [weights]) and same_model([weights], own)
    other = save_tiny_clip(tmp_path / "other", seed=1)
    assert not same_model([other / "model.safetensors"], [weights])
    if dtype == torch.float32:
        model = open_clip.create_model(f"local-dir:{converted}").eval()
        images = torch.rand(2, 3, SIZE, SIZE)
        guide = guide_of(clip)
        with torch.no_grad():
            seen = model.encode_image((images - guide.mean) / guide.std)
            torch.testing.assert_close(seen, guide.embed(images), atol=1e-4, rtol=1e-4)


def test_a_part_of_a_model_is_that_model(clip: Path, tmp_path: Path) -> None:
    """CLIP's vision transformer alone, as adapters ship it beside weights of their own."""
    whole = load_file(clip / "model.safetensors")
    part = {name: tensor for name, tensor in whole.items() if name.startswith("vision_model")}
    save_file(part, tmp_path / "vision.safetensors")
    save_file({"proj.bias": torch.rand(WIDTH)}, tmp_path / "adapter.safetensors")
    converted = save_as_open_clip(clip, tmp_path / "converted")
    own = [tmp_path / "vision.safetensors", tmp_path / "adapter.safetensors"]
    assert same_model(own, [converted / "open_clip_model.safetensors"])


def test_what_all_models_have_makes_no_kin(tmp_path: Path) -> None:
    """Layers as they begin, tables that are computed, whole numbers, and files of other formats."""
    common = {
        "norm.weight": torch.ones(64),
        "norm.bias": torch.zeros(64),
        "position_ids": torch.arange(64),
        "inv_freq": 1 / 10000 ** torch.linspace(0, 1, 32),
    }
    for number in range(2):
        own = {f"bias.{i}": torch.randn(64) for i in range(8)}
        save_file(common | own, tmp_path / f"{number}.safetensors")
    one, other = tmp_path / "0.safetensors", tmp_path / "1.safetensors"
    assert same_model([one], [one]) and not same_model([one], [other])
    pickle = tmp_path / "weights.pth"
    pickle.write_bytes(b"no tensors")
    assert not same_model([one], [pickle])


def test_no_two_shipped_models_are_one() -> None:
    files = {
        path.parent.name: path
        for path in SHIPPED.rglob("*.safetensors")
        if path.parent.parent == SHIPPED
    }
    assert {"clip", "dino", "segmenter"} <= files.keys()
    for name, path in files.items():
        assert [other for other, there in files.items() if same_model([path], [there])] == [name]
