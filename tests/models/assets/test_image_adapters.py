"""Images drawn beside images are those of diffusers' own pipelines with an IP-Adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmark.api import IMAGE_PROMPT, Sampler, UserError
from benchmark.config.suite import load_suite
from benchmark.models.assets import assets
from benchmark.models.assets.image_adapters import IP_ADAPTER
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import hollow_backbone, load_backbone
from benchmark.models.memory.live_memory import LiveMemory, no_numbers
from tests.reference import finetuning
from tests.tiny_adapter import SIDE, WEIGHTS, save_tiny_adapter
from tests.tiny_pipeline import save_tiny_flux, save_tiny_pipeline, save_tiny_sd3, save_tiny_xl

TEXTS, SEEDS = ["a dog", "a cat", "a dog"], [3, 3, 4]
CASES = {
    "one": (save_tiny_pipeline, False),
    "plus": (save_tiny_pipeline, True),
    "xl": (save_tiny_xl, False),
    "xl plus": (save_tiny_xl, True),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    save, plus = CASES[request.param]
    folder = tmp_path_factory.mktemp("models")
    directory = save(folder / "tiny")
    return directory, save_tiny_adapter(folder / "adapter", directory, plus=plus)


@pytest.fixture(scope="module")
def backbone(case) -> LatentDiffusion:
    return load_backbone(str(case[0]), precision="fp32", device="cpu", resolution=16)


@pytest.fixture
def xl(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    directory = save_tiny_xl(tmp_path / "tiny")
    return directory, save_tiny_adapter(tmp_path / "adapter", directory)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


def tensors(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.tensor(np.array(p)).permute(2, 0, 1) / 255 for p in pictures])


def prompted(table: dict[str, Any], pictures: list[Image.Image], scale: float):
    return IP_ADAPTER.load(table, "cpu").prompt(tensors(pictures), scale)


def own_pipeline(directory: Path, table: dict[str, Any]) -> Any:
    """diffusers' pipeline, its adapter read by diffusers' own loader."""
    pipe = finetuning.pipeline(directory)
    pipe.load_ip_adapter(
        table["model"],
        subfolder="models",
        weight_name=Path(WEIGHTS).name,
        image_encoder_folder="image_encoder",
        low_cpu_mem_usage=False,
    )
    pipe.image_encoder.float()
    return pipe


@pytest.mark.parametrize(
    ("scale", "count", "guidance"), [(0.5, 1, 3.0), (1.0, 2, 3.0), (1.0, 1, 1.0)]
)
def test_they_are(case, backbone, pictures, scale, count, guidance, monkeypatch) -> None:
    pipe, sampler = own_pipeline(*case), Sampler("own", 3, guidance)
    pipe.set_ip_adapter_scale(scale)
    expected = pipe(
        TEXTS,
        ip_adapter_image=[pictures[:count]],
        num_inference_steps=3,
        guidance_scale=guidance,
        height=16,
        width=16,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    condition, prompt = backbone.encode(TEXTS), prompted(case[1], pictures[:count], scale)
    plain = backbone.sample(condition, SEEDS, sampler=sampler)
    assert (plain - expected).abs().max() > 0.02
    for batch in (1, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        found = backbone.sample(condition, SEEDS, sampler=sampler, image_prompt=prompt)
        assert (found - expected).abs().max() < 1e-4


def test_at_scale_0_the_text_alone_is_drawn(case, backbone, pictures) -> None:
    condition, sampler = backbone.encode(TEXTS), Sampler("own", 3, 3.0)
    found = backbone.sample(
        condition, SEEDS, sampler=sampler, image_prompt=prompted(case[1], pictures, 0.0)
    )
    expected = backbone.sample(condition, SEEDS, sampler=sampler)
    assert (found - expected).abs().max() < 1e-5
    with pytest.raises(UserError, match="scale is 1.5: it should be from 0 to 1"):
        prompted(case[1], pictures, 1.5)


def test_nothing_of_it_stays_on_the_backbone(case, backbone, pictures, monkeypatch) -> None:
    prompt, condition = prompted(case[1], pictures, 1.0), backbone.encode(TEXTS)
    loan = Loan(backbone)
    backbone.sample(condition, SEEDS, sampler=Sampler("own", 2, 3.0), image_prompt=prompt)
    assert loan.settle(thorough=True) == []

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("while it draws")

    monkeypatch.setattr(type(backbone), "_decode", fail)
    with pytest.raises(RuntimeError, match="while it draws"):
        backbone.sample(condition, SEEDS, sampler=Sampler("own", 2, 3.0), image_prompt=prompt)
    monkeypatch.undo()
    assert loan.settle(thorough=True) == [] and loan.whole


@pytest.mark.more
def test_a_hollow_one_draws_where_tensors_have_no_numbers(xl, pictures) -> None:
    directory, table = xl
    with no_numbers(LiveMemory()):
        backbone = hollow_backbone(
            str(directory), sampler=Sampler("own", 2, 1.0), precision="bf16", resolution=16
        )
        adapter = IP_ADAPTER.hollow(table)
        images = torch.zeros(2, 3, adapter.resolution, adapter.resolution)
        prompt = adapter.prompt(images, 0.5)
        found = backbone.sample(backbone.encode(TEXTS[:1]), [1], image_prompt=prompt)
        assert found.shape == (1, 3, 16, 16)
    for plus in (False, True):
        table = save_tiny_adapter(Path(table["model"]), directory, plus=plus)
        real = IP_ADAPTER.load(table, "cpu").prompt(tensors(pictures), 0.5)
        hollow = IP_ADAPTER.hollow(table).prompt(tensors(pictures), 0.5)
        assert hollow.embeddings.shape == real.embeddings.shape


def test_which_backbones_can(case, tmp_path: Path) -> None:
    assert IMAGE_PROMPT in DIFFUSERS.capabilities(str(case[0]))
    for save in (save_tiny_sd3, save_tiny_flux):
        assert IMAGE_PROMPT not in DIFFUSERS.capabilities(str(save(tmp_path / save.__name__)))


def test_an_adapter_of_another_backbone_is_refused_by_its_header(xl, tmp_path: Path) -> None:
    """Of another width; of another number of layers; and of another width in its projection."""
    directory, table = xl
    DIFFUSERS.check_adapter(str(directory), IP_ADAPTER.shapes(table))
    other = save_tiny_pipeline(tmp_path / "other")
    with pytest.raises(UserError, match="image_proj.norm.weight is 40, and .* takes 16"):
        DIFFUSERS.check_adapter(str(other), IP_ADAPTER.shapes(table))
    shapes = dict(IP_ADAPTER.shapes(table))
    del shapes["ip_adapter.3.to_v_ip.weight"]
    with pytest.raises(UserError, match="ip_adapter.3.to_v_ip.weight is none"):
        DIFFUSERS.check_adapter(str(directory), shapes)
    shapes = dict(IP_ADAPTER.shapes(table)) | {"image_proj.norm.weight": (16,)}
    with pytest.raises(UserError, match="image_proj.norm.weight is 16, and .* takes 40"):
        DIFFUSERS.check_adapter(str(directory), shapes)


def test_what_does_not_belong_together_is_named(xl) -> None:
    _, table = xl
    folder = Path(table["model"])
    weights, configuration = folder / WEIGHTS, folder / "models/image_encoder/config.json"
    stored, said = load_file(weights), configuration.read_text()
    configuration.write_text(json.dumps(json.loads(said) | {"projection_dim": 12}))
    with pytest.raises(UserError, match="width 20, and .*config.json says projection_dim = 12"):
        IP_ADAPTER.shapes(table)
    configuration.write_text(said)
    with pytest.raises(UserError, match="has SHA-256 .*, and sha256 is 0000.*: fetch it anew"):
        IP_ADAPTER.files(table | {"sha256": "0" * 64})
    save_file({k: v for k, v in stored.items() if "image_proj" not in k}, weights)
    with pytest.raises(UserError, match="is no IP-Adapter that looks at images"):
        IP_ADAPTER.load(table, "cpu")
    faces = {"image_proj.norm.weight": torch.ones(40), "image_proj.proj.0.weight": torch.ones(8, 8)}
    save_file({k: v for k, v in stored.items() if "image_proj" not in k} | faces, weights)
    with pytest.raises(UserError, match="those called FaceID look at faces"):
        IP_ADAPTER.load(table, "cpu")


def test_suites_pin_theirs_and_say_how_to_fetch_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name, folder in (("dreambench", "models"), ("dreambench-sdxl", "sdxl_models")):
        table = load_suite(name).assets["image-prompt"]
        assert len(table["revision"]) == 40
        with pytest.raises(UserError) as error:
            assets.identify("image-prompt", table | {"directory": str(tmp_path)})
        assert f"hf download h94/IP-Adapter {folder}/ip-adapter_" in str(error.value)
        assert f"{folder}/image_encoder/model.safetensors" in str(error.value)
