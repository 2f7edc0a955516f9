"""`benchmark speed` on a model of random weights: that it measures what it says, quickly."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from benchmark.api import Request, Sampler, UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.models import precision
from benchmark.models.lending.loan import Loan
from benchmark.scoring import scorer
from benchmark.scoring.encoders import (
    ClipEncoder,
    IntermediateEncoder,
    Preprocessing,
    TimmEncoder,
)
from benchmark.studies import flops, races, speed
from benchmark.studies.bare_modules import recorded
from tests.tiny_pipeline import save_tiny_pipeline

PROMPTS = """
[live]
recontextualization = ["a {} in the snow", "a photo of a {}"]
[object]
recontextualization = ["a {} in the snow"]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    folder = tmp_path / "dataset" / "dog-biscuit"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(7).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "00.png")
    digest = hashlib.sha256((folder / "00.png").read_bytes()).hexdigest()
    (folder.parent / "prompts.toml").write_text(PROMPTS)
    (folder.parent / "manifest.toml").write_text(
        'name = "tiny"\n[subjects.dog-biscuit]\nclass_noun = "dog"\nlive = true\n'
        f'[subjects.dog-biscuit.files]\n"00.png" = "{digest}"\n'
    )
    pocket = load_suite("pocket")
    model = save_tiny_pipeline(tmp_path / "tiny")
    return pocket.model_copy(
        update={
            "data": pocket.data.model_copy(
                update={"dataset": str(folder.parent), "split": None, "subjects": []}
            ),
            "backbone": pocket.backbone.model_copy(update={"model": str(model)}),
            "sampler": pocket.sampler.model_copy(update={"steps": 2}),
            "methods": {
                "dreambooth": {
                    "batch_size": 2,
                    "prior_images": 4,
                    "train_text_encoder": True,
                }
            },
        }
    )


class Tokens:
    """A tokenizer to which all texts are alike."""

    context_length = 8

    def __call__(self, texts: list[str], context_length: int = context_length) -> torch.Tensor:
        return torch.ones(len(texts), context_length, dtype=torch.long)


