"""The pocket generator's training: its schedule, checkpoints, pools, weights of the loss, trial."""

import itertools
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from benchmark.api import UserError
from benchmark.cli.app import app
from benchmark.models import precision
from benchmark.models.loading import load_backbone
from benchmark.pocket import pictures, trial, unet, vae
from benchmark.pocket.generator import (
    SHAPE,
    GeneratorRecipe,
    export_generator,
    pretrain_generator,
)
from benchmark.pocket.muon import Muon
from benchmark.pocket.pretrain import Workshop, pack_checkpoints
from benchmark.pocket.text_encoder import TEXT_WIDTH, Texts, build_text_encoder
from benchmark.pocket.training import (
    Recipe,
    checkpoint_step,
    load_average,
    pack,
    quick_autocast,
    step_generator,
    train_part,
)
from benchmark.pocket.unet import Frozen, Shape
from benchmark.pocket.vocabulary import build_tokenizer

RECIPE = Recipe(steps=40, batch=1, learning_rate=0.1, warmup=4, cooldown=0.5, weight_decay=0.0)


def fall(directory, recipe, steps=None, **options):
    """Train one weight along a gradient of 1; Adam's steps are then the rates themselves."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    met = []

    def loss_at(step):
        if step == steps:
            raise KeyboardInterrupt
        met.append(module.weight.item())
        return module.weight.sum()

    if steps is not None:
        with pytest.raises(KeyboardInterrupt):
            train_part("fall", module, loss_at, recipe, directory, **options)
    else:
        train_part("fall", module, loss_at, recipe, directory, **options)
    return torch.tensor([*met, module.weight.item()])


def test_the_rate_rises_stays_and_falls_to_nothing(tmp_path) -> None:
    rates = -fall(tmp_path, RECIPE).diff()
    by_hand = [0.025, 0.05, 0.075, *[0.1] * 18, *(0.1 * (40 - s) / 20 for s in range(21, 40))]
    assert torch.allclose(rates, torch.tensor(by_hand), rtol=1e-3)


def test_muon_steps_by_the_nearest_orthogonal_matrix(tmp_path) -> None:
    """Of a convolution, as the matrix of its output channels; 1-d weights stay with AdamW."""
    torch.manual_seed(0)
    module = nn.Conv2d(2, 4, 3)
    gradient = torch.randn_like(module.weight)
    before = module.weight.detach().clone()
    recipe = replace(RECIPE, steps=1, warmup=0, cooldown=0.0, clip=1e9, muon_rate=0.5)
    train_part(
        "conv", module, lambda _: (module.weight * gradient).sum(), recipe, tmp_path,
        by_muon=["weight"],
    )  # fmt: skip
    step = (before - module.weight.detach()).flatten(1) / 0.5
    left, _, right = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    # Muon's five iterations bring singular values near 1, not onto it.
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.6 and values.max() < 1.3
    cosine = torch.cosine_similarity(step.flatten(), (left @ right).flatten(), dim=0)
    assert cosine > 0.97


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)])
def test_muon_is_torchs_in_float32(shape: tuple[int, int]) -> None:
    """torch's orthogonalises in bf16, of three digits: what five steps differ by is that."""
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(5, *shape)
    ended = []
    for kind in (Muon, torch.optim.Muon):
        matrix = nn.Parameter(start.clone())
        optimizer = kind([matrix], lr=0.1, weight_decay=0.5)
        for gradient in gradients:
            matrix.grad = gradient
            optimizer.step()
        ended.append(matrix.detach())
    ours, theirs = ended
    assert torch.allclose(ours, theirs, atol=0.02)
    assert not torch.allclose(theirs, start, atol=0.2)


def test_validations_are_of_the_average_and_logged(tmp_path) -> None:
    seen = []
    fall(
        tmp_path,
        replace(RECIPE, validation_steps=20),
        validate=lambda average: seen.append(average.weight.item()) or {"weight": seen[-1]},
    )
    lines = [json.loads(line) for line in (tmp_path / "fall.jsonl").read_text().splitlines()]
    found = {line["step"]: line["weight"] for line in lines if "weight" in line}
    assert found == {20: round(seen[0], 6), 40: round(seen[1], 6)}
    assert load_file(tmp_path / "fall.safetensors")["average.weight"].item() == seen[1]


