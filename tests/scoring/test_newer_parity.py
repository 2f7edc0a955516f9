"""Encoders of protocols after the paper's, and views, at their true size against other libraries'.

As in `test_parity`: random weights, photographs where DREAMBENCH_DATA names a copy of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmark.api import Prompt, Request, Subject
from benchmark.config.protocol import load_protocol
from benchmark.scoring.chosen_metrics import chosen_metrics
from benchmark.scoring.encoder_tables import completed
from benchmark.scoring.features import Encoders
from benchmark.scoring.scorer import Scorer
from benchmark.scoring.views import viewers_of
from benchmark.store.records import Scoring
from tests.reference import isolation
from tests.scoring.test_parity import (
    TEXTS,
    cosines,
    from_clip,
    from_vit,
    loaded,
    photographs,
    randomised,
    torchvisions,
)


def table_of(protocol: str, encoder: str) -> dict[str, Any]:
    return completed(load_protocol(protocol).encoders)[encoder]


def check_embeddings(ours: Any, expected: Tensor, images: list[np.ndarray]) -> None:
    found = ours.embeddings(images)
    assert cosines(found, expected).min() > 0.9999
    assert np.abs(cosines(found[:1], found[1:])).max() < 0.9995, "images that look alike"


# --- DINOv2 and DINOv3


def dinov2(size: str) -> Any:
    from transformers import Dinov2Config, Dinov2Model

    width, layers, heads = {"base": (768, 12, 12), "large": (1024, 24, 16)}[size]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=14,
        image_size=518,
        layer_norm_eps=1e-6,
    )
    return randomised(Dinov2Model(config))


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "size"), [("peft", "base"), ("dsh", "large")])
def test_larger_dinov2_equals_transformers(
    monkeypatch: pytest.MonkeyPatch, protocol: str, size: str
) -> None:
    images, theirs = photographs()[:2], dinov2(size)
    table = table_of(protocol, "dinov2")
    ours = loaded(monkeypatch, "dinov2", table, from_vit(theirs.state_dict(), scaled=True))
    with torch.no_grad():
        expected = theirs(torchvisions(images, table)).last_hidden_state[:, 0]
    check_embeddings(ours, expected, images)


def test_one_encoder_may_stand_in_several_protocols() -> None:
    assert table_of("peft", "dinov2") == table_of("newer-encoders", "dinov2")
    assert table_of("clip-l14", "clip") == table_of("newer-encoders", "clip")
    assert table_of("clip-l14", "clip") == table_of("dsh", "clip_l")


def from_dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' DINOv3 under timm's names."""
    renamed = {
        "embeddings.cls_token": "cls_token",
        "embeddings.register_tokens": "reg_token",
        "embeddings.patch_embeddings": "patch_embed.proj",
        "model.layer.": "blocks.",
        "attention.o_proj": "attn.proj",
        "layer_scale1.lambda1": "gamma_1",
        "layer_scale2.lambda1": "gamma_2",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
    }
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        block, _, part = name.partition(".attention.")
        if part in ("k_proj.weight", "v_proj.weight"):
            continue
        if part == "q_proj.weight":
            value = torch.cat([state[f"{block}.attention.{p}_proj.weight"] for p in "qkv"])
            name = f"{block}.attn.qkv.weight"
        if name.endswith(("q_proj.bias", "v_proj.bias", "mask_token")):
            continue
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        found[name] = value
    return found


@pytest.mark.more
def test_dinov3_equals_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        patch_size=16,
        num_register_tokens=4,
    )
    theirs = randomised(DINOv3ViTModel(config))
    for name, parameter in theirs.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")):  # 0 in Meta's weights of this size
            parameter.data.zero_()
    images, table = photographs()[:2], table_of("newer-encoders", "dinov3")
    ours = loaded(monkeypatch, "dinov3", table, from_dinov3(theirs.state_dict()))
    with torch.no_grad():
        expected = theirs(torchvisions(images, table)).pooler_output
    check_embeddings(ours, expected, images)


# --- SigLIP 2 and CLIP ViT-L/14


