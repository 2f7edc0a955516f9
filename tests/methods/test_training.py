"""The denoising loop against training steps written out plainly (tests/reference)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import Prompt, Request, Subject
from benchmark.models.loading import load_backbone
from benchmark.models.stable_diffusion import Backbone
from methods import training
from methods.dreambooth import DreamBooth
from methods.textual_inversion import TextualInversion
from methods.training import Optimisation, Term, instance_images, seeded
from tests.reference import finetuning
from tests.tiny_pipeline import save_tiny_pipeline

QUIET = lambda done, steps, losses=None: None  # noqa: E731
TINY = DreamBooth(
    identifier="sks",
    steps=3,
    learning_rate=1e-3,
    batch_size=2,
    prior_weight=0.7,
    prior_images=3,
    prior_steps=2,
)


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def directory(request, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models") / request.param
    return save_tiny_pipeline(place, prediction_type=request.param)


@pytest.fixture
def backbone(directory: Path) -> Backbone:
    return load_backbone(str(directory), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    random = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(16, 16), (20, 31), (40, 24)]):
        paths.append(folder / f"{i}.png")
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(paths[-1])
    return Subject("dog-biscuit", "dog", True, tuple(paths), "digest")


@pytest.fixture
def recorded(monkeypatch) -> tuple[list[training.Draw], list[float]]:
    """Every draw and every loss of the fits in a test."""
    draws, losses = [], []
    draw, loss = Term.draw, training.weighted_sum

    def recording_draw(self, backbone):
        draws.append(draw(self, backbone))
        return draws[-1]

    def recording_loss(*arguments):
        result = loss(*arguments)
        losses.append(result.item())
        return result

    monkeypatch.setattr(Term, "draw", recording_draw)
    monkeypatch.setattr(training, "weighted_sum", recording_loss)
    return draws, losses


@dataclass
class Told:
    """What a fit tells of its progress."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    losses: dict[int, dict[str, float]] = field(default_factory=dict)

    def __call__(self, done, steps, *, losses=None):
        self.steps.append((done, steps))
        if losses is not None:
            self.losses[done] = losses


def weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name in ("unet", "vae", "text_encoder")
        for key, tensor in getattr(backbone, name).state_dict().items()
    }


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
@pytest.mark.parametrize("prior_weight", [0.7, 0.0])
@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_dreambooth_steps_are_the_papers(
    backbone, directory, subject, recorded, train_text_encoder, prior_weight, max_grad_norm
):
    draws, losses = recorded
    before = weights(backbone)
    method = replace(
        TINY,
        train_text_encoder=train_text_encoder,
        prior_weight=prior_weight,
        max_grad_norm=max_grad_norm,
    )
    told = Told()
    method.fit(subject, backbone, seed=0, progress=told)
    terms = 2 if prior_weight else 1
    given = [finetuning.Given(*draw) for draw in draws]
    assert len(given) == 3 * terms
    assert {tuple(g.prompts) for g in given[::terms]} == {("a sks dog",) * 2}
    if prior_weight:
        assert {tuple(g.prompts) for g in given[1::2]} == {("a dog",) * 2}
    expected = finetuning.dreambooth_steps(
        directory,
        [given[i : i + terms] for i in range(0, len(given), terms)],
        prior_weight=prior_weight,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        max_grad_norm=max_grad_norm,
        train_text_encoder=train_text_encoder,
    )
    np.testing.assert_allclose(losses, expected.losses, rtol=1e-5, atol=1e-5)
    assert {tuple(told.losses[step]) for step in (1, 2, 3)} == {("instance", "prior")[:terms]}
    unweighted = [list(told.losses[step].values()) for step in (1, 2, 3)]
    np.testing.assert_allclose(unweighted, expected.terms, rtol=1e-5, atol=1e-5)
    found, compared, total = weights(backbone), 0, 0
    for name, weight in expected.weights.items():
        sure = expected.smallest[name] > 1e-5
        torch.testing.assert_close(found[name][sure], weight[sure], atol=1e-5, rtol=0)
        assert (found[name] - weight).abs().max() <= 6.1 * method.learning_rate
        compared, total = compared + int(sure.sum()), total + sure.numel()
        if sure.any():
            assert not torch.equal(found[name], before[name])
    assert compared > 0.5 * total
    untouched = set(found) - set(expected.weights)
    assert any(name.startswith("vae.") for name in untouched)
    assert all(torch.equal(found[name], before[name]) for name in untouched)


