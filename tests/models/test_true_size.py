"""The random models of true size: their shapes, their warning label, and one run on them (slow)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.config.suite import load_suite
from benchmark.models.identity import backbone_id, worker_memory
from benchmark.scoring.encoder_tables import protocol_tables
from benchmark.scoring.kinds import identify
from benchmark.scoring.scorer import scoring_of
from tests import true_size

#: Of Stable Diffusion 1.5, as published with it.
PARAMETERS = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}


def test_the_parts_are_of_stable_diffusions_size() -> None:
    with torch.device("meta"):
        found = {
            name: sum(parameter.numel() for parameter in make().parameters())
            for name, make in true_size.parts().items()
        }
    assert found == PARAMETERS


def test_every_score_says_that_its_weights_are_random(tmp_path: Path) -> None:
    protocol = true_size.random_protocol()
    suite = true_size.reduced_suite(tmp_path, protocol)
    (tmp_path / "suite.toml").write_text(suite.dump_toml())
    assert load_suite(str(tmp_path / "suite.toml")) == suite
    assert protocol.label == "random-weights-1"
    assert "mean nothing" in protocol.description and "mean nothing" in suite.description
    paper, mini = load_suite("dreambench-mini").protocol, load_suite("dreambench-mini")
    assert protocol.metrics == paper.metrics
    assert {k: v for k, v in protocol.encoders.items() if k != "lpips"} == {
        k: v for k, v in paper.encoders.items() if k != "lpips"
    }
    scored = scoring_of(protocol, directory=str(encoders_of_zeros(tmp_path)))
    assert scored.metrics.keys() == paper.metrics.keys(), "every metric has what it needs"
    # Nothing but sizes and counts differ from the suite that it stands for.
    assert suite.methods.keys() == mini.methods.keys()
    for name in mini.groups["all"]:
        small, whole = suite.settings(name), mini.settings(name)
        changed = {key for key, value in small.items() if value != whole[key]}
        assert changed <= {"steps", "prior_images", "prior_steps"}
        assert small.get("steps", 3) == 3


def encoders_of_zeros(folder: Path) -> Path:
    """Files where the encoders' weights lie, for looking them up."""
    for table in true_size.random_protocol().encoders.values():
        for file in ("model.safetensors", "open_clip_model.safetensors"):
            place = folder / "encoders" / table["hub"].rpartition("/")[2] / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"0")
    return folder / "encoders"


def python_m(*arguments: str, cwd: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, env=environment, check=True)


@pytest.mark.slow  # writes 5 GB and draws with 860 million parameters: minutes
def test_they_are_written_and_run(tmp_path: Path) -> None:
    (tmp_path / "mine" / "cat").mkdir(parents=True)
    (tmp_path / "mine" / "subjects.toml").write_text('[cat]\nclass_noun = "cat"\nlive = true\n')
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / "cat" / f"{i}.png")
    python_m("tests.true_size", "true-size", cwd=tmp_path)
    python_m(
        *("benchmark", "run", "--suite", "true-size/suite.toml", "--data", "mine", "--out", "run"),
        *("--methods", "untuned,textual-inversion", "--no-controls"),
        cwd=tmp_path,
    )
    model = str(tmp_path / "true-size" / true_size.PIPELINE)
    assert backbone_id(model).startswith("stable-diffusion@")
    assert worker_memory(model) > 16 * sum(PARAMETERS.values())
    suite = load_suite(str(tmp_path / "run" / "suite.toml"))
    identify(protocol_tables(suite.protocol, str(tmp_path / "true-size" / "encoders")))
    with (tmp_path / "run" / "tables" / "cost.csv").open(newline="") as file:
        costs = {row["method"]: row for row in csv.DictReader(file)}
    assert float(costs["textual-inversion"]["steps_per_s"]) > 0
    for row in costs.values():
        assert float(row["images_per_s"]) > 0
        assert float(row["left_mb"]) < 60
        assert float(row["peak_memory_mb"]) > 4000