def from_siglip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' SigLIP vision tower under timm's names."""
    renamed = {
        "embeddings.patch_embedding": "patch_embed.proj",
        "encoder.layers.": "blocks.",
        "layer_norm": "norm",
        "self_attn.out_proj": "attn.proj",
        "post_layernorm": "norm",
        "head.attention.out_proj": "attn_pool.proj",
        "head.layernorm": "attn_pool.norm",
        "head.mlp": "attn_pool.mlp",
    }
    found = {
        "pos_embed": state.pop("embeddings.position_embedding.weight")[None],
        "attn_pool.latent": state.pop("head.probe"),
    }
    for kind in ("weight", "bias"):
        joined = state.pop(f"head.attention.in_proj_{kind}")
        found[f"attn_pool.q.{kind}"], found[f"attn_pool.kv.{kind}"] = joined.split(
            [len(joined) // 3, 2 * len(joined) // 3]
        )
    for name, value in state.items():
        block, _, part = name.partition(".self_attn.")
        if part[:6] in ("k_proj", "v_proj"):
            continue
        if part.startswith("q_proj"):
            kind = part.partition(".")[2]
            value = torch.cat([state[f"{block}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
            name = f"{block}.attn.qkv.{kind}"
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        found[name] = value
    return found


@pytest.mark.slow
def test_siglip2_equals_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=1152,
        num_hidden_layers=27,
        num_attention_heads=16,
        intermediate_size=4304,
        patch_size=14,
        image_size=224,
    )
    theirs = randomised(SiglipVisionModel(config))
    images, table = photographs()[:2], table_of("newer-encoders", "siglip2")
    ours = loaded(monkeypatch, "siglip2", table, from_siglip(dict(theirs.state_dict())))
    with torch.no_grad():
        expected = theirs(torchvisions(images, table)).pooler_output
    check_embeddings(ours, expected, images)


@pytest.mark.slow
def test_clip_l14_equals_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        eos_token_id=49407,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=768
    )
    theirs = randomised(CLIPModel(config))
    images, table = photographs()[:2], table_of("clip-l14", "clip")
    ours = loaded(monkeypatch, "clip", table, from_clip(dict(theirs.state_dict())))
    with torch.no_grad():
        batch = torchvisions(images, table)
        image = theirs.visual_projection(theirs.vision_model(batch).pooler_output)
        tokens = ours.tokenizer(TEXTS)
        read = theirs.text_projection(theirs.text_model(tokens).pooler_output)
    check_embeddings(ours, image, images)
    assert cosines(ours.text_embeddings(TEXTS), read).min() > 0.9999


# --- protocols with a view, from images to scores


class Bright:
    """In the segmenter's place: finds what is brighter than the image's mean."""

    def mask(self, image: np.ndarray, noun: str) -> np.ndarray:
        return bright(image)


def bright(image: np.ndarray) -> np.ndarray:
    grey = image.mean(axis=2)
    mask: np.ndarray = grey > grey.mean() + 10
    mask[:9] = mask[-30:] = mask[:, :20] = False
    return mask


@pytest.mark.more
@pytest.mark.parametrize("name", ["xverse-clipseg", "break-a-scene-clipseg"])
def test_a_protocol_with_a_view_equals_a_script_written_apart(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    theirs = randomised(ViTModel(config, add_pooling_layer=False))
    protocol, table = load_protocol(name), table_of(name, "dino")
    ours = loaded(monkeypatch, "dino", table, from_vit(theirs.state_dict(), scaled=False))
    *references, drawn = photographs()
    paths = []
    for i, image in enumerate(references):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    viewers = {k: replace(v, finder=Bright()) for k, v in viewers_of(protocol).items()}
    metrics = {"dino": chosen_metrics(protocol)["dino"]}
    scoring = Scoring(protocol.label, {}, {}, {})
    scorer = Scorer(protocol, scoring, metrics, Encoders({"dino": ours}), viewers)
    request = Request(Prompt("a {} in the snow", "recontextualization"), 0, 0)
    subject = Subject("vase", "vase", False, tuple(paths), "digest")
    (row,) = scorer.score(("mine", "vase", 0), subject, [request], [drawn])

    if name.startswith("xverse"):
        shown = [isolation.cut_out(drawn, bright(drawn), "white"), references[0]]
        factor = 100
    else:
        shown = [isolation.masked(i, bright(i), "black") for i in (drawn, *references)]
        factor = 1
    with torch.no_grad():
        tokens = theirs(torchvisions(shown, table)).last_hidden_state[:, 0]
    similar = torch.nn.functional.cosine_similarity(tokens[:1], tokens[1:])
    assert row.value == pytest.approx(factor * float(similar.mean()), rel=1e-3)
    assert row.reason == ""
    with torch.no_grad():
        whole = theirs(torchvisions([drawn, *references], table)).last_hidden_state[:, 0]
    unseen = torch.nn.functional.cosine_similarity(whole[:1], whole[1 : len(shown)])
    assert abs(row.value / factor - float(unseen.mean())) > 1e-2, "a view that shows all"