def test_textual_inversion_steps_move_one_vector_and_nothing_else(
    backbone, directory, subject, recorded, monkeypatch
):
    draws, losses = recorded
    before = weights(backbone)
    method = TextualInversion(identifier="sks", steps=4)
    told = Told()
    generate = method.fit(subject, backbone, seed=0, progress=told)
    assert all(torch.equal(before[name], w) for name, w in weights(backbone).items())
    assert not any(p.requires_grad for p in backbone.unet.parameters())
    given = [finetuning.Given(*draw) for draw in draws]
    assert {p for g in given for p in g.prompts} <= {"a sks", "a photo of a sks"}
    vector, expected = finetuning.textual_inversion_steps(
        directory,
        given,
        identifier="sks",
        class_noun="dog",
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    found = [told.losses[step]["instance"] for step in (1, 2, 3, 4)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    asked = {}

    def sample(texts, noise_seeds, *, replace):
        asked.update(texts=texts, noise_seeds=noise_seeds, replace=replace)

    monkeypatch.setattr(backbone, "sample", sample)
    generate([Request(Prompt("a {} in the snow", "recontextualization"), 0, 5)])
    [(token, learned)] = asked["replace"].items()
    assert backbone.token_ids("sks") == [token]
    torch.testing.assert_close(learned.detach(), vector, atol=1e-5, rtol=0)
    assert (learned.detach() - backbone.token_embedding("dog")).abs().max() > 0.005
    assert asked["texts"] == ["a sks in the snow"] and asked["noise_seeds"] == [5]


def test_drawn_latents_are_the_vaes_own_samples(backbone, directory, subject):
    [instance] = replace(TINY, prior_weight=0.0, batch_size=1).terms(subject, backbone, seed=3)
    draw = instance.draw(backbone)
    generator = seeded(3, subject.name, "instance")
    index = torch.randint(3, (1,), generator=generator)
    timesteps = torch.randint(1000, (1,), generator=generator)
    vae = finetuning.pipeline(directory).vae
    with torch.no_grad():
        image = instance_images(subject, 16)[index] * 2 - 1
        sample = vae.encode(image).latent_dist.sample(generator=generator) * 0.7
    torch.testing.assert_close(draw.latents, sample, atol=1e-5, rtol=1e-5)
    assert torch.equal(draw.timesteps, timesteps)
    assert torch.equal(draw.noise, torch.randn(sample.shape, generator=generator))


def test_latents_are_drawn_anew_each_step_in_the_moments_distribution(backbone, subject):
    [instance] = replace(TINY, prior_weight=0.0, batch_size=1).terms(subject, backbone, seed=0)
    one = replace(instance, mean=instance.mean[:1], std=instance.std[:1])
    drawn = torch.cat([one.draw(backbone).latents for _ in range(2000)])
    assert len({row.numpy().tobytes() for row in drawn}) == 2000
    standard = (drawn - one.mean) / one.std
    assert standard.mean(dim=0).abs().max() < 0.15  # 6 standard errors
    assert (standard.std(dim=0) - 1).abs().max() < 0.1


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_prompts_are_encoded_once_unless_the_text_encoder_learns(
    backbone, subject, monkeypatch, train_text_encoder
):
    calls = []
    encode = Backbone.encode_prompts
    monkeypatch.setattr(
        Backbone,
        "encode_prompts",
        lambda self, texts, **options: calls.append(texts) or encode(self, texts, **options),
    )
    backbone.prior_moments("dog", 3, sampler=TINY.prior_sampler(), seed=0)
    calls.clear()
    method = replace(TINY, train_text_encoder=train_text_encoder)
    method.fit(subject, backbone, seed=0, progress=QUIET)
    assert len(calls) == (method.steps if train_text_encoder else 1)


def test_half_precision_that_overflows_at_every_scale_is_an_error(directory, subject, monkeypatch):
    backbone = load_backbone(str(directory), precision="fp16", device="cpu")
    loss = training.weighted_sum
    monkeypatch.setattr(training, "weighted_sum", lambda *a: _Overflowing.apply(loss(*a)))
    method = replace(TINY, prior_weight=0.0, steps=25)
    before = weights(backbone)
    with pytest.raises(FloatingPointError, match="overflow float16 at every scale by step 25"):
        method.fit(subject, backbone, seed=0, progress=QUIET)
    assert all(torch.equal(before[name], found) for name, found in weights(backbone).items())


class _Overflowing(torch.autograd.Function):
    """The loss as it is, with gradients that are not finite."""

    @staticmethod
    def forward(context, loss):
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("inf")


def test_draws_are_spread_evenly(backbone):
    term = Term(
        torch.arange(4.0).view(4, 1, 1, 1),
        torch.zeros(4, 1, 1, 1),
        prompts=["a dog", "a cat"],
        generator=seeded(0),
        name="instance",
        batch_size=8000,
    )
    draw = term.draw(backbone)
    assert torch.bincount(draw.latents.flatten().long()).sub(2000).abs().max() < 200
    assert torch.histc(draw.timesteps.float(), 10, 0, 1000).sub(800).abs().max() < 150
    assert draw.timesteps.min() <= 1 and draw.timesteps.max() >= 998
    assert abs(draw.prompts.count("a dog") - 4000) < 250
    assert abs(draw.noise.mean()) < 0.05 and abs(draw.noise.std() - 1) < 0.05


def test_the_instance_term_sees_the_same_with_and_without_prior(backbone, subject):
    with_prior = TINY.terms(subject, backbone, seed=0)[0].draw(backbone)
    without = replace(TINY, prior_weight=0.0).terms(subject, backbone, seed=0)[0].draw(backbone)
    assert all(torch.equal(a, b) for a, b in zip(with_prior[:3], without[:3], strict=True))


def test_instance_images_are_resized_and_cropped_at_the_centre(subject, tmp_path):
    images = instance_images(subject, 16)
    assert images.shape == (3, 3, 16, 16) and images.min() >= 0 and images.max() <= 1
    exact = np.asarray(Image.open(subject.images[0])).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(images[0].numpy(), exact)
    # A smooth picture, so that Pillow's own bicubic resize agrees to within its rounding.
    ramp = np.zeros((48, 96, 3), np.uint8)
    ramp[...] = np.linspace(0, 255, 96).astype(np.uint8)[None, :, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    wide = replace(subject, images=(tmp_path / "ramp.png",))
    resized = Image.fromarray(ramp).resize((32, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[:, 8:24].transpose(2, 0, 1) / 255
    assert np.abs(instance_images(wide, 16)[0].numpy() - expected).max() < 1.5 / 255


def test_the_same_seed_gives_the_same_weights(backbone, subject):
    def fitted(seed: int) -> dict[str, torch.Tensor]:
        method = replace(TINY, train_text_encoder=True)
        try:
            method.fit(subject, backbone, seed=seed, progress=QUIET)
            return weights(backbone)
        finally:
            backbone.restore()

    first, other, again = fitted(0), fitted(1), fitted(0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_seeds_differ_by_number_and_name():
    def first(*names: object) -> float:
        return torch.rand(1, generator=seeded(*names)).item()

    assert first(0, "a", "b") == first(0, "a", "b")
    assert len({first(0), first(1), first(0, "a"), first(0, "a", "b"), first(0, "ab")}) == 5


def test_a_loss_that_explodes_is_an_error(backbone, subject):
    method = replace(TINY, prior_weight=0.0, steps=100, learning_rate=1e18, max_grad_norm=0.0)
    with pytest.raises(FloatingPointError, match=r"by step 25: lower learning_rate, now 1e\+18"):
        method.fit(subject, backbone, seed=0, progress=QUIET)


def test_progress_counts_every_step(backbone, subject):
    told = Told()
    method = replace(TINY, prior_weight=0.0)
    method.fit(subject, backbone, seed=0, progress=told)
    assert told.steps == [(1, 3), (2, 3), (3, 3)]


def test_losses_are_told_evenly_as_means_since_they_were_last_told(backbone, subject, monkeypatch):
    each, reads = [], []
    losses, tolist = training.denoising_losses, torch.Tensor.tolist

    def recording(*arguments):
        result = losses(*arguments)
        each.append([loss.item() for loss in result])
        return result

    def counted(self):
        reads.append(self)
        return tolist(self)

    monkeypatch.setattr(training, "denoising_losses", recording)
    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    told = Told()
    replace(TINY, steps=85, batch_size=1).fit(subject, backbone, seed=0, progress=told)
    # In 85 steps every third and the last: 29 times, and the losses are read at no other step.
    assert list(told.losses) == [*range(3, 85, 3), 85]
    assert len(told.steps) == 85 and len(reads) == 29
    assert each[0][0] != each[0][1]
    for first, last in [(0, 3), (3, 6), (81, 84), (84, 85)]:
        means = np.mean(each[first:last], axis=0)
        np.testing.assert_allclose(list(told.losses[last].values()), means, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(directory, subject, recorded, precision):
    _, losses = recorded
    backbone = load_backbone(str(directory), precision=precision, device="cpu")
    before = weights(backbone)
    method = replace(TINY, steps=20, prior_weight=0.0, train_text_encoder=True)
    method.fit(subject, backbone, seed=0, progress=QUIET)
    found = weights(backbone)
    assert {w.dtype for w in found.values() if w.is_floating_point()} == {torch.float32}
    assert any(not torch.equal(found[name], before[name]) for name in found)
    exact = load_backbone(str(directory), precision="fp32", device="cpu")
    method.fit(subject, exact, seed=0, progress=QUIET)
    half, full = losses[:20], losses[20:]
    assert np.abs(np.subtract(half, full)).max() < 0.1
    assert losses[0] != losses[20]


def test_training_lowers_the_loss(backbone, subject):
    [term] = replace(TINY, prior_weight=0.0, batch_size=32).terms(subject, backbone, seed=0)
    encode = training.fixed_conditions(backbone, term.prompts)

    def loss() -> float:
        with torch.no_grad():
            fresh = replace(term, generator=seeded(9))
            return training.denoising_losses(backbone, [fresh], encode)[0].item()

    before = loss()
    backbone.unet.requires_grad_(True)
    training.train(
        backbone,
        [term],
        list(backbone.unet.parameters()),
        encode=encode,
        optimisation=Optimisation(steps=40, learning_rate=2e-3),
        progress=QUIET,
    )
    assert loss() < 0.9 * before
