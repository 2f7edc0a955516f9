"""That nothing stays behind on the CPU, without a GPU: torch's fake tensors know their device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import PreTrainedModel

from benchmark.api import EDITING, PRIOR_PROMPT, Request, Sampler, Subject, Word
from benchmark.models.backbones import deepfloyd_if, editing, latent_diffusion, latent_stage
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.backbones.latent_stage import Moments
from benchmark.models.diffusion.attention_control import Control, controlled
from benchmark.models.files.checkpoints import Parts, read_parts
from benchmark.models.loading import Wanted, family_module
from benchmark.models.memory.aside import aside, emptied, narrowed
from methods.drawing import draw
from methods.dreambooth import DreamBooth
from methods.textual_inversion import TextualInversion
from tests.tiny_pipeline import (
    save_tiny_cascade,
    save_tiny_flux,
    save_tiny_pipeline,
    save_tiny_schnell,
    save_tiny_sd3,
    save_tiny_xl,
)

CUDA = torch.device("cuda", 0)
FAMILIES = [save_tiny_pipeline, save_tiny_xl, save_tiny_sd3, save_tiny_flux, save_tiny_schnell]
EDITING_FAMILIES = [save_tiny_pipeline, save_tiny_xl]


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return read_parts(str(request.param(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture
def backbone(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Iterator[LatentDiffusion]:
    """On a GPU that is not there. In a test, every tensor is fake."""
    with on_the_gpu(parts, monkeypatch) as found:
        yield found


@contextmanager
def on_the_gpu(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # A fake tensor has no numbers to look at.
    for module in (latent_stage, latent_diffusion, editing, deepfloyd_if):
        monkeypatch.setattr(module, "check_finite", lambda *_: None)
    # Of a number without a value, as a scheduler asks for, something stands for it.
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True):
        with CUDA:
            modules = {name: remade(module) for name, module in parts.modules.items()}
        wanted = Wanted("tiny", "tiny@0", str(CUDA), "fp32", Sampler(), 16)
        yield family_module(parts.family).build(replace(parts, modules=modules), wanted)


def remade(module: nn.Module) -> nn.Module:
    kind = type(module)
    if isinstance(module, PreTrainedModel):
        return kind(module.config)
    return kind.from_config(module.config)


def test_every_tensor_is_on_the_device(backbone):
    [stage] = backbone.stages
    word = backbone.new_word("sks", init="dog")
    assert {vector.device for vector in word.vectors.values()} == {CUDA}
    condition = backbone.encode(["a sks", "a dog"], words=[word])
    assert {tensor.device for tensor in condition._tensors()} == {CUDA}
    clean = stage.prepare(torch.rand(3, 3, 16, 16))  # on the CPU, where images are read
    assert clean.mean.device == clean.std.device == CUDA
    draw = stage.draw(clean, 2, torch.Generator())
    assert {tensor.device for tensor in draw._tensors()} == {CUDA}
    joined = draw.join(draw)[[0, 3]]
    losses = stage.loss(joined, condition)
    assert losses.shape == (2,) and losses.device == CUDA
    predicted = stage.calls.predict(stage.denoiser, draw.latents, draw.timesteps, condition)
    images = backbone._decode(predicted)
    assert images.shape == (2, 3, 16, 16) and images.device == CUDA


def test_the_families_that_edit_are_those_that_say_so(parts, request):
    saved_by = request.node.callspec.params["parts"]
    assert (saved_by in EDITING_FAMILIES) == (EDITING in parts.family.capabilities)


@pytest.mark.parametrize("parts", EDITING_FAMILIES, indirect=True)
def test_an_edit_is_drawn_on_the_device(backbone):
    [stage] = backbone.stages
    clean = stage.prepare(torch.rand(1, 3, 16, 16))
    inverted = backbone.invert(clean, "a dog", sampler=Sampler("ddim", 2, 3.0))
    assert inverted.noise.device == CUDA and inverted.condition.embeddings.device == CUDA
    rows = inverted.condition.join(backbone.encode(["a cat", "a dog"]))
    control = Control([[0, None, *range(10)]] * 2, cross_steps=1, self_steps=1)
    with controlled(stage.denoiser, control):
        found = stage.predictor(rows)(inverted.noise[[0] * 3], 1)
    assert found.shape == (3, 4, 8, 8) and found.device == CUDA


@pytest.mark.parametrize("stray", ["condition", "timesteps", "latents", "word"])
def test_a_tensor_on_the_cpu_is_noticed(backbone, stray):
    [stage] = backbone.stages
    on_device = torch.zeros(1, 4, 8, 8, device=CUDA)
    clean = Moments(on_device, on_device)
    condition = backbone.encode(["a dog"])
    draw = stage.draw(clean, 1, torch.Generator())
    stage.loss(draw, condition)
    with pytest.raises(RuntimeError, match="[Dd]evice"):
        if stray == "word":
            vectors = backbone.new_word("sks", init="dog").vectors
            strays = {name: torch.zeros(len(vector)) for name, vector in vectors.items()}
            backbone.encode(["a sks"], words=[Word("sks", strays)])
        elif stray == "condition":
            stage.loss(draw, replace(condition, embeddings=condition.embeddings.cpu()))
        else:
            vars(draw)[stray] = getattr(draw, stray).cpu()
            stage.loss(draw, condition)


def on_gpu(backbone: Any) -> set[str]:
    """The modules whose weights take memory there."""
    found = set()
    for name, module in backbone.modules().items():
        sizes = {tensor.untyped_storage().nbytes() > 0 for tensor in module.parameters()}
        assert len(sizes) == 1, f"{name} is there in part"
        if sizes == {True}:
            found.add(name)
    return found


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a job on images that are not there."""

    class Tools:
        seed = 0

        def images(self, resolution: int) -> torch.Tensor:
            return torch.rand(2, 3, resolution, resolution)

        def prior(self, stage: Any) -> Any:
            return stage.prepare(self.images(stage.resolution))

        def progress(self, *_: Any, **__: Any) -> None: ...

    return Tools()


