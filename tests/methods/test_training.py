"""The denoising loop against training steps written out plainly (tests/reference)."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import Prompt, Request, Sampler, Subject, UserError
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.backbones.latent_stage import Moments
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
from methods.dreambooth import DreamBooth
from methods.textual_inversion import TextualInversion
from methods.training import Loss, Optimisation, Term, fixed_conditions, seeded, train
from tests.hand_tools import HandTools
from tests.reference import finetuning
from tests.tiny_pipeline import (
    save_tiny_flux,
    save_tiny_pipeline,
    save_tiny_schnell,
    save_tiny_sd3,
    save_tiny_xl,
)

TINY = DreamBooth(
    identifier="sks",
    steps=3,
    learning_rate=1e-3,
    batch_size=2,
    prior_weight=0.7,
    prior_images=3,
    prior_steps=2,
)
#: Models of other families.
SAVE = {
    "xl": save_tiny_xl,
    "sd3": save_tiny_sd3,
    "flux": save_tiny_flux,
    "schnell": save_tiny_schnell,
}


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def directory(request, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models") / request.param
    if request.param in SAVE:
        return SAVE[request.param](place)
    return save_tiny_pipeline(place, prediction_type=request.param)


@pytest.fixture
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(
        str(directory),
        precision="fp32",
        device="cpu",
        sampler=Sampler("own", guidance=1.0),
        resolution=16,
    )


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
def recorded(monkeypatch) -> tuple[list[finetuning.Given], list[float]]:
    """Every draw and every loss of the fits in a test."""
    draws, losses = [], []
    draw, weighted = Term.draw, Loss.weighted

    def recording_draw(self, stage):
        rows, prompts = draw(self, stage)
        given = finetuning.Given(rows.latents, rows.noise, rows.timesteps, prompts)
        draws.append(given)
        return rows, prompts

    def recording_loss(self, terms):
        result = weighted(self, terms)
        losses.append(result.item())
        return result

    monkeypatch.setattr(Term, "draw", recording_draw)
    monkeypatch.setattr(Loss, "weighted", recording_loss)
    return draws, losses


def fit(method, subject: Subject, backbone: LatentDiffusion, *, seed: int = 0) -> HandTools:
    """Fit, and give what was told."""
    tools = HandTools(method, subject, seed)
    method.fit(subject, backbone, tools)
    return tools


def terms(method, subject: Subject, backbone: LatentDiffusion, *, seed: int = 0) -> list[Term]:
    return method.terms(subject, backbone.stages[0], HandTools(method, subject, seed))


def images(subject: Subject) -> torch.Tensor:
    return HandTools(TINY, subject).images(16)


def weights(backbone: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, module in backbone.modules().items()
        for key, tensor in (*module.named_parameters(), *module.named_buffers())
    }


@pytest.mark.parametrize(
    ("directory", "train_text_encoder", "prior_weight", "max_grad_norm"),
    [
        *product(["v_prediction", "epsilon"], [False, True], [0.7, 0.0], [0.0, 0.05]),
        *product(SAVE, [False, True], [0.7], [0.05]),
    ],
    indirect=["directory"],
)
def test_dreambooth_steps_are_the_papers(
    backbone, directory, subject, recorded, train_text_encoder, prior_weight, max_grad_norm
):
    given, losses = recorded
    before = weights(backbone)
    method = replace(
        TINY,
        train_text_encoder=train_text_encoder,
        prior_weight=prior_weight,
        max_grad_norm=max_grad_norm,
    )
    told = fit(method, subject, backbone)
    count = 2 if prior_weight else 1
    assert len(given) == 3 * count
    assert {tuple(g.prompts) for g in given[::count]} == {("a sks dog",) * 2}
    if prior_weight:
        assert {tuple(g.prompts) for g in given[1::2]} == {("a dog",) * 2}
    expected = finetuning.dreambooth_steps(
        directory,
        [given[i : i + count] for i in range(0, len(given), count)],
        prior_weight=prior_weight,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        max_grad_norm=max_grad_norm,
        train_text_encoder=train_text_encoder,
    )
    np.testing.assert_allclose(losses, expected.losses, rtol=1e-5, atol=1e-5)
    assert {tuple(told.losses[step]) for step in (1, 2, 3)} == {("instance", "prior")[:count]}
    unweighted = [list(told.losses[step].values()) for step in (1, 2, 3)]
    np.testing.assert_allclose(unweighted, expected.terms, rtol=1e-5, atol=1e-5)
    found = weights(backbone)
    check_learned(found, expected, before, method.learning_rate)
    untouched = set(found) - set(expected.weights)
    assert any(name.startswith("vae.") for name in untouched)
    assert all(torch.equal(found[name], before[name]) for name in untouched)


def check_learned(found, expected: finetuning.Result, before, learning_rate: float) -> None:
    """The weights that were learned are those expected, wherever their gradients are sure."""
    compared, total = 0, 0
    for name, weight in expected.weights.items():
        sure = expected.smallest[name] > 3e-5
        torch.testing.assert_close(found[name][sure], weight[sure], atol=1e-5, rtol=0)
        assert (found[name] - weight).abs().max() <= 6.1 * learning_rate
        compared, total = compared + int(sure.sum()), total + sure.numel()
        if sure.any():
            assert not torch.equal(found[name], before[name])
    assert compared > 0.5 * total


@pytest.mark.parametrize(
    ("directory", "passes", "train_text_encoder"),
    [
        *product(["epsilon"], [1, 2, 3, 4, 9], [False]),
        ("epsilon", 2, True),
        ("xl", 2, True),
    ],
    indirect=["directory"],
)
def test_gradients_of_several_passes_add_up_to_those_of_one(
    backbone, directory, subject, recorded, passes, train_text_encoder
):
    """The four rows of a step, two of them instance images: 3 passes cut through a term."""
    given, _ = recorded
    before, rows = weights(backbone), []
    handle = backbone.stages[0].denoiser.register_forward_pre_hook(
        lambda _module, inputs: rows.append(len(inputs[0]))
    )
    method = replace(
        TINY, steps=2, gradient_accumulation=passes, train_text_encoder=train_text_encoder
    )
    told = fit(method, subject, backbone)
    handle.remove()
    assert rows == {1: [4], 2: [2, 2], 3: [1, 1, 2], 4: [1] * 4, 9: [1] * 4}[passes] * 2
    expected = finetuning.dreambooth_steps(
        directory,
        [given[:2], given[2:]],
        prior_weight=method.prior_weight,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        max_grad_norm=method.max_grad_norm,
        train_text_encoder=train_text_encoder,
    )
    unweighted = [list(told.losses[step].values()) for step in (1, 2)]
    np.testing.assert_allclose(unweighted, expected.terms, rtol=1e-5, atol=1e-5)
    check_learned(weights(backbone), expected, before, method.learning_rate)


def test_an_inversion_is_the_same_in_several_passes(backbone, subject):
    method = TextualInversion(identifier="sks", steps=3, learning_rate=1e-2, batch_size=3)
    tools = HandTools(method, subject)
    whole = method.fit(subject, backbone, tools)
    parts = replace(method, gradient_accumulation=2).fit(subject, backbone, tools)
    for name, vector in whole.items():
        torch.testing.assert_close(parts[name], vector, atol=1e-6, rtol=0)


def stand_in(made: list) -> ModuleType:
    """A module called bitsandbytes, whose AdamW8bit is torch's AdamW: the library is not here."""

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, params, **given):
            made.append(given)
            super().__init__(params, **given)

    library = ModuleType("bitsandbytes")
    library.optim = ModuleType("bitsandbytes.optim")
    library.optim.AdamW8bit = AdamW8bit
    return library


