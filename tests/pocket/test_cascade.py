"""The pocket cascade's training against definitions written out, and its export by diffusers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline
from safetensors.torch import load_file

from benchmark.api import Sampler, UserError
from benchmark.models.kinds import DIFFUSERS
from benchmark.pocket import pictures, pixels
from benchmark.pocket.cascade import (
    SHAPES,
    CascadeRecipe,
    export_cascade,
    pretrain_cascade,
    save_cascade,
)
from benchmark.pocket.text_encoder import (
    TEXT_WIDTH,
    Texts,
    build_text_encoder,
    read_texts,
    train_text_encoder,
)
from benchmark.pocket.training import Recipe, step_generator
from benchmark.pocket.vocabulary import build_tokenizer

RECIPE = Recipe(steps=2, batch=4, learning_rate=1e-3, warmup=1, cooldown=0.5)


@pytest.fixture(scope="module")
def texts() -> Texts:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a", "dog"])
    return Texts(build_text_encoder(tokenizer).eval(), tokenizer)


def test_the_bound_is_the_divergence_of_two_gaussians_which_torch_computes() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(5, 3, 4, 4, generator=generator) * 2 - 1
    noise, share = torch.randn(2, 5, 3, 4, 4, generator=generator)
    share = share.clamp(-1, 1).requires_grad_()
    timesteps = torch.tensor([0, 1, 40, 500, 998])
    schedule = DDPMScheduler(**pixels.NOISE)
    noisy = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), timesteps)
    found = pixels.variance_bound(schedule.alphas_cumprod, clean, noisy, timesteps, noise, share)
    assert found[0] == 0
    [gradient] = torch.autograd.grad(found.sum(), share)
    assert gradient.isfinite().all() and not gradient[0].any()
    found, share = found.detach(), share.detach()
    plain = DDPMScheduler(**pixels.NOISE | {"thresholding": False, "clip_sample": True})
    kept = schedule.alphas_cumprod.double()
    for i, t in enumerate(timesteps.tolist()[1:], 1):
        now, before = kept[t], kept[t - 1]
        beta = 1 - now / before
        true = before.sqrt() * beta / (1 - now) * clean[i].double()
        true += (now / before).sqrt() * (1 - before) / (1 - now) * noisy[i].double()
        # The model's step back is what diffusers' scheduler does: its mean, and its own deviation.
        given = torch.cat([noise[i], share[i]])[None]
        steps = torch.stack(
            [
                plain.step(given, t, noisy[i][None], generator=one).prev_sample[0]
                for one in (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
            ]
        )
        drawn = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))[0]
        deviation = plain._get_variance(t, predicted_variance=share[i]).exp().sqrt()
        mean = steps[0] - deviation * drawn
        truth = torch.distributions.Normal(true, ((1 - before) / (1 - now) * beta).sqrt())
        model = torch.distributions.Normal(mean.double(), deviation.double())
        bits = torch.distributions.kl_divergence(truth, model).mean() / torch.tensor(2.0).log()
        assert found[i].item() == pytest.approx(bits.item(), rel=2e-3)


def test_what_is_seen_is_what_the_pipelines_show(texts: Texts) -> None:
    pool = pictures.draw_pool(pixels.as_large, 6, step_generator("test", 0), "cpu")
    assert pool.encoded.shape == (6, 3, 64, 64)
    small = pictures.draw_pool(pixels.as_small, 6, step_generator("test", 0), "cpu")
    blocks = pool.encoded.float().unflatten(2, (32, 2)).unflatten(4, (32, 2)).mean((3, 5))
    assert torch.allclose(small.encoded.float(), blocks, atol=2e-3)
    timesteps = torch.arange(6) * 100
    batch = pixels.examples(
        SHAPES["super_resolution"],
        pool,
        torch.arange(6),
        timesteps,
        step_generator("test", 1),
        texts.encode,
        "cpu",
    )
    assert batch.clean.shape == batch.enlarged.shape == (6, 3, 32, 32)
    schedule = DDPMScheduler(**pixels.ENLARGED_NOISE)
    kept = schedule.alphas_cumprod[batch.levels].view(-1, 1, 1, 1)
    quiet = batch.levels.argmin()
    guess = batch.enlarged[quiet] / kept[quiet].sqrt()  # the small picture, with little noise
    loud = (1 - kept[quiet]).sqrt() / kept[quiet].sqrt()
    assert (guess - batch.clean[quiet]).std() < loud.item() + 0.35
    unet = SHAPES["super_resolution"].build(TEXT_WIDTH)
    errors, bounds = batch.losses(unet)
    assert errors.shape == bounds.shape == (6,)
    (errors.mean() + bounds.mean()).backward()
    assert all(p.grad is not None for p in unet.parameters())


@pytest.mark.more
def test_both_parts_become_pipelines_that_diffusers_reads(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "POOL", 8)
    monkeypatch.setattr(pixels, "VALIDATED", 8)
    work, made = tmp_path / "work", tmp_path / "cascade"
    sizes = CascadeRecipe(base=RECIPE, super_resolution=RECIPE)
    with pytest.raises(UserError, match=r"text.safetensors is missing"):
        pretrain_cascade(sizes, work, made, "cpu")
    from benchmark.pocket.captions import vocabulary
    from benchmark.pocket.individuals import named

    tokenizer = build_tokenizer(vocabulary(named()[0]))
    train_text_encoder(tokenizer, replace(RECIPE, batch=16), work, "cpu")
    pretrain_cascade(sizes, work, made, "cpu")
    base = IFPipeline.from_pretrained(made / "base", torch_dtype=torch.float32)
    larger = IFSuperResolutionPipeline.from_pretrained(
        made / "super_resolution", torch_dtype=torch.float32
    )
    for name, unet in (("base", base.unet), ("super_resolution", larger.unet)):
        kept = load_file(work / f"{name}.safetensors")
        for key, tensor in unet.state_dict().items():
            assert torch.equal(tensor, kept[f"average.{key}"].half().float()), key
    states = read_texts(work, "cpu").encode(["a dog", ""]).float()
    shown = dict(prompt_embeds=states[:1], negative_prompt_embeds=states[1:], output_type="pt")
    small = base(**shown, num_inference_steps=2).images
    assert small.shape == (1, 3, 32, 32)
    large = larger(**shown, image=small, num_inference_steps=2, height=64, width=64).images
    assert large.shape == (1, 3, 64, 64)
    export_cascade(work, tmp_path / "again")
    with pytest.raises(UserError, match="trained on another VAE or text encoder"):
        train_text_encoder(tokenizer, replace(RECIPE, batch=16, steps=4), work, "cpu")
        export_cascade(work, tmp_path / "more")


def test_it_is_a_backbone_as_soon_as_its_weights_are_shipped(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmark.models.files.identity.POCKET", tmp_path)
    with pytest.raises(UserError, match=r"'pocket-cascade' is not shipped yet: .*pretrain cascade"):
        DIFFUSERS.identify("pocket-cascade")
    unets = {name: shape.build(TEXT_WIDTH) for name, shape in SHAPES.items()}
    save_cascade(texts, unets, tmp_path / "cascade")
    assert DIFFUSERS.identify("pocket-cascade").startswith("pocket-cascade@")
    backbone = DIFFUSERS.load("pocket-cascade", sampler=Sampler("ddim", 2, 3.0))
    images = backbone.sample(backbone.encode(["a dog"]), [1])
    assert images.shape == (1, 3, 64, 64)
    assert [(stage.name, stage.resolution) for stage in backbone.stages] == [
        ("base", 32),
        ("super_resolution", 64),
    ]