def test_a_packed_checkpoint_is_small_and_goes_on_from_the_average(tmp_path) -> None:
    eager = replace(RECIPE, checkpoint_seconds=0.0)
    fall(tmp_path / "here", eager, steps=30)
    pack(tmp_path / "here" / "fall.safetensors", tmp_path / "packed" / "fall.safetensors")
    packed = load_file(tmp_path / "packed" / "fall.safetensors")
    assert {k: v.dtype for k, v in packed.items()} == {"average.weight": torch.float16}
    assert checkpoint_step(tmp_path / "packed" / "fall.safetensors") == 30

    Workshop(tmp_path / "there", tmp_path / "packed").open()
    weights = fall(tmp_path / "there", eager)
    assert weights[0] == packed["average.weight"].float() and len(weights) == 11
    with pytest.raises(UserError, match="here holds checkpoints already"):
        Workshop(tmp_path / "here", tmp_path / "packed").open()
    with pytest.raises(UserError, match="nothing holds no packed checkpoint"):
        Workshop(tmp_path / "new", tmp_path / "nothing").open()


def test_packing_needs_a_checkpoint_and_takes_all(tmp_path) -> None:
    workshop = Workshop(tmp_path / "work")  # which is never opened: nothing is brought in
    with pytest.raises(UserError, match="work holds no checkpoint"):
        pack_checkpoints(workshop, tmp_path / "packed")
    fall(tmp_path / "work", RECIPE)
    assert pack_checkpoints(workshop, tmp_path / "packed") == [
        tmp_path / "packed" / "fall.safetensors"
    ]


def test_a_checkpoint_of_another_model_is_refused(tmp_path) -> None:
    path = tmp_path / "fall.safetensors"
    save_file({"average.weight": torch.zeros(2, 1)}, path, {"step": "3"})
    with pytest.raises(UserError, match=r"fall.safetensors is a checkpoint of another model"):
        fall(tmp_path, RECIPE)
    with pytest.raises(UserError, match=r"missing.safetensors is missing"):
        load_average(tmp_path / "missing.safetensors", nn.Linear(1, 1))