@pytest.mark.parametrize("plain", [TINY, TextualInversion(identifier="sks", steps=3)])
def test_the_8_bit_optimiser_is_the_librarys(backbone, subject, monkeypatch, plain):
    made: list[dict] = []
    library = stand_in(made)
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", library.optim)
    fit(replace(plain, optimiser="adamw-8bit"), subject, backbone)
    assert made == [{"lr": plain.learning_rate, "weight_decay": plain.weight_decay}]


def test_the_8_bit_optimiser_is_refused_where_it_does_not_run(monkeypatch):
    method = replace(TINY, optimiser="adamw-8bit")
    TINY.check_device("cpu")
    with pytest.raises(UserError, match="runs on a CUDA GPU, and this is a cpu: leave the setting"):
        method.check_device("cpu")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'dreambooth-benchmark\[8bit\]'"):
        method.check_device("cuda")


@pytest.mark.parametrize("directory", ["v_prediction", "epsilon", *SAVE], indirect=True)
def test_textual_inversion_steps_move_one_vector_and_nothing_else(
    backbone, directory, subject, recorded, monkeypatch
):
    given, losses = recorded
    before = weights(backbone)
    method = TextualInversion(identifier="sks", steps=4)
    told = HandTools(method, subject)
    learned = method.fit(subject, backbone, told)
    assert all(torch.equal(before[name], w) for name, w in weights(backbone).items())
    assert not any(p.requires_grad for m in backbone.modules().values() for p in m.parameters())
    assert {p for g in given for p in g.prompts} <= {"a sks", "a photo of a sks"}
    vectors, expected = finetuning.textual_inversion_steps(
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
    encode, asked = LatentDiffusion.encode, []

    def recording(self, texts, *, words=()):
        asked.append((texts, words))
        return encode(self, texts, words=words)

    monkeypatch.setattr(LatentDiffusion, "encode", recording)
    snow = Request(Prompt("a {} in the snow", "recontextualization"), 0, 5)
    method.generate(learned, subject, [snow], backbone, told)
    [(texts, [word])] = asked
    assert texts == ["", "a sks in the snow"] and word.text == "sks"
    start = backbone.new_word("sks", init="dog")
    assert word.vectors.keys() == vectors.keys() == start.vectors.keys()
    for name, vector in vectors.items():
        torch.testing.assert_close(word.vectors[name], vector, atol=1e-5, rtol=0)
        assert (vector - start.vectors[name].detach()).abs().max() > 0.005


@pytest.mark.more
@pytest.mark.parametrize("directory", ["flux"], indirect=True)
@pytest.mark.parametrize("method", [TINY, TextualInversion(identifier="sks", steps=3)])
def test_the_guidance_that_is_told_in_training_is_a_setting(
    backbone, directory, subject, recorded, monkeypatch, method
):
    given, losses = recorded
    loan = Loan(backbone)
    fit(replace(method, training_guidance=3.5), subject, backbone)
    loan.settle(thorough=False)
    fit(method, subject, backbone)
    loan.settle(thorough=False)
    usual, again = losses[:3], losses[3:]
    assert usual == again, "the family's default"
    given.clear(), losses.clear()
    fit(replace(method, training_guidance=1.0), subject, backbone)
    pipe, terms = finetuning.pipeline(directory), len(given) // 3

    def first() -> float:
        with torch.no_grad():
            parts = [finetuning.term_loss(pipe, one).item() for one in given[:terms]]
        return parts[0] + sum(0.7 * part for part in parts[1:])

    if method is TINY:
        assert losses[0] != pytest.approx(first(), rel=1e-4)
        monkeypatch.setattr(finetuning, "GUIDANCE", 1.0)
        assert losses[0] == pytest.approx(first(), rel=1e-5)
    assert all(
        one != pytest.approx(told, rel=1e-4) for one, told in zip(losses, usual, strict=True)
    )


def test_drawn_latents_are_the_vaes_own_samples(backbone, directory, subject):
    method = replace(TINY, prior_weight=0.0, batch_size=1)
    [instance] = terms(method, subject, backbone, seed=3)
    draw, _ = instance.draw(backbone.stages[0])
    generator = seeded(3, subject.name, "instance")
    index = torch.randint(3, (1,), generator=generator)
    timesteps = torch.randint(1000, (1,), generator=generator)
    vae = finetuning.pipeline(directory).vae
    with torch.no_grad():
        image = images(subject)[index] * 2 - 1
        sample = vae.encode(image).latent_dist.sample(generator=generator) * 0.7
    torch.testing.assert_close(draw.latents, sample, atol=1e-5, rtol=1e-5)
    assert torch.equal(draw.timesteps, timesteps)
    assert torch.equal(draw.noise, torch.randn(sample.shape, generator=generator))


def test_latents_are_drawn_anew_each_step_in_the_moments_distribution(backbone, subject):
    [instance] = terms(replace(TINY, prior_weight=0.0, batch_size=1), subject, backbone)
    one = replace(instance, clean=instance.clean[:1])
    drawn = torch.cat([one.draw(backbone.stages[0])[0].latents for _ in range(2000)])
    assert len({row.numpy().tobytes() for row in drawn}) == 2000
    standard = (drawn - one.clean.mean) / one.clean.std
    assert standard.mean(dim=0).abs().max() < 0.15  # 6 standard errors
    assert (standard.std(dim=0) - 1).abs().max() < 0.1


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_prompts_are_encoded_once_unless_the_text_encoder_learns(
    backbone, subject, monkeypatch, train_text_encoder
):
    calls = []
    encode = LatentDiffusion.encode
    monkeypatch.setattr(
        LatentDiffusion,
        "encode",
        lambda self, texts, **options: calls.append(texts) or encode(self, texts, **options),
    )
    method = replace(TINY, train_text_encoder=train_text_encoder)
    fit(method, subject, backbone)
    assert len(calls) == (method.steps if train_text_encoder else 1)


@pytest.mark.more
def test_half_precision_that_overflows_at_every_scale_is_an_error(directory, subject, monkeypatch):
    backbone = load_backbone(str(directory), precision="fp16", device="cpu")
    weighted = Loss.weighted
    monkeypatch.setattr(Loss, "weighted", lambda *a: _Overflowing.apply(weighted(*a)))
    method = replace(TINY, prior_weight=0.0, steps=25)
    before = weights(backbone)
    with pytest.raises(FloatingPointError, match="overflow float16 at every scale by step 25"):
        fit(method, subject, backbone)
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
        Moments(torch.arange(4.0).view(4, 1, 1, 1), torch.zeros(4, 1, 1, 1)),
        prompts=["a dog", "a cat"],
        generator=seeded(0),
        name="instance",
        batch_size=8000,
    )
    draw, prompts = term.draw(backbone.stages[0])
    assert torch.bincount(draw.latents.flatten().long()).sub(2000).abs().max() < 200
    assert torch.histc(draw.timesteps.float(), 10, 0, 1000).sub(800).abs().max() < 150
    assert draw.timesteps.min() <= 1 and draw.timesteps.max() >= 998
    assert abs(prompts.count("a dog") - 4000) < 250
    assert abs(draw.noise.mean()) < 0.05 and abs(draw.noise.std() - 1) < 0.05


