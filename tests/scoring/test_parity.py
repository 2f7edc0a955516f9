"""The paper's encoders at their true size against routes nobody here wrote.

Random weights, loaded by our loader and by another library. The input is real photographs where
DREAMBENCH_DATA names a copy of the DreamBooth data set, else drawn pictures of odd sizes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision import models, transforms

from benchmark.api import UserError
from benchmark.config.protocol import load_protocol
from benchmark.data.images import read_image
from benchmark.models.assets.asset_files import Source
from benchmark.scoring import encoder_loading as loader
from benchmark.scoring.encoder_files import ALEXNET
from benchmark.scoring.encoder_tables import ClipTable, TimmTable, parsed
from benchmark.scoring.encoders import ClipEncoder, LpipsEncoder, Preprocessing, TimmEncoder
from benchmark.scoring.features import load_encoders
from tests.reference import metrics as reference

CPU = torch.device("cpu")
TEXTS = ["a dog in the snow", "a backpack with the Eiffel Tower in the background", "a"]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return photographs()


def photographs() -> list[np.ndarray]:
    """Three, if there are any here, else pictures of odd sizes: uint8 (height, width, 3)."""
    data = os.environ.get("DREAMBENCH_DATA")
    if data:
        found = sorted(Path(data).rglob("dog*/0[01].jpg"))[:2] + sorted(
            Path(data).rglob("vase/00.jpg")
        )
        assert len(found) == 3, f"DREAMBENCH_DATA={data} holds no photographs"
        return [read_image(path) for path in found]
    return [drawn(size, seed) for seed, size in enumerate([(301, 260), (233, 400), (512, 512)])]


def drawn(size: tuple[int, int], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    picture = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize(size)
    for _ in range(20):
        x, y = random.integers(0, size[0]), random.integers(0, size[1])
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        ImageDraw.Draw(picture).ellipse([x, y, x + size[0] // 5, y + size[1] // 5], fill=colour)
    return np.asarray(picture)


def torchvisions(images: list[np.ndarray], table: dict[str, Any]) -> Tensor:
    """The preprocessing as evaluation scripts of the field write it."""
    transform = transforms.Compose(
        [
            transforms.Resize(table["resize"], interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(table["crop"]),
            transforms.ToTensor(),
            transforms.Normalize(table["mean"], table["std"]),
        ]
    )
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def unit(rows: Tensor | np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cosines(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> np.ndarray:
    return (unit(a) * unit(b)).sum(axis=1)


def randomised(model: Any) -> Any:
    """Every weight random, also those that libraries begin at 0 or 1: nothing is left unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = bool("norm" in name.lower() and name.endswith("weight"))
            parameter.copy_(noise * (0.2 if scale else 0.04) + float(scale))
    return model.eval()


# --- DINO


def from_vit(state: dict[str, Tensor], *, scaled: bool) -> dict[str, Tensor]:
    """transformers' ViT or DINOv2 under timm's names."""
    renamed = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm.": "norm.",
        "encoder.layer.": "blocks.",
        "layers.": "blocks.",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "attention.o_proj": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
    }
    found: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {}
    for name, value in state.items():
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        for part in ("query", "key", "value", "q_proj", "k_proj", "v_proj"):
            if f".{part}." in name:
                block = name.split(".attention.")[0]
                parts.setdefault(f"{block}.attn.qkv.{name.rpartition('.')[2]}", []).append(value)
                break
        else:
            if "mask_token" not in name and "pooler" not in name:
                found[name] = value
    assert scaled == any("gamma" in name for name in found)
    return found | {name: torch.cat(values) for name, values in parts.items()}


def loaded(
    monkeypatch: pytest.MonkeyPatch, name: str, table: dict[str, Any], state: dict[str, Tensor]
) -> Any:
    """The encoder of a protocol's table as a run loads it, its weights' file being `state`."""
    monkeypatch.setattr(loader, "load_file", lambda _: dict(state))
    load, model = {
        "timm": (loader.load_timm, TimmTable),
        "open_clip": (loader.load_clip, ClipTable),
    }[table["kind"]]
    return load(name, parsed(name, table, model), Source(None, Path("weights")), "cpu")


@pytest.mark.more
@pytest.mark.parametrize(("protocol", "patch"), [("paper", 16), ("dreambench++", 8)])
def test_dino_equals_transformers_vit(
    images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, protocol: str, patch: int
) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    theirs = randomised(ViTModel(config, add_pooling_layer=False))
    table = load_protocol(protocol).encoders["dino"]
    ours = loaded(monkeypatch, "dino", table, from_vit(theirs.state_dict(), scaled=False))
    images = images[:2]
    with torch.no_grad():
        expected = theirs(torchvisions(images, table)).last_hidden_state[:, 0]
    found = ours.embeddings(images)
    assert cosines(found, expected).min() > 0.99999
    assert np.abs(cosines(found[:1], found[1:])) < 0.9999, (
        "images that all look alike prove nothing"
    )


