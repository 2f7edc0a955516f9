"""Adapters: LoRA against a plain step of peft's and diffusers', and all that peft has."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, set_peft_model_state_dict

from benchmark.api import Backbone, Prompt, Request, Sampler, Subject, UserError
from benchmark.config.suite import load_suite
from benchmark.models.layers import named_layers
from benchmark.models.loading import load_backbone
from methods.adapters import DREAMBOOTH_LORA, DREAMBOOTH_PEFT
from methods.drawing import draw
from methods.peft_adapters import CALLED, Adapter, adapters, check_adapter
from methods.training import Term
from tests.hand_tools import HandTools
from tests.methods.conftest import SAVE
from tests.reference import finetuning

SHORT = {
    "identifier": "sks",
    "steps": 3,
    "learning_rate": 1e-2,
    "prior_images": 2,
    "prior_steps": 2,
    "batch_size": 2,
}
LORA = replace(DREAMBOOTH_LORA, **SHORT)
PEFT = replace(DREAMBOOTH_PEFT, **SHORT)
#: As diffusers' scripts lay LoRA on a U-Net.
PROJECTIONS = ["to_k", "to_q", "to_v", "to_out.0"]
REQUEST = Request(Prompt("a {} in the snow", "recontextualization"), 0, 7)
#: What fits layers of 16 x 16, where peft's own default does not.
FITTING = {
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 20, "scaling": 10.0},
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "waveft": {"n_frequency": 20},
}
#: What peft has for layers and DreamBooth cannot use, and what is said of it.
REFUSED = {
    "poly": "task_ids should not be None",
    "shadow": "Unable to automatically locate the transformer backbone",
    "tinylora": "it does not draw from what it keeps",  # nor from what lies outside the layers
    "trainable_tokens": "Expected a long tensor",
    "unilora": "unilora_theta_d",
    "vblora": "vblora_vector_bank",
}


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in backbone.modules().items()
        for key, tensor in module.state_dict().items()
    }


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("prior_weight", [0.7, 0.0])
def test_loras_steps_are_those_of_peft_and_diffusers(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    prior_weight: float,
) -> None:
    given: list[finetuning.Given] = []
    draw_rows = Term.draw

    def recording(self, stage):
        rows, prompts = draw_rows(self, stage)
        given.append(finetuning.Given(rows.latents, rows.noise, rows.timesteps, prompts))
        return rows, prompts

    monkeypatch.setattr(Term, "draw", recording)
    method = replace(LORA, rank=3, alpha=6.0, prior_weight=prior_weight)
    tools = HandTools(method, subject)
    found = method.fit(subject, backbone, tools)
    count = 2 if prior_weight else 1
    expected = finetuning.dreambooth_steps(
        models["sd"],
        [given[i : i + count] for i in range(0, len(given), count)],
        prior_weight=prior_weight,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        max_grad_norm=method.max_grad_norm,
        train_text_encoder=False,
        lora=LoraConfig(
            r=3, lora_alpha=6.0, init_lora_weights="gaussian", target_modules=PROJECTIONS
        ),
    )
    told = [list(tools.losses[step].values()) for step in (1, 2, 3)]
    np.testing.assert_allclose(told, expected.terms, rtol=1e-5, atol=1e-5)
    plain = {name.replace(".default", ""): w for name, w in expected.weights.items()}
    assert {name.removeprefix("denoiser.") for name in found} == plain.keys()
    compared = 0
    for name, weight in expected.weights.items():
        sure = expected.smallest[name] > 3e-5  # else AdamW divides rounding noise by itself
        mine = found[f"denoiser.{name.replace('.default', '')}"]
        torch.testing.assert_close(mine[sure], weight[sure], atol=1e-5, rtol=0)
        compared += int(sure.sum())
    assert compared > 0.2 * sum(weight.numel() for weight in plain.values())


@pytest.mark.parametrize("name", [*SAVE])
def test_lora_learns_and_draws_the_same_on_narrow_weights(
    models: dict[str, Path], subject: Subject, name: str
) -> None:
    """Bit by bit: autocast takes a layer's weights in its precision in any case."""
    backbone = load_backbone(
        str(models[name]), precision="bf16", device="cpu", sampler=Sampler("own", 2)
    )
    before = state(backbone)
    found = []
    for method in (LORA, replace(LORA, narrow_weights=True)):
        tools = HandTools(method, subject)
        learned = method.fit(subject, backbone, tools)
        weights = {name: tensor.clone() for name, tensor in learned.items()}
        images = method.generate(weights, subject, [REQUEST], backbone, tools)
        found.append(weights | {"images": images})
    assert equal(*found) and all(tensor.dtype == torch.float32 for tensor in found[1].values())
    assert equal(state(backbone), before)


def test_a_plain_pipeline_with_the_same_lora_draws_the_same(
    models: dict[str, Path], backbone: Backbone, subject: Subject
) -> None:
    tools = HandTools(LORA, subject)
    weights = LORA.fit(subject, backbone, tools)
    mine = LORA.generate(weights, subject, [REQUEST], backbone, tools)
    pipe = finetuning.pipeline(models["sd"])
    assert isinstance(pipe, StableDiffusionPipeline)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=PROJECTIONS)
    pipe.unet.add_adapter(config)
    own = {name.removeprefix("denoiser.unet."): weight for name, weight in weights.items()}
    result = set_peft_model_state_dict(pipe.unet, own, "default")
    assert not result.unexpected_keys
    theirs = pipe(
        "a sks dog in the snow",
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
        output_type="pt",
    ).images
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    untuned = draw(backbone, ["a sks dog in the snow"], [REQUEST])
    assert (mine - untuned).abs().max() > 1e-2