def test_the_instance_term_sees_the_same_with_and_without_prior(backbone, subject):
    [stage] = backbone.stages
    with_prior, _ = terms(TINY, subject, backbone)[0].draw(stage)
    without, _ = terms(replace(TINY, prior_weight=0.0), subject, backbone)[0].draw(stage)
    assert all(map(torch.equal, with_prior._tensors(), without._tensors()))


def test_the_same_seed_gives_the_same_weights(backbone, subject):
    def fitted(seed: int) -> dict[str, torch.Tensor]:
        method = replace(TINY, train_text_encoder=True)
        fit(method, subject, backbone, seed=seed)
        found = weights(backbone)
        assert loan.settle(thorough=False) == []
        return found

    loan = Loan(backbone)
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
        fit(method, subject, backbone)


def test_progress_counts_every_step(backbone, subject):
    told = fit(replace(TINY, prior_weight=0.0), subject, backbone)
    assert told.steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.more
def test_losses_are_told_evenly_as_means_since_they_were_last_told(backbone, subject, monkeypatch):
    each, reads = [], []
    losses, tolist = Loss.of_terms, torch.Tensor.tolist

    def recording(self, passes):
        [result] = losses(self, passes)
        each.append([loss.item() for loss in result])
        yield result

    def counted(self):
        reads.append(self)
        return tolist(self)

    monkeypatch.setattr(Loss, "of_terms", recording)
    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    told = fit(replace(TINY, steps=85, batch_size=1), subject, backbone)
    # In 85 steps every third and the last: 29 times, and the losses are read at no other step.
    assert list(told.losses) == [*range(3, 85, 3), 85]
    assert len(told.steps) == 85 and len(reads) == 29
    assert each[0][0] != each[0][1]
    for first, last in [(0, 3), (3, 6), (81, 84), (84, 85)]:
        means = np.mean(each[first:last], axis=0)
        np.testing.assert_allclose(list(told.losses[last].values()), means, rtol=1e-5)


