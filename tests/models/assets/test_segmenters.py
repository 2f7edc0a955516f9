"""Segmenters: declared, known by their files, loaded from tiny checkpoints of their layout."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    ViTImageProcessor,
)

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.models.assets import assets, segmenters
from benchmark.pocket.vocabulary import build_tokenizer, save_tokenizer

NOUNS = ["dog", "vase"]
kind_of, identify, check_nouns = (
    partial(of, "segmenter") for of in (assets.kind_of, assets.identify, assets.check_nouns)
)


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIPSeg's architecture and files at a few thousand parameters."""
    folder = tmp_path_factory.mktemp("clipseg") / "tiny"
    tokenizer = build_tokenizer(["a", *NOUNS])
    torch.manual_seed(0)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 12}
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    small["num_attention_heads"] = 2
    vision = {"image_size": 32, "patch_size": 16}
    config = CLIPSegConfig(
        text_config=text | small | ends | {"pad_token_id": ends["eos_token_id"]},
        vision_config=vision | small,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
    )
    model = CLIPSegForImageSegmentation(config)
    # Random weights would find all or nothing: some of both, so that masks can be told apart.
    model.decoder.transposed_convolution[-1].bias.data.fill_(0.0)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    images = ViTImageProcessor(size={"height": 32, "width": 32})
    CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    images.save_pretrained(folder)
    return folder


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    folder = tmp_path / "unet"
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8, in_channels=12, out_channels=4, block_out_channels=(8, 8),
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, norm_num_groups=4, num_class_embeds=2,
        add_attention=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    (folder / "nouns.txt").write_text("\n".join(NOUNS) + "\n")
    return folder


def photographs(count: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, height, width))
    return torch.tensor(pixels).float() / 255


def test_clipseg_finds_what_transformers_own_processor_and_model_find(clipseg: Path) -> None:
    """One image at a time, from Pillow images, through what transformers loads of the folder."""
    table = {"kind": "clipseg", "model": str(clipseg)}
    images = photographs(9, 24, 40)
    found = kind_of(table).load(table, "cpu").segment(images, "dog")
    assert found.shape == (9, 24, 40) and found.dtype == torch.bool
    assert 0.02 < found.float().mean() < 0.98
    processor = CLIPSegProcessor.from_pretrained(clipseg)
    model = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    for image, mask in zip(images, found, strict=True):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        inputs = processor(text=["dog"], images=[picture], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits.reshape(1, 1, 32, 32)
        probability = interpolate(logits, (24, 40), mode="bilinear")[0, 0].sigmoid()
        sure = (probability - 0.5).abs() > 1e-4
        assert torch.equal(mask[sure], (probability > 0.5)[sure])


def test_a_noun_unet_answers_for_the_class_of_its_noun(unet: Path) -> None:
    """Against diffusers' own call, pixel by pixel: block (y, x) of 2 x 2, channel by channel."""
    table = {"kind": "noun-unet", "model": str(unet)}
    images = photographs(3, 16, 16)
    found = kind_of(table).load(table, "cpu").segment(images, "vase")
    blocks = torch.zeros(3, 12, 8, 8)
    for channel in range(3):
        for dy in range(2):
            for dx in range(2):
                blocks[:, 4 * channel + 2 * dy + dx] = images[:, channel, dy::2, dx::2] * 2 - 1
    with torch.no_grad():
        answer = UNet2DModel.from_pretrained(unet)(blocks, 0, torch.ones(3).long()).sample
    for dy in range(2):
        for dx in range(2):
            assert torch.equal(found[:, dy::2, dx::2], answer[:, 2 * dy + dx] > 0)
    other = kind_of(table).load(table, "cpu").segment(photographs(1, 40, 24), "dog")
    assert other.shape == (1, 40, 24)


def test_a_segmenter_is_known_by_its_files_wherever_they_lie(unet: Path, tmp_path: Path) -> None:
    table = {"kind": "noun-unet", "model": str(unet)}
    before = identify(table)
    assert before.startswith("noun-unet-1 unet@")
    moved = unet.rename(tmp_path / "elsewhere")
    assert identify(table | {"model": f"{moved}/"}).partition("@")[2] == before.partition("@")[2]
    (moved / "nouns.txt").write_text("vase\ndog\n")
    assert identify(table | {"model": str(moved)}).partition("@")[2] != before.partition("@")[2]


def test_a_noun_that_it_does_not_know_is_refused(unet: Path) -> None:
    table = {"kind": "noun-unet", "model": str(unet)}
    check_nouns(table, NOUNS)
    with pytest.raises(UserError, match="segmenter: .*unet' knows no 'cat'; it knows dog, vase"):
        check_nouns(table, ["dog", "cat"])


def test_the_papers_suite_pins_its_segmenter_and_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    table = load_suite("dreambench").assets["segmenter"]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UserError) as caught:
        identify(table)
    command = "hf download CIDAS/clipseg-rd64-refined config.json preprocessor_config.json "
    assert command in str(caught.value) and f"--revision {table['revision']}" in str(caught.value)
    names = segmenters.CLIPSEG_LAYOUT.own
    for name in names:
        (tmp_path / name).write_bytes(b"of another commit")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, name, **__: str(tmp_path / name)
    )
    with pytest.raises(UserError, match="model.safetensors has SHA-256 .*, and sha256 is d00ca85d"):
        identify(table)


def spoil_weights(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path)


def spoil_configuration(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [8, 16]}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "lacks 1 weights, conv_in.weight among them"),
        (spoil_configuration, "assets.segmenter: cannot load"),
        (lambda folder: (folder / "nouns.txt").write_text("dog\n"), "has 2 classes and 1 nouns"),
        (
            lambda folder: (folder / "nouns.txt").write_bytes(b"\xff\xfe"),
            "nouns.txt cannot be read",
        ),
        (lambda folder: (folder / "nouns.txt").unlink(), "unet has no nouns.txt"),
    ],
)
def test_a_broken_segmenter_is_named(unet: Path, spoil, message: str) -> None:
    spoil(unet)
    table = {"kind": "noun-unet", "model": str(unet)}
    with pytest.raises(UserError, match=message):
        kind_of(table).load(table, "cpu")


def test_bad_tables_are_named() -> None:
    with pytest.raises(UserError, match="segmenter.kind is missing; known: clipseg, noun-unet"):
        identify({"model": "pocket"})
    with pytest.raises(UserError, match="assets.segmenter.kind: unknown asset 'sam'"):
        identify({"kind": "sam"})
    with pytest.raises(UserError, match="segmenter.colour is unknown; the keys are kind, model"):
        identify({"kind": "clipseg", "model": "a", "colour": 1})
    with pytest.raises(UserError, match="assets.segmenter.hub is missing"):
        identify({"kind": "clipseg", "model": "pocket"})
    with pytest.raises(UserError, match="kind is 'clipseg', whose role is 'segmenter'; .*: none"):
        assets.identify("painter", {"kind": "clipseg", "model": "pocket"})