@pytest.mark.more
@pytest.mark.parametrize("text_encoders_learn", [False, True])
def test_what_a_training_does_not_use_lies_in_main_memory(
    backbone, monkeypatch, tools, text_encoders_learn
):
    """Seen from within a step, as nothing but forward passes can be taken without a GPU."""
    seen = []

    def step(loss, *_: Any) -> None:
        [losses] = loss.of_terms()
        assert losses[0].device == CUDA
        seen.append(on_gpu(backbone))

    for module in ("stage_training", "words"):
        monkeypatch.setattr(f"methods.{module}.train", step)
    method = DreamBooth(identifier="sks", train_text_encoder=text_encoders_learn)
    subject = Subject("dog", "dog", True, (), "digest")
    whole, encoders = set(backbone.modules()), set(backbone.text_encoders)
    denoiser = whole - encoders - {"vae"}
    method.fit(subject, backbone, tools)
    TextualInversion(identifier="sks", templates=["a {}"]).fit(subject, backbone, tools)
    assert seen == [denoiser | (encoders if text_encoders_learn else set()), denoiser | encoders]
    assert on_gpu(backbone) == whole


def test_text_encoders_lie_in_main_memory_while_images_are_drawn(backbone, monkeypatch):
    seen = []

    def sample(_self, condition, seeds, **_: Any) -> None:
        assert len(condition) == len(seeds) == 1
        seen.append(on_gpu(backbone))

    monkeypatch.setattr(LatentDiffusion, "sample", sample)
    requests = [Request(PRIOR_PROMPT, 0, 7)]
    draw(backbone, ["a dog"], requests)
    whole = set(backbone.modules())
    assert seen == [whole - set(backbone.text_encoders)] and on_gpu(backbone) == whole


def test_the_other_stage_of_a_cascade_lies_in_main_memory(tmp_path, monkeypatch):
    parts = read_parts(str(save_tiny_cascade(tmp_path / "tiny")))
    with on_the_gpu(parts, monkeypatch) as backbone:
        with aside(backbone, [backbone.stages[0].denoiser]):
            assert on_gpu(backbone) == {"base/unet"}
        with aside(backbone):
            assert on_gpu(backbone) == {"base/unet", "super_resolution/unet"}


def test_what_lay_in_main_memory_comes_back_to_where_it_was(monkeypatch):
    """On a CPU that is taken for a GPU, since a fake tensor has no numbers to lose."""
    monkeypatch.setattr("benchmark.models.memory.aside._on_a_gpu", lambda _: True)
    layer, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.weight = layer.weight  # tied
    held, before = layer.weight.detach(), layer.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), emptied([*layer.parameters(), *twin.parameters()]):
        assert held.untyped_storage().nbytes() == 0
        raise KeyboardInterrupt
    assert torch.equal(held, before) and held.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(twin(torch.ones(1, 3)), before.sum(1)[None] + twin.bias)


def test_narrow_weights_come_back_as_the_very_tensors_that_they_were(monkeypatch):
    monkeypatch.setattr("benchmark.models.memory.aside._on_a_gpu", lambda _: True)
    block = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    block.requires_grad_(False)[2].weight.requires_grad_(True)
    held = {name: weight.detach() for name, weight in block.named_parameters()}
    before = {name: weight.clone() for name, weight in held.items()}
    narrow = {"0.bias", "2.bias"}
    with pytest.raises(KeyboardInterrupt), narrowed([block], torch.bfloat16):
        for name, weight in block.named_parameters():
            assert weight.dtype == (torch.bfloat16 if name in narrow else torch.float32)
            assert (held[name].untyped_storage().nbytes() == 0) == (name in narrow)
            assert torch.equal(weight, before[name].to(weight.dtype))
        raise KeyboardInterrupt
    for name, weight in block.named_parameters():
        assert torch.equal(weight, before[name]) and weight.data_ptr() == held[name].data_ptr()


@pytest.mark.more
@pytest.mark.parametrize("clip", [False, True])
def test_every_tensor_of_a_cascade_is_on_the_device(clip, tmp_path, monkeypatch):
    parts = read_parts(str(save_tiny_cascade(tmp_path / "tiny", clip=clip)))
    with on_the_gpu(parts, monkeypatch) as backbone:
        word = backbone.new_word("sks", init="dog")
        condition = backbone.encode(["a sks", "a dog"], words=[word])
        assert {tensor.device for tensor in condition._tensors()} == {CUDA}
        for stage in backbone.stages:
            clean = stage.prepare(torch.rand(3, 3, stage.resolution, stage.resolution))
            draw = stage.draw(clean, 2, torch.Generator())
            assert {tensor.device for tensor in (*clean._tensors(), *draw._tensors())} == {CUDA}
            losses = stage.loss(draw, condition)
            assert losses.shape == (2,) and losses.device == CUDA
            stray = replace(draw, enlarged=draw.enlarged.cpu())
            with pytest.raises(RuntimeError, match="[Dd]evice"):
                stage.loss(stray, condition)
