"""Real images inverted, drawn again, and edited, against formulas written plainly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from benchmark.api import EDITING, Edit, Sampler, UserError
from benchmark.data.dataset import load_dataset
from benchmark.data.images import read_image
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.diffusion import attention_control
from benchmark.models.fitting import fitted
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
from tests.reference import finetuning
from tests.reference.prompt_to_prompt import Plain, Replaced
from tests.tiny_pipeline import save_tiny_pipeline, save_tiny_sd3, save_tiny_xl

SOURCE, EDITS = "a dog", ["a dog in the snow", "a photo of a dog", "a cat"]
STEPS = 5
SAVED = {
    "epsilon": lambda place: save_tiny_pipeline(place, prediction_type="epsilon"),
    "v": lambda place: save_tiny_pipeline(place, prediction_type="v_prediction"),
    "xl": save_tiny_xl,
}


@pytest.fixture(scope="module", params=SAVED)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVED[request.param](tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def plain(directory: Path) -> Plain:
    return Plain(finetuning.pipeline(directory), STEPS)


@pytest.fixture(scope="module")
def pocket() -> LatentDiffusion:
    return load_backbone("pocket", precision="fp32", device="cpu")


@pytest.fixture
def clean(backbone):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return backbone.stages[0].prepare(images)


def sampler(guidance: float, steps: int = STEPS) -> Sampler:
    return Sampler("ddim", steps, guidance)


def edited(backbone, inverted, texts, cross: float, own: float) -> torch.Tensor:
    edit = Edit(inverted, texts, cross, own)
    return backbone.sample(backbone.encode(texts), range(len(texts)), start=edit)


def psnr(images: torch.Tensor, others: torch.Tensor) -> float:
    """In decibels."""
    return float(-10 * torch.log10(((images - others) ** 2).mean()))


@torch.no_grad()
def test_the_noise_is_that_of_the_formula(backbone, plain, clean):
    """By the betas, in epsilon and in v: diffusers' inverse scheduler steps as DDIM says."""
    found = backbone.invert(clean, SOURCE, sampler=sampler(1.0)).noise
    expected = plain.inverted(clean.mean, SOURCE)
    assert (found - expected).abs().max() < 1e-4
    assert (found - clean.mean).abs().max() > 0.1


#: In 20 steps, of a denoiser that says a fiftieth of what it says: random weights say too much.
BACK = {"epsilon": 29, "v": 23, "xl": 36}


@torch.no_grad()
def test_the_noise_brings_the_image_back(request, directory):
    """The better, the more steps."""
    backbone, image = quiet(directory)
    kept, found = backbone._decode(image.mean), []
    for steps in (5, 20):
        inverted = backbone.invert(image, SOURCE, sampler=sampler(1.0, steps))
        found.append(psnr(edited(backbone, inverted, [SOURCE], 0.0, 0.0), kept))
    enough = BACK[request.node.callspec.params["directory"]]
    assert found[0] + 3 < found[1] and found[1] > enough, found


