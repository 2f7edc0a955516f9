"""The random models of true size: their shapes, their warning label, and one run on them (slow)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from benchmark.api import Sampler
from benchmark.config.suite import load_suite
from benchmark.models.backbones.latent_stage import Moments
from benchmark.models.backbones.pixel_stage import PixelStage
from benchmark.models.families import families
from benchmark.models.files.checkpoints import Parts
from benchmark.models.files.identity import WORKER_BYTES, backbone_id, worker_memory
from benchmark.models.loading import Wanted, family_module
from benchmark.models.texts.text_reader import EncodedTexts
from benchmark.runs.machine import free_memory
from benchmark.runs.memory import gpu_memories
from benchmark.runs.plan import plan
from benchmark.runs.selection import method_names, unserved
from benchmark.scoring.encoder_tables import protocol_tables
from benchmark.scoring.kinds import identify
from benchmark.scoring.scorer import scoring_of
from tests import true_size
from tests.tiny_pipeline import FLUX_SCHEDULER, SD3_SCHEDULER

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


def save_subject(folder: Path) -> None:
    (folder / "cat").mkdir(parents=True)
    (folder / "subjects.toml").write_text('[cat]\nclass_noun = "cat"\nlive = true\n')
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "cat" / f"{i}.png")


@pytest.mark.slow  # writes 5 GB and draws with 860 million parameters: minutes
def test_they_are_written_and_run(tmp_path: Path) -> None:
    save_subject(tmp_path / "mine")
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


#: Of Stable Diffusion XL.
XL_PARAMETERS = 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840


#: Of Stable Diffusion 3.5 medium, its table of places apart.
SD3_PARAMETERS = {
    "transformer": 2_243_171_520,
    "vae": 83_819_683,
    "text_encoder": 123_650_304,
    "text_encoder_2": 694_659_840,
    "text_encoder_3": 4_762_310_656,
}
SD3_PLACES = 384 * 384 * 1536


@pytest.mark.slow  # makes 7.9 billion parameters that are not there
def test_a_3_of_true_size_takes_a_training_pass_in_fake_tensors() -> None:
    cuda = torch.device("cuda", 0)
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True):
        with cuda:
            modules = true_size.sd3_parts()
        counts = {n: sum(p.numel() for p in module.parameters()) for n, module in modules.items()}
        assert counts == SD3_PARAMETERS
        assert modules["transformer"].pos_embed.pos_embed.numel() == SD3_PLACES
        family = families()["stable_diffusion_3"]
        tokenizers, schedulers = true_size.sd3_tokenizers(), {"scheduler": SD3_SCHEDULER}
        parts = Parts(family, modules, tokenizers, schedulers, {})
        wanted = Wanted("sd3", "sd3@0", str(cuda), "fp32", Sampler("own"), None)
        backbone = family_module(family).build(parts, wanted)
        assert backbone.resolution == 1024
        [stage] = backbone.stages
        condition = backbone.encode(["a sks dog", "a dog"])
        assert condition.embeddings.shape == (2, 77 + 256, 4096)
        assert condition.pooled.shape == (2, 2048)
        clean = Moments(*(torch.zeros(2, 16, 128, 128, device=cuda) for _ in range(2)))
        losses = stage.loss(stage.draw(clean, 2, torch.Generator()), condition)
        assert losses.shape == (2,) and losses.device == cuda


#: Of FLUX.1 dev; schnell has no embedding of guidance.
FLUX_PARAMETERS = {
    "transformer": 11_901_408_320,
    "vae": 83_819_683,
    "text_encoder": 123_060_480,
    "text_encoder_2": 4_762_310_656,
}
GUIDANCE_EMBEDDING = 256 * 3072 + 3072 + 3072 * 3072 + 3072


@pytest.mark.slow  # makes 17 billion parameters that are not there
@pytest.mark.parametrize("name", ["flux", "flux_schnell"])
def test_a_flux_of_true_size_takes_a_training_pass_in_fake_tensors(name: str) -> None:
    cuda, dev = torch.device("cuda", 0), name == "flux"
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True):
        with cuda:
            modules = true_size.flux_parts(guidance_embeds=dev)
        counts = {n: sum(p.numel() for p in module.parameters()) for n, module in modules.items()}
        counts["transformer"] += 0 if dev else GUIDANCE_EMBEDDING
        assert counts == FLUX_PARAMETERS
        family = families()[name]
        tokenizers, schedulers = true_size.flux_tokenizers(), {"scheduler": FLUX_SCHEDULER}
        parts = Parts(family, modules, tokenizers, schedulers, {})
        wanted = Wanted("flux", "flux@0", str(cuda), "fp32", Sampler("own"), None)
        backbone = family_module(family).build(parts, wanted)
        assert backbone.resolution == 1024
        [stage] = backbone.stages
        condition = backbone.encode(["a doi dog", "a dog"])
        assert condition.embeddings.shape == (2, 512, 4096)
        assert condition.pooled.shape == (2, 768)
        clean = Moments(*(torch.zeros(2, 16, 128, 128, device=cuda) for _ in range(2)))
        losses = stage.loss(stage.draw(clean, 2, torch.Generator()), condition)
        assert losses.shape == (2,) and losses.device == cuda


@pytest.mark.slow  # 2.6 billion parameters on a CPU: minutes, 16 GB
def test_an_xl_of_true_size_draws_and_takes_a_training_pass() -> None:
    if (free_memory() or 0) < 17 * 10**9:
        pytest.skip("needs 17 GB of free memory")
    backbone = true_size.random_xl(512, Sampler("euler", 2, 1.0))
    [stage] = backbone.stages
    with torch.no_grad():
        condition = backbone.encode(["a sks dog"])
        assert condition.embeddings.shape == (1, 77, 2048) and condition.pooled.shape == (1, 1280)
        images = backbone.sample(condition, [1])
        assert images.shape == (1, 3, 512, 512) and images.std() > 0
        clean = stage.prepare(torch.rand(1, 3, 512, 512))
        loss = stage.loss(stage.draw(clean, 1, torch.Generator().manual_seed(0)), condition)
    assert loss.shape == (1,) and torch.isfinite(loss).all()


#: Of Stable unCLIP: Stable Diffusion 2.1's, two layers more in the U-Net, and OpenCLIP's ViT-H/14.
UNCLIP_PARAMETERS = {
    "unet": 865_910_724 + 2048 * 1280 + 1280 + 1280 * 1280 + 1280,
    "vae": 83_653_863,
    "text_encoder": 340_387_840,
    "image_encoder": 632_076_800,
    "image_normalizer": 2 * 1024,
}


def test_an_unclip_has_the_parameters_of_its_parts() -> None:
    with torch.device("meta"):
        parts = true_size.unclip_parts()
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert found == UNCLIP_PARAMETERS


def test_an_unclip_that_is_not_here_is_planned(tmp_path: Path) -> None:
    save_subject(tmp_path / "mine")
    suite = load_suite("dreambench").with_images(tmp_path / "mine").on("stable-unclip")
    assert suite.sampler.guidance == 10.0
    members = method_names(suite, ["zero-shot"])
    served = [name for name in members if name not in unserved(suite, members)]
    assert served == ["image-variation", "paste", "text2live"]
    jobs = plan(suite, ["image-variation"], controls=suite.controls).jobs
    assert {job.method for job in jobs} == {"image-variation", "real-images", "untuned"}
    ids = {job.fit.backbone.id for job in jobs if job.fit.backbone}
    assert ids == {"stable-unclip@e99f66a92bdc"}


@pytest.mark.slow  # hashes 4 GB
def test_an_unclip_of_true_size_is_planned_identified_and_its_memory_told(tmp_path: Path) -> None:
    save_subject(tmp_path / "mine")
    directory = tmp_path / "model"
    true_size.save_hollow_unclip(directory)
    suite = load_suite("dreambench").with_images(tmp_path / "mine")
    grid = plan(suite.on(str(directory)), ["image-variation", "untuned"])
    assert {job.fit.backbone.id for job in grid.jobs} == {backbone_id(str(directory))}
    numbers = sum(UNCLIP_PARAMETERS.values())
    assert worker_memory(str(directory)) == 16 * numbers + WORKER_BYTES
    [variation, untuned] = gpu_memories(grid, "auto")
    assert 0 <= variation.weights - 4 * numbers < 10**5, "buffers and schedules beside them"
    assert variation.resolution == 768
    aside = 4 * UNCLIP_PARAMETERS["text_encoder"]
    assert variation.drawing >= untuned.drawing > variation.weights - aside


#: Of DeepFloyd IF: its cards say 4.3 and 1.2 billion; the text encoder's file has 19 GB in float32.
IF_PARAMETERS = {
    "base/unet": 4_304_695_110,
    "super_resolution/unet": 1_239_434_310,
    "base/text_encoder": 4_762_310_656,
}


def test_a_cascade_has_the_parameters_that_its_cards_say() -> None:
    with torch.device("meta"):
        parts = true_size.cascade_parts()
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert found == IF_PARAMETERS


@pytest.mark.slow  # hashes 7 to 34 GB
@pytest.mark.parametrize(
    ("save", "name", "numbers"),
    [
        (true_size.save_hollow_xl, "dreambench-sdxl", XL_PARAMETERS),
        (true_size.save_hollow_sd3, "dreambench-sd35", sum(SD3_PARAMETERS.values()) + SD3_PLACES),
        (true_size.save_hollow_flux, "dreambench-flux", sum(FLUX_PARAMETERS.values())),
        (true_size.save_hollow_cascade, "dreambench-if", sum(IF_PARAMETERS.values())),
    ],
)
def test_a_model_of_true_size_is_planned(
    save: Callable[[Path], None], name: str, numbers: int, tmp_path: Path
) -> None:
    save_subject(tmp_path / "mine")
    directory = tmp_path / "model"
    save(directory)
    suite = load_suite(name).with_images(tmp_path / "mine").on(str(directory))
    grid = plan(suite, method_names(suite, ["all", "identifiers"]))
    ids = {job.fit.backbone.id for job in grid.jobs if job.fit.backbone}
    assert ids == {backbone_id(str(directory))}
    assert worker_memory(str(directory)) == 16 * numbers + WORKER_BYTES


@pytest.mark.slow  # 4.3 billion parameters, on a CPU: 18 GB
def test_a_first_stage_of_true_size_takes_a_training_pass() -> None:
    if (free_memory() or 0) < 19 * 10**9:
        pytest.skip("needs 19 GB of free memory")
    with torch.device("meta"):
        unet = true_size.cascade_parts()["base/unet"]
    true_size.drawn(unet.to_empty(device="cpu"))
    unet.eval().requires_grad_(False)
    stage = PixelStage("base", 64, unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2"), "fp32")
    with torch.no_grad():
        draw = stage.draw(stage.prepare(torch.rand(1, 3, 64, 64)), 1, torch.Generator())
        loss = stage.loss(draw, EncodedTexts(torch.randn(1, 77, 4096)))
    assert loss.shape == (1,) and torch.isfinite(loss).all()