@pytest.fixture
def tiny_encoders(monkeypatch) -> None:
    """Encoders of random weights in place of a protocol's, whose files need not be here."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)
    cpu = torch.device("cpu")
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}

    def vit() -> torch.nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=0,
        )

    def encoder(name: str) -> object:
        if name == "clip":
            return ClipEncoder(open_clip.CLIP(8, vision, text), Tokens(), preprocessing, cpu)
        if name == "lpips":
            return IntermediateEncoder(vit(), preprocessing, cpu, [0, 1])
        return TimmEncoder(vit(), preprocessing, cpu)

    def load(tables: dict[str, object], _device: str) -> dict[str, object]:
        return {name: encoder(name) for name in sorted(tables)}

    monkeypatch.setattr(scorer, "OnDemand", load)
    monkeypatch.setattr(scorer, "identify", lambda _tables: {})


@pytest.mark.slow
def test_everything_is_measured_against_the_bare_modules_and_these_against_a_product(
    suite, tiny_encoders, monkeypatch
):
    monkeypatch.setattr(precision, "resolve_precision", lambda *_: "bf16")
    threads = torch.get_num_threads()
    measured = speed.measure(suite, device="cpu", repetitions=1)
    assert list(zip(measured.races.what, measured.races.precision, strict=True)) == [
        ("training dreambooth", "fp32"),
        ("sampling", "fp32"),
        ("scoring", "fp32"),
        ("training dreambooth", "bf16"),
        ("sampling", "bf16"),
    ]
    assert (measured.races[["ours", "bare", "ratio"]] > 0).all(axis=None)
    assert torch.get_num_threads() == threads
    parts = ["training step", "sampling", "- unet", "- vae"]
    encoders = ["scoring", "- clip", "- dino", "- lpips"]
    scored = 3 * suite.evaluation.images_per_prompt - 2 + suite.evaluation.prior_prompt_images
    for name, rows, images in [
        ("fp32", parts + encoders, [4, 8, 8, 8] + [scored] * 4),
        ("bf16", parts, [4, 8, 8, 8]),
    ]:
        found = measured.parts[measured.parts.precision == name]
        assert list(found.what) == [*rows, "matrix product"]
        assert list(found.images)[:-1] == images
        assert (found[["seconds", "gflop", "gflop_s", "peak"]] > 0).all(axis=None)
        sampling = found.set_index("what").gflop
        assert sampling["sampling"] == pytest.approx(sampling["- unet"] + sampling["- vae"])
    text = speed.speed_text(measured)
    assert "| fp32 " in text and "| bf16 " in text and "emulates" not in text


def test_a_device_that_emulates_bf16_only_multiplies_matrices_in_it(suite, monkeypatch):
    monkeypatch.setattr(precision, "resolve_precision", lambda *_: "fp32")
    reason = speed._without_bf16(suite, "cpu")
    assert re.fullmatch(r"this device emulates it, a matrix product at [\d.]+ GFLOP/s", reason)


def test_a_backbone_of_another_kind_is_counted_as_by_hand(suite, tiny_encoders, monkeypatch):
    """A perceptron of two layers on 16 x 16 pixels that knows no bf16 (docs/write-a-backbone)."""
    monkeypatch.setattr(precision, "resolve_precision", lambda *_: "bf16")
    choice = {"kind": "tests.plugin_package.outside.pixels:PIXELS", "model": "mlp"}
    suite = suite.model_copy(
        update={
            "backbone": suite.backbone.model_copy(update=choice),
            "sampler": suite.sampler.model_copy(update={"scheduler": "euler", "steps": 3}),
            "methods": {"dreambooth": {"batch_size": 2, "prior_scheduler": "euler"}},
        }
    )
    measured = speed.measure(suite, device="cpu", repetitions=1)
    assert "'mlp' computes in fp32, not bf16" in speed.speed_text(measured)
    rows = measured.parts.set_index("what")
    pixels, text, hidden = 3 * 16 * 16, 32, 128
    enter, leave = 2 * (pixels + text + 1) * hidden, 2 * hidden * pixels
    # Backward: gradients of both weights, and of the hidden layer, but not of what enters.
    step = (enter + leave) + (enter + leave) + leave
    assert rows.images["training step"] == 4, "two of the subject, two of the prior"
    assert round(rows.gflop["training step"] * 1e9) == 4 * step
    assert rows.images["sampling"] == 8
    assert round(rows.gflop["sampling"] * 1e9) == 8 * 3 * (enter + leave)
    assert "- denoiser" not in rows.index, "there is no other part"


def test_the_bare_step_is_the_methods_forward_passes_and_trains_what_it_trains(suite):
    backbone = suite.backbone.load_kind().load(suite.backbone.model, sampler=Sampler())
    (subject,) = suite.data.load().subjects
    for encoder_too in (False, True):
        method = replace(suite.method("dreambooth"), train_text_encoder=encoder_too)
        before = {k: v.clone() for k, v in state(backbone).items()}
        loan = Loan(backbone)
        step = races._bare_step("dreambooth", method, backbone, subject)
        assert loan.settle(thorough=True) == [], "recording leaves nothing"
        step = races._bare_step("dreambooth", method, backbone, subject)
        with recorded(backbone.modules().values()) as calls:
            step()
        rows = [len(call.arguments[0]) for call in calls if call.module is backbone.pipeline.unet]
        assert rows == [4], "two instance images and two prior images"
        called = {type(call.module).__name__ for call in calls}
        assert called == {"UNet2DConditionModel"} | ({"CLIPTextModel"} if encoder_too else set())
        after = state(backbone)
        moved = {k.partition(".")[0] for k in before if not torch.equal(before[k], after[k])}
        assert moved == {"unet"} | ({"text_encoder"} if encoder_too else set())
        loan.settle(thorough=False)


def test_a_method_that_trains_no_module_is_refused(suite, tiny_encoders):
    with pytest.raises(UserError, match="'textual-inversion' trains no module"):
        speed.measure(suite, "textual-inversion", device="cpu", repetitions=1)


def state(backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, module in backbone.modules().items()
        for key, tensor in module.state_dict().items()
    }


def test_sampling_is_measured_against_its_own_passes(suite, monkeypatch):
    backbone = suite.backbone.load_kind().load(suite.backbone.model, sampler=Sampler(steps=3))
    dataset = suite.data.load()
    (subject,) = dataset.subjects
    requests = [Request(prompt, 0, 0) for prompt in dataset.prompts_for(subject)]
    race = races.sampling_race(backbone, subject, requests)
    with recorded(backbone.modules().values()) as calls:
        [part.seconds() for part in race.bare]
    names = [type(call.module).__name__ for call in calls]
    assert names == ["UNet2DConditionModel"] * 3 + ["Conv2d", "Decoder"]
    assert [len(call.arguments[0]) for call in calls] == [2 * race.amount] * 3 + [race.amount] * 2


@pytest.mark.parametrize(
    ("name", "encoders"), [("paper", 3), ("custom-diffusion", 2), ("dreambench++", 3)]
)
def test_scoring_is_measured_with_the_encoders_of_any_protocol(
    suite, tiny_encoders, monkeypatch, name, encoders
):
    suite = suite.under(name)
    few = suite.evaluation.model_copy(update={"images_per_prompt": 2, "prior_prompt_images": 2})
    suite = suite.model_copy(update={"evaluation": few})
    dataset = suite.data.load()
    (subject,) = dataset.subjects
    requests = [Request(prompt, 0, 0) for prompt in dataset.prompts_for(subject)]
    loaded = []
    load = scorer.OnDemand
    monkeypatch.setattr(scorer, "OnDemand", lambda *a: loaded.append(load(*a)) or loaded[-1])
    backbone = SimpleNamespace(device=torch.device("cpu"), resolution=16)
    race = races.scoring_race(suite, backbone, subject, requests)
    assert race.ours() > 0 and race.amount == 2 * len(requests) + 2
    models = {key: encoder.model for key, encoder in loaded[0].items()}
    assert len(models) == encoders
    with recorded(models.values()) as calls:
        [part.seconds() for part in race.bare]
    for key, model in models.items():
        seen = [call for call in calls if call.module in set(model.modules())]
        assert seen, key
        if key != "lpips":
            assert len(seen) == 1 and len(seen[0].arguments[0]) == race.amount, "no texts, no real"


def test_a_missing_encoder_is_named_before_anything_is_measured(suite, tmp_path):
    with pytest.raises(UserError, match="encoders.dino: .*; encoders.clip: .* not here"):
        speed.measure(suite.under("custom-diffusion", encoders=tmp_path), device="cpu")


def test_outermost_calls_are_recorded_and_can_be_done_again():
    inner, outer = torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2))
    inputs = torch.rand(3, 2)
    with recorded([inner, outer]) as calls:
        first = outer(inner(inputs))
        outer[0](inputs)  # a part that is called by itself
    outer(inputs)
    assert [call.module for call in calls] == [inner, outer, outer[0]]
    assert torch.equal(calls[1].tensor(), first)
    with recorded([inner], when=torch.is_grad_enabled) as calls:
        with torch.no_grad():
            inner(inputs)
        inner(inputs)
        with pytest.raises(RuntimeError):
            inner(torch.rand(3, 9))
        inner(inputs)
    assert len(calls) == 3, "a call that failed does not hide the next"
    assert not inner._forward_hooks and not inner._forward_pre_hooks


def test_ratios_and_shares_are_medians_over_neighbouring_measurements(monkeypatch):
    # The first of each warms up.
    ours, bare = iter([9.0, 2.0, 4.0, 1.0]), iter([9.0, 1.0, 3.0, 2.0])
    products = iter([9.0, 1.0, 1.0, 4.0])
    monkeypatch.setattr(flops, "product", lambda *_: lambda: next(products))
    monkeypatch.setattr(flops, "product_size", lambda _: 100)  # 2e6 operations
    part = races.Part("step", 5, 1_000_000, 2, lambda: next(bare))
    race = races.Race("training", "steps", 6, lambda: next(ours), [part])
    found, parts = map(pd.DataFrame, speed._rows([race], torch.device("cpu"), "fp32", 3))
    assert found.ours[0] == 6 / 2.0 and found.bare[0] == 6 / 2.0
    assert found.ratio[0] == 0.75  # of 1/2, 3/4 and 2/1
    table = speed.speed_table(found)
    assert "training, fp32" in table and "3.00 steps/s" in table and "0.750" in table
    assert "missed" in table
    step, product = parts.to_dict("records")
    assert step["seconds"] == 1.0  # of 1/2, 3/2 and 2/2
    assert step["gflop"] == step["gflop_s"] == 1e-3
    assert step["peak"] == 1.0  # of 1 s in 1/2 s, 1 s in 3/2 s and 4 s in 2/2 s, each by a half
    assert product["seconds"] == 1.0 and product["gflop_s"] == 2e-3
    (row,) = [line for line in speed.parts_table("fp32", parts).splitlines() if "step" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["step", "5", "1000", "5.00", "0.000200", "0.00100", "100 %"]


def test_the_text_fits_a_narrow_terminal():
    """With the largest numbers of a model of true size on a slow processor, or of a fast one."""
    ours = {"unit": "images", "ours": 987.6, "bare": 987.6, "ratio": 0.999}
    named = [("training dreambooth", "bf16"), ("sampling", "fp32")]
    found = pd.DataFrame([{"what": what, "precision": name, **ours} for what, name in named])
    rates = {"images": 8, "gflop": 4e6, "gflop_s": 654321.0, "peak": 1.07}
    named = [("training step", 123.456), ("- unet", 1e-4), ("matrix product", 12.3)]
    parts = [{"what": what, "precision": "fp32", "seconds": s, **rates} for what, s in named]
    text = speed.speed_text(speed.Measured(found, pd.DataFrame(parts), "it has none"))
    assert max(map(len, text.splitlines())) <= 80


def test_images_that_cannot_be_seen_are_no_number():
    denoiser = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with recorded([denoiser]) as calls:
        denoiser(torch.rand(3, 2))
        denoiser(input=torch.rand(4, 2))
    assert races._images(calls, [denoiser]) == 7
    with recorded([denoiser]) as calls:
        denoiser[0](torch.rand(3, 2))
    assert races._images(calls, [denoiser]) is None and races._images([], [denoiser]) is None
    unseen = {"images": math.nan, "seconds": 0.5, "gflop": 1.0, "gflop_s": 2.0, "peak": 0.25}
    table = speed.parts_table("fp32", pd.DataFrame([{"what": "step", **unseen}]))
    assert re.search(r"\| step +\| +- \| +500 \| +- \| +- \| +2\.00 \| 25 % \|", table)