def quiet(directory: Path):
    """A backbone, and an image."""
    backbone = load_backbone(str(directory), precision="fp32", device="cpu")
    for parameter in backbone.stages[0].denoiser.conv_out.parameters():
        parameter.mul_(0.02)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return backbone, backbone.stages[0].prepare(images)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_with_nothing_replaced_it_is_a_plain_drawing(backbone, directory, clean, guidance):
    """That of diffusers' pipeline from the same noise."""
    inverted = backbone.invert(clean, SOURCE, sampler=sampler(guidance))
    pipe = finetuning.pipeline(directory)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    expected = pipe(
        EDITS,
        height=16,
        width=16,
        latents=inverted.noise.repeat(3, 1, 1, 1),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="pt",
    ).images
    assert (edited(backbone, inverted, EDITS, 0.0, 0.0) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_with_everything_replaced_the_same_prompt_is_the_reconstruction(backbone, clean):
    inverted = backbone.invert(clean, SOURCE, sampler=sampler(3.0))
    alone = edited(backbone, inverted, [SOURCE], 0.0, 0.0)
    beside = edited(backbone, inverted, [EDITS[0], SOURCE], 1.0, 1.0)
    torch.testing.assert_close(beside[1:], alone, atol=1e-4, rtol=0)
    assert (beside[0] - alone[0]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("cross", "own", "most"), [(0.8, 0.4, 1024), (1.0, 0.0, 1024), (0.0, 1.0, 1024), (0.6, 1.0, 15)]
)
def test_maps_are_replaced_as_hooks_do_it(backbone, plain, clean, monkeypatch, cross, own, most):
    """4 x 4 places: none of their self-attention is replaced where 15 are the most."""
    monkeypatch.setattr(attention_control, "MOST_PLACES", most)
    inverted = backbone.invert(clean, SOURCE, sampler=sampler(3.0))
    replaced = Replaced(round(cross * STEPS), round(own * STEPS), most)
    latents = plain.edited(inverted.noise, [SOURCE, *EDITS], 3.0, replaced)
    expected = plain.decoded(latents[1:])
    untouched = edited(backbone, inverted, EDITS, 0.0, 0.0)
    for batch in (1, 16):
        monkeypatch.setattr("benchmark.models.backbones.latent_stage.BATCH", batch)
        found = edited(backbone, inverted, EDITS, cross, own)
        assert (found - expected).abs().max() < 1e-4
    assert (found - untouched).abs().amax(dim=(1, 2, 3)).min() > 2e-3


@pytest.mark.more
@torch.no_grad()
def test_the_pocket_model_gives_a_photograph_back(pocket):
    """In v, in 20 steps: 20.27 dB to what the VAE makes of it."""
    clean = teapot(pocket)
    inverted = pocket.invert(clean, "a teapot", sampler=sampler(1.0, 20))
    found = edited(pocket, inverted, ["a teapot"], 0.8, 0.4)
    assert psnr(found, pocket._decode(clean.mean)) > 20


def teapot(pocket: LatentDiffusion):
    [subject] = (one for one in load_dataset("pocket").subjects if one.name == "teapot")
    return pocket.stages[0].prepare(fitted(read_image(subject.images[0]), 64)[None])


@pytest.mark.more
@torch.no_grad()
def test_null_texts_bring_it_back_under_guidance(pocket):
    """In 10 steps 16.59 dB without them, and 18.20 with three steps of learning for each."""
    clean, found = teapot(pocket), []
    for steps in (0, 3):
        inverted = pocket.invert(clean, "a teapot", sampler=sampler(3.0, 10), null_text_steps=steps)
        images = edited(pocket, inverted, ["a teapot"], 0.0, 0.0)
        found.append(psnr(images, pocket._decode(clean.mean)))
    assert found[0] + 1.4 < found[1], found
    assert all(parameter.grad is None for parameter in pocket.stages[0].denoiser.parameters())


@torch.no_grad()
def test_null_texts_are_learned_only_where_they_guide(backbone, clean):
    guided = backbone.invert(clean, SOURCE, sampler=sampler(3.0), null_text_steps=1)
    assert guided.null_texts.shape == (STEPS, *backbone.encode([""]).embeddings.shape[1:])
    unguided = backbone.invert(clean, SOURCE, sampler=sampler(1.0), null_text_steps=1)
    assert unguided.null_texts is None


@torch.no_grad()
def test_each_step_is_drawn_with_its_own_null_text(backbone, plain, clean):
    """Guided away from another text at every step, as the formula is."""
    inverted = backbone.invert(clean, SOURCE, sampler=sampler(3.0))
    texts = backbone.encode(["a cat", "a dog", "the snow", "a photo", "a teapot"]).embeddings
    found = edited(backbone, replace(inverted, null_texts=texts), EDITS, 0.6, 0.4)
    latents = plain.edited(inverted.noise, [SOURCE, *EDITS], 3.0, Replaced(3, 2), null_texts=texts)
    assert (found - plain.decoded(latents[1:])).abs().max() < 1e-4
    assert (found - edited(backbone, inverted, EDITS, 0.6, 0.4)).abs().max() > 1e-3


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_on_the_model(directory, clean, monkeypatch, fails):
    backbone = load_backbone(str(directory), precision="fp32", device="cpu")
    loan = Loan(backbone)
    inverted = backbone.invert(clean, SOURCE, sampler=sampler(3.0), null_text_steps=1)
    if fails:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(attention_control.Control, "replaced", stop)
            edited(backbone, inverted, EDITS, 1.0, 1.0)
    else:
        edited(backbone, inverted, EDITS, 1.0, 1.0)
    assert loan.settle(thorough=True) == [] and loan.whole


def stop(*_) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_inverted_is_refused(backbone, clean):
    with pytest.raises(UserError, match="inverted for ddim, not for 'euler'"):
        backbone.invert(clean, SOURCE, sampler=Sampler("euler", STEPS))
    odd = replace(backbone, scheduler={**backbone.scheduler, "timestep_spacing": "linspace"})
    with pytest.raises(UserError, match="timestep_spacing = 'linspace'.*leading or trailing"):
        odd.invert(clean, SOURCE, sampler=sampler(1.0, 20))
    with pytest.raises(ValueError, match="one image is inverted, not 2"):
        backbone.invert(clean.join(clean), SOURCE, sampler=sampler(1.0))


def test_an_edit_that_does_not_fit_is_refused(backbone, clean):
    inverted = backbone.invert(clean, SOURCE, sampler=sampler(1.0))
    condition = backbone.encode(EDITS)
    with pytest.raises(ValueError, match="3 rows of texts, but 2 texts"):
        backbone.sample(condition, [1, 2, 3], start=Edit(inverted, EDITS[:2], 0.5, 0.5))
    with pytest.raises(ValueError, match="the sampler that its image was inverted for"):
        edit = Edit(inverted, EDITS, 0.5, 0.5)
        backbone.sample(condition, [1, 2, 3], start=edit, sampler=sampler(1.0))
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="cross_replace is .*from 0 to 1"):
            Edit(inverted, EDITS, share, 0.5)