@pytest.mark.parametrize("adapter", sorted({*adapters(), *CALLED} - {*REFUSED}))
def test_what_peft_has_learns_draws_and_leaves_nothing(
    backbone: Backbone, subject: Subject, adapter: str
) -> None:
    check_adapter(Adapter(adapter, {}))
    method = replace(PEFT, adapter=adapter, options=FITTING.get(adapter, {}))
    before = state(backbone)
    untuned = draw(backbone, ["a sks dog in the snow"], [REQUEST])
    tools = HandTools(method, subject)
    weights = {key: w.clone() for key, w in method.fit(subject, backbone, tools).items()}
    assert equal(state(backbone), before)
    images = method.generate(weights, subject, [REQUEST], backbone, tools)
    assert equal(state(backbone), before)
    assert not torch.allclose(images, untuned, atol=1e-4)
    again = replace(method).generate(weights, subject, [REQUEST], backbone, tools)
    assert torch.equal(again, images)
    assert not any(p.requires_grad for m in backbone.modules().values() for p in m.parameters())


def test_a_kernel_that_cannot_be_built_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch warns as its builder is imported where there is CUDA and no GPU; peft imports it."""
    builder, told = "torch.utils.cpp_extension", list[logging.LogRecord]()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger(builder), "handle", told.append)

    def imported_anew(use: Callable[[], object]) -> int:
        monkeypatch.delitem(sys.modules, builder, raising=False)
        monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", None)
        use()
        assert builder in sys.modules
        return len(told)

    assert imported_anew(lambda: check_adapter(Adapter("boft", {}))) == 0
    assert imported_anew(lambda: importlib.import_module(builder)) > 0, "there is something to hear"


@pytest.mark.parametrize("adapter", REFUSED)
def test_what_cannot_be_used_is_refused_before_anything_trains(adapter: str) -> None:
    with pytest.raises(UserError, match=f"adapter '{adapter}' with {{}}: .*{REFUSED[adapter]}"):
        replace(PEFT, adapter=adapter).check_device("cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adapter": "lorra"}, "peft has no adapter 'lorra' that lies .*; it has: .*dora.*lora"),
        ({"adapter": "prefix_tuning"}, "peft has no adapter 'prefix_tuning' that lies"),
        ({"options": {"rank": 4}}, "adapter 'lora' has no option 'rank'; it has: .* r,"),
        ({"options": {"target_modules": "to_q"}}, "has no option 'target_modules'"),
        ({"options": {"r": 0}}, "adapter 'lora' with {'r': 0}: "),
        ({"options": {"r": "x"}}, "adapter 'lora' with {'r': 'x'}: "),
    ],
)
def test_names_and_options_that_peft_lacks_are_named(changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(PEFT, **changed).check_device("cpu")


def test_layers_that_are_none_are_named(backbone: Backbone, subject: Subject) -> None:
    method = replace(LORA, targets="to_z")
    with pytest.raises(UserError, match="no layer of UNet2DConditionModel is of 'to_z'.*attention"):
        method.fit(subject, backbone, HandTools(method, subject))


@pytest.mark.parametrize("backbone", ["sd", "xl", "sd3", "if"], indirect=True)
@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_lora_runs_on_every_family(
    backbone: Backbone, subject: Subject, train_text_encoder: bool
) -> None:
    method = replace(LORA, train_text_encoder=train_text_encoder, prior_scheduler="own")
    before, tools = state(backbone), HandTools(method, subject)
    weights = {key: w.clone() for key, w in method.fit(subject, backbone, tools).items()}
    images = method.generate(weights, subject, [REQUEST], backbone, tools)
    assert images.shape == (1, 3, backbone.resolution, backbone.resolution)
    assert equal(state(backbone), before)
    parts = {key.split(".")[0] for key in weights}
    assert parts == {"denoiser", *(["text_encoder"] if train_text_encoder else [])}


def test_the_layers_of_a_part(backbone: Backbone) -> None:
    unet = backbone.stages[0].denoiser
    attention = named_layers(unet, "attention")
    assert {name.rpartition("attn")[2][2:] for name in attention} == {*PROJECTIONS}
    assert {n for n in attention if "attn2" in n} == {*named_layers(unet, "cross-attention")}
    assert named_layers(unet, "to_q") == [name for name in attention if name.endswith("to_q")]
    linear, everything = named_layers(unet, "linear"), named_layers(unet, "all")
    assert {*attention} < {*linear} < {*everything} and "conv_in" in {*everything} - {*linear}


@pytest.mark.parametrize("adapter", ["adalora", "adamss"])
def test_an_adapter_that_training_would_have_to_serve_each_step_is_not_offered(adapter) -> None:
    with pytest.raises(UserError, match=f"no adapter '{adapter}' that lies .* trains by itself"):
        check_adapter(Adapter(adapter, {"total_step": 10}))


def test_rank_and_alpha_are_said_once_and_lora_is_lora() -> None:
    for option, setting in (("r", "rank"), ("lora_alpha", "alpha")):
        with pytest.raises(UserError, match=f"options has {option}, .* the setting {setting}"):
            replace(LORA, options={option: 2})
    with pytest.raises(UserError, match="'lora', 'dora' or 'rslora'"):
        load_suite("pocket").method("dreambooth-lora[adapter=oft]")


def test_options_of_lora_are_no_other_adapters(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(
        'extends = "pocket"\nname = "mine"\ndescription = ""\n'
        "[methods.dreambooth-lora]\nsteps = 7\noptions = {lora_dropout = 0.1}\n"
    )
    suite = load_suite(str(path))
    other = suite.method("dreambooth-peft[adapter=oft]")
    assert (other.steps, other.options) == (7, {})
    assert suite.method("dreambooth-lora").options == {"lora_dropout": 0.1}