@pytest.mark.more
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(directory, subject, recorded, precision):
    _, losses = recorded
    backbone = load_backbone(str(directory), precision=precision, device="cpu")
    before = weights(backbone)
    method = replace(TINY, steps=20, prior_weight=0.0, train_text_encoder=True)
    fit(method, subject, backbone)
    found = weights(backbone)
    assert {w.dtype for w in found.values() if w.is_floating_point()} == {torch.float32}
    assert any(not torch.equal(found[name], before[name]) for name in found)
    exact = load_backbone(str(directory), precision="fp32", device="cpu")
    fit(method, subject, exact)
    half, full = losses[:20], losses[20:]
    assert np.abs(np.subtract(half, full)).max() < 0.1
    assert losses[0] != losses[20]


@pytest.mark.more
def test_training_lowers_the_loss(backbone, subject):
    [stage], [term] = (
        backbone.stages,
        terms(replace(TINY, prior_weight=0.0, batch_size=32), subject, backbone),
    )
    loss = Loss(stage, [term], fixed_conditions(backbone, term.prompts))

    def now() -> float:
        with torch.no_grad():
            fresh = replace(term, generator=seeded(9))
            [[mean]] = replace(loss, terms=[fresh]).of_terms()
            return mean.item()

    before = now()
    stage.denoiser.requires_grad_(True)
    optimisation = Optimisation(steps=40, learning_rate=2e-3)
    told = HandTools(TINY, subject)
    train(loss, list(stage.denoiser.parameters()), optimisation, "fp32", told.progress)
    assert now() < 0.9 * before