@torch.no_grad()
@pytest.mark.parametrize("zero_snr", [False, True])
def test_trailing_timesteps_are_inverted_too(tmp_path, zero_snr):
    """As models in v have them that were taught without a signal at the last."""
    place = save_tiny_pipeline(tmp_path / "tiny", prediction_type="v_prediction")
    path = place / "scheduler" / "scheduler_config.json"
    says = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": zero_snr}
    path.write_text(json.dumps(json.loads(path.read_text()) | says))
    backbone, image = quiet(place)
    inverted = backbone.invert(image, SOURCE, sampler=sampler(1.0, 20))
    found = edited(backbone, inverted, [SOURCE], 0.0, 0.0)
    assert psnr(found, backbone._decode(image.mean)) > 20


def test_families_say_whether_they_can(directory, tmp_path):
    assert EDITING in DIFFUSERS.capabilities(str(directory))
    assert EDITING not in DIFFUSERS.capabilities(str(save_tiny_sd3(tmp_path / "tiny")))


def test_a_family_that_cannot_has_no_inversion_and_refuses_an_edit(backbone, clean, tmp_path):
    other = load_backbone(str(save_tiny_sd3(tmp_path / "tiny")), precision="fp32", device="cpu")
    assert hasattr(backbone, "invert") and not hasattr(other, "invert")
    edit = Edit(backbone.invert(clean, SOURCE, sampler=sampler(1.0)), [SOURCE], 0.5, 0.5)
    with pytest.raises(UserError, match="start is of the kind Edit, and this model begins with"):
        other.sample(other.encode([SOURCE]), [0], start=edit)
