"""The backbone against diffusers' own pipeline, and the promises other modules rely on."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from benchmark.api import Sampler, UserError, Word
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.diffusion.sampling import SCHEDULERS
from benchmark.models.files.identity import backbone_id, locate
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from benchmark.models.precision import (
    _has_device,
    emulated,
    resolve_device,
    resolve_precision,
)
from tests.reference import finetuning
from tests.tiny_pipeline import LATENT_UNET, LENGTH, save_tiny_pipeline

TEXTS = ["a dog", "a sks dog in the snow", "a dog"]
SEEDS = [11, 12, 13]
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def epsilon_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "epsilon"
    return save_tiny_pipeline(place, prediction_type="epsilon")


@pytest.fixture
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def pipe(directory: Path) -> diffusers.StableDiffusionPipeline:
    return finetuning.pipeline(directory)


def pipeline_images(pipe, scheduler: str, guidance: float, steps: int = 4) -> torch.Tensor:
    extra = {"skip_prk_steps": True} if scheduler == "pndm" else {}
    pipe.scheduler = CLASSES[scheduler].from_config(pipe.scheduler.config, **extra)
    return pipe(
        TEXTS,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images


def state(backbone: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in backbone.modules().items()
        for key, tensor in module.state_dict().items()
    }


def sample(backbone: LatentDiffusion, texts=TEXTS, seeds=SEEDS, **options) -> torch.Tensor:
    """As methods draw: the empty text and each other one are encoded once, together."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(["", *texts]))}
    with torch.no_grad():
        table = backbone.encode(list(rows))
    condition = table[[rows[text] for text in texts]]
    return backbone.sample(condition, seeds, unconditional=table[:1], **options)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", CLASSES)
def test_images_are_those_of_diffusers_pipeline(backbone, pipe, scheduler, guidance, monkeypatch):
    expected = pipeline_images(pipe, scheduler, guidance)
    sampler = Sampler(scheduler, 4, guidance)
    for batch in (1, 2, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        images = sample(backbone, sampler=sampler)
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    # The images must depend on prompt and noise, or agreeing would mean nothing.
    assert (images[0] - images[1]).abs().max() > 0.1
    assert (images[0] - images[2]).abs().max() > 0.1


def test_every_scheduler_is_tested():
    assert set(SCHEDULERS) == set(CLASSES)


@pytest.mark.parametrize("scheduler", CLASSES)
def test_epsilon_models_are_sampled_alike(epsilon_directory, scheduler, monkeypatch):
    backbone = load_backbone(str(epsilon_directory), precision="fp32", device="cpu")
    assert backbone.pipeline.scheduler.config.prediction_type == "epsilon"
    expected = pipeline_images(finetuning.pipeline(epsilon_directory), scheduler, 4.0)
    for batch in (1, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        images = sample(backbone, sampler=Sampler(scheduler, 4, 4.0))
        assert (images - expected).abs().max() < 1e-4


def test_large_images_go_through_the_vae_one_by_one(backbone, monkeypatch):
    [stage] = backbone.stages
    images, pixels = sample(backbone), torch.rand(3, 3, 16, 16)
    moments = stage.prepare(pixels)
    seen = []
    for name in ("encode", "decode"):
        whole = getattr(stage.vae, name)
        counted = lambda batch, whole=whole, **o: seen.append(len(batch)) or whole(batch, **o)  # noqa: E731
        monkeypatch.setattr(stage.vae, name, counted)
    monkeypatch.setattr("benchmark.models.backbones.latent_stage.VAE_PIXELS", 16 * 16)
    assert (sample(backbone) - images).abs().max() < 1e-4
    found = stage.prepare(pixels)
    torch.testing.assert_close(found.mean, moments.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.std, moments.std, atol=1e-5, rtol=1e-5)
    assert seen == [1] * 6


def test_the_suites_sampler_is_the_default(backbone):
    backbone.sampler = Sampler("euler", 2, 1.0)
    images = sample(backbone, ["a dog"], [1])
    assert torch.equal(images, sample(backbone, ["a dog"], [1], sampler=backbone.sampler))
    assert not torch.equal(images, sample(backbone, ["a dog"], [1], sampler=Sampler()))


def test_the_empty_text_is_the_default_for_guidance(backbone):
    condition = backbone.encode(["a dog"])
    images = backbone.sample(condition, [1])
    same = backbone.sample(condition, [1], unconditional=backbone.encode([""]))
    other = backbone.sample(condition, [1], unconditional=backbone.encode(["a cat"]))
    assert (images - same).abs().max() < 1e-5 < (images - other).abs().max()


def test_no_texts_make_no_images(backbone):
    assert backbone.sample(backbone.encode(["a dog"])[[]], []).shape == (0, 3, 16, 16)


def test_sampling_leaves_the_pipeline_as_it_was(backbone):
    scheduler, hooks = backbone.pipeline.scheduler, dict(backbone.pipeline.unet._forward_hooks)
    sample(backbone, sampler=Sampler("euler", 2, 1.0))
    with pytest.raises(UserError, match="unknown scheduler 'lms'; known: ddim"):
        sample(backbone, sampler=Sampler("lms", 2, 1.0))
    assert backbone.pipeline.scheduler is scheduler
    assert backbone.pipeline.unet._forward_hooks == hooks


@pytest.mark.more
def test_bfloat16_draws_nearly_the_same_and_keeps_float32_weights(directory, backbone):
    half = load_backbone(str(directory), precision="bf16", device="cpu")
    images, exact = (sample(b) for b in (half, backbone))
    assert 0 < (images - exact).abs().mean() < 0.05
    assert {t.dtype for t in state(half).values() if t.is_floating_point()} == {torch.float32}


def test_half_precision_is_summed_in_float32(directory, monkeypatch):
    """The scheduler's sums: with the U-Net in bf16 they are those of the float32 predictions."""
    half = load_backbone(str(directory), precision="bf16", device="cpu")
    seen = []
    step = diffusers.DDIMScheduler.step

    def recorded(self, prediction, timestep, latents, **options):
        seen.append((prediction.dtype, latents.dtype))
        return step(self, prediction, timestep, latents, **options)

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", recorded)
    sample(half, sampler=Sampler("ddim", 3, 4.0))
    assert seen == [(torch.float32, torch.float32)] * 3


def test_a_word_stands_in_for_one_token_only(backbone, directory):
    vector = torch.randn(16)
    before = state(backbone)
    word = Word("sks", {"text_encoder": vector})
    found = backbone.encode(["a sks dog", "a dog"], words=[word]).embeddings
    assert all(torch.equal(before[key], value) for key, value in state(backbone).items())
    changed = finetuning.pipeline(directory)
    token = changed.tokenizer.convert_tokens_to_ids("sks</w>")
    with torch.no_grad():
        changed.text_encoder.get_input_embeddings().weight[token] = vector
        ids = finetuning.token_ids(changed, ["a sks dog", "a dog"])
        expected = changed.text_encoder(ids)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], backbone.encode(["a sks dog"]).embeddings[0])
    assert torch.equal(found[1:], backbone.encode(["a sks dog", "a dog"]).embeddings[1:])


