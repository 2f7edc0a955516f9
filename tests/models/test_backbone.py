"""The backbone against diffusers' own pipeline, and the promises other modules rely on."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from benchmark.api import UserError, noise_seed
from benchmark.models import prior_images as prior_store
from benchmark.models.identity import backbone_id, locate
from benchmark.models.loading import load_backbone, resolve_precision
from benchmark.models.sampling import SCHEDULERS, Sampler
from benchmark.models.stable_diffusion import Backbone
from tests.reference import finetuning
from tests.tiny_pipeline import LENGTH, save_tiny_pipeline

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
def backbone(directory: Path) -> Backbone:
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


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name in ("unet", "vae", "text_encoder")
        for key, tensor in getattr(backbone, name).state_dict().items()
    }


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", CLASSES)
def test_images_are_those_of_diffusers_pipeline(backbone, pipe, scheduler, guidance):
    expected = pipeline_images(pipe, scheduler, guidance)
    sampler = Sampler(scheduler, 4, guidance)
    for batch in (1, 2, 16):
        images = backbone.sample(TEXTS, SEEDS, sampler=sampler, batch=batch)
        assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
        assert (images - expected).abs().max() < 1e-4
    # The images must depend on prompt and noise, or agreeing would mean nothing.
    assert (images[0] - images[1]).abs().max() > 0.1
    assert (images[0] - images[2]).abs().max() > 0.1


def test_every_scheduler_is_tested():
    assert set(SCHEDULERS) == set(CLASSES)


@pytest.mark.parametrize("scheduler", CLASSES)
def test_epsilon_models_are_sampled_alike(epsilon_directory, scheduler):
    backbone = load_backbone(str(epsilon_directory), precision="fp32", device="cpu")
    assert backbone.noise_scheduler.config.prediction_type == "epsilon"
    expected = pipeline_images(finetuning.pipeline(epsilon_directory), scheduler, 4.0)
    for batch in (1, 16):
        images = backbone.sample(TEXTS, SEEDS, sampler=Sampler(scheduler, 4, 4.0), batch=batch)
        assert (images - expected).abs().max() < 1e-4


def test_large_images_go_through_the_vae_one_by_one(backbone, monkeypatch):
    images, pixels = backbone.sample(TEXTS, SEEDS), torch.rand(3, 3, 16, 16)
    moments = backbone.latent_moments(pixels)
    seen = []
    for name in ("encode", "decode"):
        whole = getattr(backbone.vae, name)
        counted = lambda batch, whole=whole, **o: seen.append(len(batch)) or whole(batch, **o)  # noqa: E731
        monkeypatch.setattr(backbone.vae, name, counted)
    monkeypatch.setattr("benchmark.models.stable_diffusion.VAE_PIXELS", 16 * 16)
    assert (backbone.sample(TEXTS, SEEDS) - images).abs().max() < 1e-4
    for found, expected in zip(backbone.latent_moments(pixels), moments, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert seen == [1] * 6


def test_the_suites_sampler_is_the_default(backbone):
    backbone.sampler = Sampler("euler", 2, 1.0)
    images = backbone.sample(["a dog"], [1])
    assert torch.equal(images, backbone.sample(["a dog"], [1], sampler=backbone.sampler))
    assert not torch.equal(images, backbone.sample(["a dog"], [1], sampler=Sampler()))


def test_no_texts_make_no_images(backbone):
    assert backbone.sample([], []).shape == (0, 3, 16, 16)


def test_bfloat16_draws_nearly_the_same_and_keeps_float32_weights(directory, backbone):
    half = load_backbone(str(directory), precision="bf16", device="cpu")
    images, exact = (b.sample(TEXTS, SEEDS) for b in (half, backbone))
    assert 0 < (images - exact).abs().mean() < 0.05
    assert {t.dtype for t in state(half).values() if t.is_floating_point()} == {torch.float32}


def test_replace_stands_in_for_one_token_only(backbone, directory):
    [token] = backbone.token_ids("sks")
    vector = torch.randn(16)
    before = state(backbone)
    found = backbone.encode_prompts(["a sks dog", "a dog"], replace={token: vector})
    assert all(torch.equal(before[key], value) for key, value in state(backbone).items())
    changed = finetuning.pipeline(directory)
    with torch.no_grad():
        changed.text_encoder.get_input_embeddings().weight[token] = vector
        ids = finetuning.token_ids(changed, ["a sks dog", "a dog"])
        expected = changed.text_encoder(ids)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], backbone.encode_prompts(["a sks dog"])[0])
    assert torch.equal(found[1:], backbone.encode_prompts(["a sks dog", "a dog"])[1:])


def test_latent_moments_are_the_vaes_own(backbone, pipe):
    images = torch.rand(5, 3, 16, 16)
    mean, std = backbone.latent_moments(images, batch=2)
    with torch.no_grad():
        posterior = pipe.vae.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(mean, posterior.mean * 0.7, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std, posterior.std * 0.7, atol=1e-5, rtol=1e-5)


def test_restore_is_exact_and_freezes(backbone):
    before = state(backbone)
    assert backbone.is_pristine()
    for module in (backbone.unet, backbone.vae, backbone.text_encoder):
        module.train().requires_grad_(True)
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
            parameter.data.add_(0.1)
    assert not backbone.is_pristine()
    backbone.restore()
    assert backbone.is_pristine()
    assert all(torch.equal(before[key], value) for key, value in state(backbone).items())
    for module in (backbone.unet, backbone.vae, backbone.text_encoder):
        assert not module.training
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_weights_are_those_on_disk(backbone, directory):
    stored = load_file(directory / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert all(torch.equal(stored[k].float(), v) for k, v in backbone.unet.state_dict().items())


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
    images = backbone.sample(TEXTS, SEEDS, sampler=Sampler("ddim", 3, 4.0))
    assert images.shape == (3, 3, size, size)
    assert (images - expected).abs().max() < 1e-4
    with pytest.raises(UserError, match="resolution is 17, .*choose a multiple of 2"):
        load_backbone(str(directory), device="cpu", resolution=17)


def test_prior_images_of_one_size_are_not_taken_for_anothers(directory, tmp_path):
    sampler = Sampler("ddim", 1, 1.0)
    for size in (16, 24):
        backbone = load_backbone(
            str(directory), device="cpu", resolution=size, prior_directory=tmp_path
        )
        images = backbone.prior_images("dog", 1, sampler=sampler, seed=0)
        assert images.shape == (1, 3, size, size)


def test_prior_images_do_not_depend_on_how_many_are_drawn_at_once(directory, monkeypatch):
    sampler = Sampler("ddpm", 2, 1.0)

    def drawn() -> tuple[torch.Tensor, ...]:
        backbone = load_backbone(str(directory), precision="fp32", device="cpu")
        images = backbone.prior_images("dog", 5, sampler=sampler, seed=0)
        return images, *backbone.prior_moments("dog", 5, sampler=sampler, seed=0)

    together = drawn()
    monkeypatch.setattr("benchmark.models.stable_diffusion.PRIOR_BATCH", 2)
    for some, all_ in zip(drawn(), together, strict=True):
        assert some.shape == all_.shape and len(some) == 5
        torch.testing.assert_close(some, all_, atol=1.01 / 255, rtol=1e-3)


def test_prior_images_are_the_pipelines_drawn_once_and_shared(directory, pipe, tmp_path):
    sampler = Sampler("ddpm", 3, 1.0)
    first, second = (
        load_backbone(str(directory), precision="fp32", device="cpu", prior_directory=tmp_path)
        for _ in range(2)
    )
    images = first.prior_images("dog", 4, sampler=sampler, seed=0)
    assert torch.equal((images * 255).round() / 255, images)
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    expected = pipe(
        ["a dog"] * 4,
        num_inference_steps=3,
        guidance_scale=1.0,
        generator=[
            torch.Generator().manual_seed(noise_seed("prior", "a dog", i, 0)) for i in range(4)
        ],
        output_type="pt",
    ).images
    assert (images - expected).abs().max() < 0.5 / 255 + 1e-4
    assert len({image.numpy().tobytes() for image in images}) == 4
    second.unet.requires_grad_(True)
    next(second.unet.parameters()).data.add_(1.0)
    # Changed weights: these can only be the stored ones.
    assert torch.equal(second.prior_images("dog", 4, sampler=sampler, seed=0), images)
    assert [p.name.startswith("dog-") for p in tmp_path.glob("*.safetensors")] == [True]
    in_memory = load_backbone(str(directory), precision="fp32", device="cpu")
    assert torch.equal(in_memory.prior_images("dog", 4, sampler=sampler, seed=0), images)


def test_prior_images_differ_by_what_determines_them(backbone, tmp_path):
    backbone.prior_directory = tmp_path
    sampler = Sampler("ddpm", 2, 1.0)
    backbone.prior_images("dog", 2, sampler=sampler, seed=0)
    for noun, count, other, seed in [
        ("cat", 2, sampler, 0),
        ("dog", 3, sampler, 0),
        ("dog", 2, Sampler("ddpm", 3, 1.0), 0),
        ("dog", 2, Sampler("ddpm", 2, 4.0), 0),
        ("dog", 2, Sampler("ddim", 2, 1.0), 0),
        ("dog", 2, sampler, 1),
    ]:
        assert len(backbone.prior_images(noun, count, sampler=other, seed=seed)) == count
    assert len(list(tmp_path.glob("*.safetensors"))) == 7


def test_prior_images_are_never_drawn_from_changed_weights(backbone):
    next(backbone.unet.parameters()).data.add_(1.0)
    with pytest.raises(RuntimeError, match="changed weights"):
        backbone.prior_images("dog", 1, sampler=Sampler("ddpm", 2, 1.0), seed=0)


def test_prior_moments_are_those_of_the_prior_images_and_kept(backbone, monkeypatch):
    sampler = Sampler("ddpm", 2, 1.0)
    images = backbone.prior_images("dog", 3, sampler=sampler, seed=0)
    expected = backbone.latent_moments(images)
    assert all(
        map(torch.equal, backbone.prior_moments("dog", 3, sampler=sampler, seed=0), expected)
    )
    monkeypatch.setattr(Backbone, "latent_moments", None)
    assert all(
        map(torch.equal, backbone.prior_moments("dog", 3, sampler=sampler, seed=0), expected)
    )


def test_an_interrupted_drawing_leaves_nothing_to_be_read(tmp_path, monkeypatch):
    key = {"class_noun": "dog"}

    def half_written(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prior_store, "save_file", half_written)
        with pytest.raises(KeyboardInterrupt):
            prior_store.stored(tmp_path, key, lambda: torch.zeros(1))
    assert not list(tmp_path.glob("*.safetensors"))
    assert prior_store.stored(tmp_path, key, lambda: torch.ones(1)).item() == 1
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=path.name):
        prior_store.stored(tmp_path, key, lambda: torch.ones(1))


def test_askers_at_once_wait_for_one_drawing(tmp_path):
    drawings, ready = [], threading.Barrier(4)

    def draw() -> torch.Tensor:
        drawings.append(1)
        threading.Event().wait(0.1)
        return torch.arange(3)

    def ask() -> None:
        ready.wait()
        found.append(prior_store.stored(tmp_path, {"class_noun": "rc car"}, draw).tolist())

    found: list[list[int]] = []
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0, 1, 2]] * 4 and len(drawings) == 1


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


def test_looking_up_a_model_loads_no_torch():
    code = (
        "import sys, benchmark.models.identity, benchmark.models.sampling as s; s.Sampler('ddpm');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bad_input_is_named(backbone, directory, tmp_path):
    with pytest.raises(UserError, match="it lacks scheduler, text_encoder"):
        locate(str(tmp_path))
    with pytest.raises(UserError, match="unknown scheduler 'lms'; known: ddim"):
        Sampler("lms")
    with pytest.raises(UserError, match="not 0"):
        Sampler(steps=0)
    with pytest.raises(UserError, match="unknown precision 'int8'; known: auto, fp32"):
        resolve_precision("int8", "cpu")
    with pytest.raises(UserError, match=f"reads {LENGTH}"):
        backbone.encode_prompts(["a dog " * LENGTH])
    with pytest.raises(UserError, match="no tokens for 'a d0g'"):
        backbone.encode_prompts(["a d0g"])
    with pytest.raises(ValueError, match="1 texts, but 2 noise seeds"):
        backbone.sample(["a dog"], [1, 2])
    broken = save_tiny_pipeline(tmp_path / "broken")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be loaded from"):
        load_backbone(str(broken), device="cpu")
