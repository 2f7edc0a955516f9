"""`benchmark speed` on a model of random weights: that it measures what it says, quickly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from benchmark.api import Request, UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.scoring import features as encoders
from benchmark.scoring.encoders import ClipModel, Preprocessing, TimmModel
from benchmark.studies import speed
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
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
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
            "methods": {"dreambooth": {"batch_size": 2, "train_text_encoder": True}},
        }
    )


@pytest.fixture
def tiny_encoders(monkeypatch) -> None:
    torch.manual_seed(0)
    preprocessing = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)
    cpu = torch.device("cpu")
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}

    def load(settings: dict[str, object], *, device: torch.device) -> encoders.Encoders:
        vit = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=0,
        )
        clip = open_clip.CLIP(8, vision, text)
        tokens = lambda texts: torch.ones(len(texts), 8, dtype=torch.long)  # noqa: E731
        return encoders.Encoders(
            dino=TimmModel(vit, preprocessing, cpu),
            clip=ClipModel(clip, tokens, preprocessing, cpu),
            dinov2=TimmModel(vit, preprocessing, cpu) if "dinov2" in settings else None,
            lpips=TimmModel(vit, preprocessing, cpu, [0, 1]) if "lpips" in settings else None,
        )

    monkeypatch.setattr(encoders, "load_encoders", load)


def test_every_part_is_measured_against_the_bare_modules(suite, tiny_encoders):
    threads = torch.get_num_threads()
    measured = speed.measure(suite, device="cpu", repetitions=1)
    assert list(zip(measured.what, measured.precision, strict=True)) == [
        ("training DreamBooth", "fp32"),
        ("sampling", "fp32"),
        ("scoring", "fp32"),
        ("training DreamBooth", "bf16"),
        ("sampling", "bf16"),
    ]
    assert (measured[["ours", "bare", "ratio"]] > 0).all(axis=None)
    assert torch.get_num_threads() == threads
    assert speed.speed_table(measured).count("\n") == 2 + len(measured)


@pytest.mark.parametrize(
    ("name", "passes"), [("paper", 3), ("custom-diffusion", 2), ("dreambench++", 3)]
)
def test_scoring_is_measured_with_the_encoders_of_any_protocol(
    suite, tiny_encoders, monkeypatch, name, passes
):
    suite = suite.under(name)
    few = suite.evaluation.model_copy(update={"images_per_prompt": 2, "prior_prompt_images": 2})
    suite = suite.model_copy(update={"evaluation": few})
    dataset = suite.data.load()
    (subject,) = dataset.subjects
    requests = [Request(prompt, 0, 0) for prompt in dataset.prompts_for(subject)]
    seen = []
    forward = speed._forward
    monkeypatch.setattr(speed, "_forward", lambda n, m: seen.append(n) or forward(n, m))
    backbone = SimpleNamespace(device=torch.device("cpu"), resolution=16)
    race = speed._scoring(suite, backbone, subject, requests)
    assert race.ours() > 0 and race.bare() > 0 and race.amount == 2 * len(requests) + 2
    assert len(seen) == passes


def test_a_missing_encoder_is_named_before_anything_is_measured(suite, tmp_path):
    with pytest.raises(UserError, match="encoders.dino: .*; encoders.clip: .* not here"):
        speed.measure(suite.under("custom-diffusion", encoders=tmp_path), device="cpu")


def test_the_ratio_is_the_median_over_neighbouring_measurements():
    ours, bare = iter([9.0, 2.0, 4.0, 1.0]), iter([9.0, 1.0, 3.0, 2.0])  # the first ones warm up
    race = speed.Race("training", "steps", 6, lambda: next(ours), lambda: next(bare))
    row = speed._row(race, "fp32", 3)
    assert row["ours"] == 6 / 2.0 and row["bare"] == 6 / 2.0
    assert row["ratio"] == 0.75  # of 1/2, 3/4 and 2/1
    table = speed.speed_table(pd.DataFrame([row]))
    assert "training, fp32" in table and "3.00 steps/s" in table and "0.750" in table
    assert "missed" in table