@pytest.mark.more
def test_dinov2_equals_transformers_dinov2(
    images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        patch_size=14,
        image_size=518,
        layer_norm_eps=1e-6,
    )
    theirs = randomised(Dinov2Model(config))
    table = load_protocol("dreambench++").encoders["dinov2"]
    ours = loaded(monkeypatch, "dinov2", table, from_vit(theirs.state_dict(), scaled=True))
    with torch.no_grad():
        expected = theirs(torchvisions(images, table)).last_hidden_state[:, 0]
    assert cosines(ours.embeddings(images), expected).min() > 0.99999


def test_timms_own_crop_would_not_do(images: list[np.ndarray]) -> None:
    """What it is all about: with 248 instead of 256 the encoder sees another image."""
    table = load_protocol("paper").encoders["dino"]
    ours = Preprocessing(table["resize"], table["crop"], tuple(table["mean"]), tuple(table["std"]))
    assert (table["resize"], table["crop"]) == (256, 224)
    torch.testing.assert_close(ours(images), torchvisions(images, table), rtol=0, atol=1e-6)
    assert (ours(images) - torchvisions(images, {**table, "resize": 248})).abs().max() > 0.1


# --- CLIP


def from_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' CLIP under open_clip's names."""
    renamed = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm": "ln_final",
        "text_model.encoder.layers": "transformer.resblocks",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding": "visual.conv1",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "vision_model.encoder.layers": "visual.transformer.resblocks",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    found = {
        "text_projection": state.pop("text_projection.weight").T,
        "visual.proj": state.pop("visual_projection.weight").T,
    }
    parts: dict[str, list[Tensor]] = {}
    for name, value in state.items():
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        if name.endswith("position_ids"):
            continue
        block, _, part = name.partition(".self_attn.")
        if part:
            parts[f"{block}.attn.in_proj_{part.rpartition('.')[2]}"] = [
                state[key]
                for key in (
                    f"{_theirs(block)}.self_attn.{p}_proj.{part.rpartition('.')[2]}" for p in "qkv"
                )
            ]
        else:
            found[name] = value
    return found | {name: torch.cat(values) for name, values in parts.items()}


def _theirs(block: str) -> str:
    side = "vision_model" if block.startswith("visual.") else "text_model"
    return f"{side}.encoder.layers.{block.rpartition('.')[2]}"


@pytest.fixture(scope="module")
def clip() -> tuple[Any, dict[str, Tensor]]:
    """transformers' CLIP ViT-B/32 with random weights, and these under open_clip's names."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig()  # ViT-B/32, QuickGELU
    assert config.vision_config.hidden_act == config.text_config.hidden_act == "quick_gelu"
    # As OpenAI's: the text's embedding is read at the last token, whose id is the largest.
    config.text_config.eos_token_id = 49407
    model = randomised(CLIPModel(config))
    return model, from_clip(dict(model.state_dict()))


@pytest.mark.parametrize(
    "protocol",
    ["paper", "custom-diffusion", "dreambench++", "kosmos-g", "dsh", "break-a-scene-clipseg"],
)
def test_most_protocols_have_the_same_clip(protocol: str) -> None:
    assert load_protocol(protocol).encoders["clip"] == load_protocol("paper").encoders["clip"]


@pytest.mark.parametrize(
    ("protocol", "of"),
    [
        ("dsh", "dreambench++"),
        ("clip-l14", "paper"),
        ("xverse-clipseg", "paper"),
        ("break-a-scene-clipseg", "paper"),
    ],
)
def test_these_protocols_have_the_dino_of_another(protocol: str, of: str) -> None:
    table = dict(load_protocol(protocol).encoders["dino"])
    table.pop("view", None)
    assert table == load_protocol(of).encoders["dino"]