def test_a_new_word_starts_from_the_mean_of_its_tokens(backbone, pipe):
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    for init in ("dog", "zwx"):
        ids = pipe.tokenizer(init, add_special_tokens=False).input_ids
        word = backbone.new_word("sks", init=init)
        [vector] = word.vectors.values()
        assert word.text == "sks" and word.vectors.keys() == backbone.text_encoders.keys()
        assert vector.requires_grad and vector.dtype == torch.float32
        torch.testing.assert_close(vector.detach(), table[ids].mean(dim=0))
    assert len(ids) == 3
    backbone.encode(["a sks"], words=[word]).embeddings.sum().backward()
    assert vector.grad is not None and vector.grad.abs().max() > 0


def test_prepared_images_are_the_vaes_own_moments(backbone, pipe, monkeypatch):
    monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", 2)
    images = torch.rand(5, 3, 16, 16)
    half = load_backbone(str(pipe.config._name_or_path), precision="bf16", device="cpu")
    with torch.no_grad():
        posterior = pipe.vae.encode(images * 2 - 1).latent_dist
    for stage in (*backbone.stages, *half.stages):  # in float32 whatever the precision
        moments = stage.prepare(images)
        assert len(moments) == 5
        torch.testing.assert_close(moments.mean, posterior.mean * 0.7, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(moments.std, posterior.std * 0.7, atol=1e-5, rtol=1e-5)


def test_weights_are_those_on_disk(backbone, directory):
    stored = load_file(directory / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    weights = backbone.modules()["unet"].state_dict()
    assert weights and all(torch.equal(stored[k].float(), v) for k, v in weights.items())


def test_pristine_weights_are_mapped_from_the_files_and_not_copied(backbone, directory):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux says what is mapped")
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (directory / part).glob("*.safetensors")
        assert str(file) in maps.read_text(), "a copy of a large model is gigabytes"


@pytest.mark.parametrize("size", [24, 16])
def test_another_resolution_is_the_pipelines_at_that_height_and_width(directory, pipe, size):
    backbone = load_backbone(str(directory), precision="fp32", device="cpu", resolution=size)
    assert backbone.resolution == size
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    expected = pipe(
        TEXTS,
        height=size,
        width=size,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    images = sample(backbone, sampler=Sampler("ddim", 3, 4.0))
    assert images.shape == (3, 3, size, size)
    assert (images - expected).abs().max() < 1e-4
    with pytest.raises(UserError, match="resolution is 17, .*choose a multiple of 8"):
        load_backbone(str(directory), device="cpu", resolution=17)


def test_the_id_is_of_the_files_and_not_of_the_place(directory, tmp_path):
    name, _, digits = backbone_id(str(directory)).partition("@")
    assert name == "tiny" and len(digits) == 12
    same = save_tiny_pipeline(tmp_path / "elsewhere" / "tiny")
    assert backbone_id(str(same)) == f"{name}@{digits}"
    other = save_tiny_pipeline(tmp_path / "other" / "tiny", seed=1)
    assert backbone_id(str(other)) != f"{name}@{digits}"
    scheduler = same / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("v_prediction", "epsilon"))
    assert backbone_id(str(same)) != f"{name}@{digits}"


def test_what_is_known_before_loading_loads_no_torch(directory):
    code = (
        "import sys; from benchmark.api import Sampler;"
        "from benchmark.models.kinds import DIFFUSERS;"
        "from benchmark.models.precision import resolve_precision;"
        "resolve_precision('bf16', 'cpu');"
        f"m = {str(directory)!r}; DIFFUSERS.identify(m); DIFFUSERS.memory(m);"
        "DIFFUSERS.capabilities(m); DIFFUSERS.check_sampler(m, Sampler('ddpm'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_kind_loads_what_it_identifies(directory):
    sampler = Sampler("euler", 3, 2.0)
    backbone = DIFFUSERS.load(str(directory), sampler=sampler, resolution=24)
    assert backbone.id == DIFFUSERS.identify(str(directory))
    assert (backbone.sampler, backbone.precision, backbone.resolution) == (sampler, "fp32", 24)
    assert [stage.resolution for stage in backbone.stages] == [24]
    assert DIFFUSERS.capabilities(str(directory)) == LATENT_UNET
    with pytest.raises(UserError, match="unknown scheduler 'lms'; known: ddim"):
        DIFFUSERS.check_sampler(str(directory), Sampler("lms"))


def test_auto_is_resolved_for_the_device():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_precision("auto", "auto") in ("fp32", "bf16", "fp16")
    assert resolve_precision("fp16", "cpu") == "fp16"


@pytest.mark.parametrize(
    ("flags", "precision", "device", "slow"),
    [
        ({"avx2"}, "bf16", "cpu", True),
        ({"avx2"}, "fp16", "cpu", True),
        ({"avx2"}, "fp32", "cpu", False),
        ({"avx2"}, "bf16", "cuda:0", False),
        ({"avx2", "amx_tile"}, "bf16", "cpu", False),
        ({"avx512_bf16"}, "fp16", "cpu", True),
        (None, "bf16", "cpu", False),
    ],
)
def test_a_precision_that_the_processor_emulates_is_told(
    flags, precision, device, slow, monkeypatch
):
    monkeypatch.setattr("benchmark.models.precision._cpu_flags", lambda: flags)
    assert emulated(precision, device) is slow
    if flags is not None:
        assert resolve_precision("auto", "cpu") == ("fp32" if flags == {"avx2"} else "bf16")


def test_the_device_is_known_without_torch():
    code = (
        "import sys\n"
        "from benchmark.models.precision import _has_device, resolve_device, resolve_precision\n"
        "found = resolve_device('auto'), resolve_precision('auto', 'cpu')\n"
        "print(*found, 'torch' in sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    device, precision, loaded = told.stdout.split()
    assert device == ("cuda" if torch.cuda.is_available() else "cpu")
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert precision == ("bf16" if quick else "fp32")
    if sys.platform == "linux" and platform.machine() == "x86_64" and device == "cpu":
        assert loaded == "False"


@pytest.mark.parametrize("name", ["nvidia0", "nvhost-gpu", "nvmap", "dxg", "kfd"])
def test_torch_is_asked_where_there_is_a_device(tmp_path, name):
    (tmp_path / "nvme0").touch()  # a disk
    assert not _has_device(tmp_path)
    (tmp_path / name).touch()
    assert _has_device(tmp_path)


def test_bad_input_is_named(backbone, directory, tmp_path):
    with pytest.raises(UserError, match="it lacks scheduler, text_encoder"):
        locate(str(tmp_path))
    with pytest.raises(UserError, match="unknown precision 'int8'; known: auto, fp32"):
        resolve_precision("int8", "cpu")
    with pytest.raises(UserError, match=f"reads {LENGTH}"):
        backbone.encode(["a dog " * LENGTH])
    with pytest.raises(UserError, match="no tokens for 'a d0g'"):
        backbone.encode(["a d0g"])
    with pytest.raises(UserError, match="'zwx' is 3 tokens .* single token"):
        backbone.new_word("zwx", init="dog")
    with pytest.raises(UserError, match="no tokens for 's1'"):
        backbone.encode(["a dog"], words=[Word("s1", {"text_encoder": torch.zeros(16)})])
    with pytest.raises(ValueError, match="1 texts, but 2 seeds"):
        backbone.sample(backbone.encode(["a dog"]), [1, 2])
    broken = save_tiny_pipeline(tmp_path / "broken")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="model.safetensors is no safetensors file"):
        load_backbone(str(broken), device="cpu")