def test_a_broken_checkpoint_is_named(tmp_path) -> None:
    (tmp_path / "fall.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"fall.safetensors is no checkpoint that can be read"):
        pack_checkpoints(Workshop(tmp_path), tmp_path / "packed")
    (tmp_path / "fall.safetensors").unlink()
    os.mkfifo(tmp_path / "fall.safetensors")
    with pytest.raises(UserError, match=r"fall.safetensors is no checkpoint .*no regular file"):
        pack_checkpoints(Workshop(tmp_path), tmp_path / "packed")


def test_a_loss_that_is_not_finite_reaches_no_checkpoint(tmp_path) -> None:
    module = nn.Linear(1, 1, bias=False)
    recipe = replace(RECIPE, checkpoint_seconds=0.0)

    def loss_at(step):
        return module.weight.sum() * (torch.nan if step == 7 else 1.0)

    with pytest.raises(FloatingPointError, match="before step 8"):
        train_part("fall", module, loss_at, recipe, tmp_path)
    kept = load_file(tmp_path / "fall.safetensors")
    assert checkpoint_step(tmp_path / "fall.safetensors") == 7
    assert all(torch.isfinite(t).all() for t in kept.values())


def test_another_recipes_state_or_another_vae_is_refused(tmp_path) -> None:
    def train(steps, **options):
        module = nn.Conv2d(2, 2, 1)
        recipe = replace(RECIPE, steps=steps)
        return train_part("c", module, lambda _: module.weight.sum(), recipe, tmp_path, **options)

    train(3, by_muon=["weight"], made_on="one")
    train(6, by_muon=["weight"], made_on="one")
    with pytest.raises(UserError, match="trained by another recipe: --pack"):
        train(9, made_on="one")
    with pytest.raises(UserError, match="trained on another VAE"):
        train(9, by_muon=["weight"], made_on="two")
    train(6, made_on="one")  # what is finished needs no optimizer


def test_min_snr_weights_are_the_papers_for_v() -> None:
    kept = DDPMScheduler(**unet.NOISE).alphas_cumprod.double()
    snr = kept / (1 - kept)
    # Hang et al., 2303.09556, section 3.4: weights min(SNR, 5) on the error of x0, which is the
    # error of v over SNR + 1.
    by_hand = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    ratio = unet.snr_weights(torch.arange(1000)).double() / by_hand
    assert torch.allclose(ratio, ratio[0], rtol=1e-4)
    assert unet.snr_weights(torch.arange(1000)).mean() == pytest.approx(1.0, rel=1e-5)


@pytest.fixture(scope="module")
def frozen():
    tokenizer = build_tokenizer(["a", "dog"])
    torch.manual_seed(0)
    return Frozen(vae.build_vae().eval(), Texts(build_text_encoder(tokenizer).eval(), tokenizer))


def test_pools_roll_on_and_validation_is_apart(frozen, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(pictures, "POOL", 8)
    monkeypatch.setattr(unet, "VALIDATED", 8)
    seeds = []
    one_pool = pictures.draw_pool

    def noted(*key):
        seeds.append(key)
        return step_generator(*key)

    def draw_pool(*arguments):
        drawn.append(seeds[-1])
        return one_pool(*arguments)

    for module in (pictures, unet):
        monkeypatch.setattr(module, "step_generator", noted)
        monkeypatch.setattr(module, "draw_pool", draw_pool)
    held_out = unet.validation(frozen, "cpu")
    assert drawn == [("pool validation", 0)]
    assert held_out.timesteps.tolist() == [0, 125, 250, 375, 500, 625, 750, 875]
    examples = unet.batches(frozen, 4, "cpu")
    first = examples(3)
    assert first.noisy.shape == first.target.shape == (4, 8, 16, 16)
    steps = 8 * pictures.MEETINGS // 4  # a pool of 8, met MEETINGS times in batches of 4
    for step in range(2 * steps):
        examples(step)
    assert len(drawn) == len(set(drawn))  # nothing is drawn twice
    used = {index for name, index in drawn[1:] if name == "pool"}
    assert used <= set(range(pictures.POOLS + 1)) and len(used) >= pictures.POOLS - 1
    again = unet.batches(frozen, 4, "cpu")(3)
    assert torch.equal(first.noisy, again.noisy) and torch.equal(first.texts, again.texts)


def test_what_is_asked_for_is_v_of_what_is_shown(frozen) -> None:
    pool = pictures.draw_pool(frozen.latents, 4, step_generator("test", 0), "cpu")
    timesteps = torch.tensor([0, 300, 700, 999])
    found = unet.noised(pool, torch.arange(4), timesteps, step_generator("test", 1), frozen, "cpu")
    kept = DDPMScheduler(**unet.NOISE).alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    clean = kept.sqrt() * found.noisy - (1 - kept).sqrt() * found.target
    assert torch.allclose(clean, pool.encoded.float(), atol=1e-4)


@pytest.mark.more
def test_four_parts_make_a_pipeline_of_their_averages(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "POOL", 8)
    monkeypatch.setattr(unet, "VALIDATED", 8)
    monkeypatch.setattr(vae, "SCALED", 16)
    recipe = Recipe(steps=2, batch=2, learning_rate=1e-3, warmup=1, cooldown=0.5)
    sizes = GeneratorRecipe(text=replace(recipe, batch=16), vae=recipe, decoder=recipe, unet=recipe)
    work, made = tmp_path / "work", tmp_path / "generator"
    pretrain_generator(sizes, work, made, "cpu")

    backbone = load_backbone(str(made), precision="fp32")
    modules = backbone.modules()
    for part, module, inside, prefix in (
        ("text", "text_encoder", "", "text_encoder."),
        ("vae", "vae", "encoder.", ""),
        ("decoder", "vae", "decoder.", ""),  # the one trained alone, not the VAE's
        ("unet", "unet", "", ""),
    ):
        kept = load_file(work / f"{part}.safetensors")
        found = [(n, p) for n, p in modules[module].named_parameters() if n.startswith(inside)]
        assert found
        for name, tensor in found:
            assert torch.equal(tensor, kept[f"average.{prefix}{name}"].half().float()), name
    _, _, shown = pictures.draw(16, step_generator("scale", 0), "cpu")
    latents = backbone.pipeline.vae.encode(shown * 2 - 1).latent_dist.mean
    scale = backbone.pipeline.vae.config.scaling_factor
    assert latents.std().item() * scale == pytest.approx(1.0, abs=0.01)

    # Another VAE beside the same U-Net is no generator.
    averages = load_file(work / "vae.safetensors")
    averages["average.encoder.conv_in.bias"] += 1
    save_file(averages, work / "vae.safetensors", {"step": "2", "made_on": ""})
    with pytest.raises(UserError, match=r"unet.safetensors was trained on another VAE"):
        export_generator(work, tmp_path / "again")


def test_the_generators_unet_is_one_that_diffusers_pipeline_takes() -> None:
    built = SHAPE.build(8, 16, TEXT_WIDTH)
    # As TRAINING.md says: text is read in the middle alone.
    assert 2.85e6 < sum(p.numel() for p in built.parameters()) < 2.95e6
    reads = {name.split(".")[0] for name, _ in built.named_modules() if name.endswith("attn2")}
    assert reads == {"mid_block"} and built.config.block_out_channels == (64, 128)
    config = Shape((32, 64), "DC").build(8, 16, 32).config
    assert config.down_block_types == ("DownBlock2D", "CrossAttnDownBlock2D")
    assert config.up_block_types == ("CrossAttnUpBlock2D", "UpBlock2D")
    assert config.block_out_channels == (32, 64)


@pytest.mark.parametrize(
    "text", ["64-128", "64:DC", "64-128:DX", "64-128:DC:fast", "60-128:DC", "x:D", ""]
)
def test_a_wrong_arm_is_refused(text) -> None:
    with pytest.raises(UserError, match=f"'{text}'"):
        trial.Arm.parse(text)


@pytest.mark.slow
def test_an_arm_trains_and_is_measured(frozen, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "POOL", 8)
    monkeypatch.setattr(unet, "VALIDATED", 16)
    monkeypatch.setattr(trial, "BATCH", 4)
    # A clock that goes on by 1/64 s a step: 1.2 s are 77 steps on any machine.
    clock = itertools.count(step=1 / 64)
    monkeypatch.setattr(trial, "time", SimpleNamespace(process_time=lambda: next(clock)))
    examples, held_out = unet.batches(frozen, 4, "cpu"), unet.validation(frozen, "cpu")
    for text, fold in (("16-32:DC", 1), ("x2:16-32:DD:adamw:plain", 2)):
        arm = trial.Arm.parse(text)
        row = trial.run_arm(arm, examples, held_out, 0.02)
        assert len(row) == len(trial.COLUMNS) and row[0] == text
        assert row[-4] == f"{77 * 4}"
        torch.manual_seed(1)
        untrained = arm.shape.build(8 * fold**2, 16 // fold, 128)
        before = unet.validation_errors(untrained, arm.folded(held_out)).mean().item()
        assert float(row[-3]) < 0.98 * before
        assert arm.folded(held_out).noisy.shape == (16, 8 * fold**2, 16 // fold, 16 // fold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluate", "--export"], "exclude one another"),
        (["--card"], "--card is about the shipped models"),
        (["--evaluate", "--card", "--out", "x"], "--card is about the shipped models"),
        (["--export", "--out", "x"], "text.safetensors is missing"),
        (["--pack", "y"], "holds no checkpoint"),
        (["clip", "--export"], "'clip' is a part to train"),
    ],
)
def test_what_pretrain_cannot_do_it_says(tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["pretrain", *options])
    assert found.exit_code != 0
    assert message in str(found.exception) + found.output


def test_the_unets_loss_is_weighted_and_its_validation_is_not(
    frozen, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(pictures, "POOL", 8)
    monkeypatch.setattr(unet, "VALIDATED", 8)
    given = {}

    def train_part(name, module, loss_at, *_, validate, **options):
        given.update(module=module, loss_at=loss_at, validate=validate)
        return module

    monkeypatch.setattr(unet, "train_part", train_part)
    recipe = replace(RECIPE, batch=4)
    unet.train_unet(Shape((16, 32), "DD"), frozen, recipe, tmp_path, "cpu")
    batch, held_out = unet.batches(frozen, 4, "cpu")(3), unet.validation(frozen, "cpu")
    weights = unet.snr_weights(batch.timesteps)
    with torch.no_grad():
        loss = (batch.errors(given["module"]) * weights).sum() / 4
        plain = held_out.errors(given["module"]).mean()
        assert given["loss_at"](3).item() == pytest.approx(loss.item(), rel=1e-5)
    assert given["validate"](given["module"]) == {
        "validation_loss": pytest.approx(plain.item(), rel=1e-5)
    }
    assert weights.std() > 0.1


@pytest.mark.parametrize(("quick", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_trainings_compute_in_bf16_only_where_it_is_quick(monkeypatch, quick, expected) -> None:
    """Emulated, a step of the U-Net took twenty times as long as in float32."""
    monkeypatch.setattr(precision, "_is_quick_at_bf16", lambda: quick)
    with quick_autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is expected