def test_clip_equals_transformers_clip(
    images: list[np.ndarray],
    clip: tuple[Any, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, state = clip
    table = load_protocol("paper").encoders["clip"]
    ours: ClipEncoder = loaded(monkeypatch, "clip", table, state)
    assert "QuickGELU" in {type(module).__name__ for module in ours.model.modules()}
    tokens = ours.tokenizer(TEXTS)
    with torch.no_grad():
        batch = torchvisions(images, table)
        image = theirs.visual_projection(theirs.vision_model(batch).pooler_output)
        text = theirs.text_projection(theirs.text_model(tokens).pooler_output)
    assert cosines(ours.embeddings(images), image).min() > 0.99999
    assert cosines(ours.text_embeddings(TEXTS), text).min() > 0.99999
    assert cosines(text[:1], text[1:2]) < 0.9999, "texts that all look alike prove nothing"


@pytest.mark.more
def test_another_activation_would_not_do(
    images: list[np.ndarray],
    clip: tuple[Any, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, state = clip
    table = load_protocol("paper").encoders["clip"]
    quick = loaded(monkeypatch, "clip", table, state)
    monkeypatch.setattr(loader, "_check_activation", lambda *_: None)
    usual = loaded(monkeypatch, "clip", {**table, "model": "ViT-B-32"}, state)
    assert cosines(quick.embeddings(images), usual.embeddings(images)).min() < 0.99999


# --- LPIPS


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's, with random weights."""
    path = tmp_path_factory.mktemp("alexnet") / ALEXNET
    network = randomised(models.alexnet())
    # Only the convolutions are read; the rest is 230 MB.
    torch.save({k: v for k, v in network.state_dict().items() if "features" in k}, path)
    return path


@pytest.mark.more
def test_lpips_equals_its_formula_in_plain_loops(images: list[np.ndarray], alexnet: Path) -> None:
    import torchmetrics.functional.image.lpips as published

    table = load_protocol("paper").encoders["lpips"]
    preprocessing = Preprocessing(64, 64, tuple(table["mean"]), tuple(table["std"]))
    linear_file = Path(published.__file__).parent / "lpips_models/alex.pth"
    encoder = LpipsEncoder(alexnet, linear_file, preprocessing, CPU)
    found = encoder.distances(images, [[0, 1], [2]])

    network = models.alexnet().features.eval()
    state = torch.load(alexnet, weights_only=True)
    network.load_state_dict({name.removeprefix("features."): v for name, v in state.items()})
    weights = torch.load(linear_file, map_location="cpu", weights_only=True)
    batch = torchvisions(images[:2], {**table, "resize": 64, "crop": 64})
    # Zhang et al. scale images by these numbers.
    layer = (batch - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor(
        [0.458, 0.448, 0.450]
    )[:, None, None]
    layers = []
    with torch.no_grad():
        for module in network:
            layer = module(layer)
            if isinstance(module, torch.nn.ReLU):
                layers.append(layer.clone().numpy())
    linear = [weights[f"lin{i}.model.1.weight"].flatten().numpy() for i in range(5)]
    expected = reference.lpips([x[0] for x in layers], [x[1] for x in layers], linear)
    assert found[0, 1] == found[1, 0] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.001
    assert not found[2].any()


def test_a_damaged_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / ALEXNET).write_bytes(b"damaged")
    table = load_protocol("paper").encoders["lpips"] | {"directory": str(tmp_path)}
    with pytest.raises(UserError, match=f"encoders.lpips: .*{ALEXNET} is damaged"):
        load_encoders({"lpips": table}, device="cpu")


# --- what an encoder must not depend on


@pytest.mark.more
def test_true_size_features_depend_on_neither_order_nor_batch(images: list[np.ndarray]) -> None:
    import timm

    model = randomised(timm.create_model("vit_small_patch16_224.dino", num_classes=0))
    table = load_protocol("paper").encoders["dino"]
    preprocessing = Preprocessing(256, 224, tuple(table["mean"]), tuple(table["std"]))
    encoder = TimmEncoder(model, preprocessing, CPU)
    together = encoder.embeddings(images)
    np.testing.assert_allclose(encoder.embeddings(images[::-1])[::-1], together, atol=1e-5)
    for i, image in enumerate(images):
        np.testing.assert_allclose(encoder.embeddings([image])[0], together[i], atol=1e-5)


def test_the_weights_file_is_read_as_it_lies_in_a_folder(
    images: list[np.ndarray], tmp_path: Path
) -> None:
    import timm
    from safetensors.torch import save_file

    model = randomised(timm.create_model("vit_small_patch16_224.dino", num_classes=0))
    (tmp_path / "vit_small_patch16_224.dino").mkdir()
    save_file(model.state_dict(), tmp_path / "vit_small_patch16_224.dino/model.safetensors")
    table = load_protocol("paper").encoders["dino"] | {"directory": str(tmp_path)}
    found = load_encoders({"dino": table}, device="cpu").embeddings("dino", images[:1])
    with torch.no_grad():
        expected = model(torchvisions(images[:1], table))
    assert cosines(found, expected).min() > 0.99999
