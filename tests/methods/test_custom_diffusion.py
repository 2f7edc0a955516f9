"""Custom Diffusion against diffusers' attention processors; pivotal tuning against its halves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.api import Backbone, Sampler, Subject, UserError
from benchmark.config.suite import load_suite
from benchmark.models.loading import load_backbone
from benchmark.runs.plan import plan
from methods import training
from methods.custom_diffusion import CUSTOM_DIFFUSION
from methods.pivotal_tuning import PIVOTAL_TUNING
from methods.textual_inversion import TEXTUAL_INVERSION
from methods.training import Term
from tests.hand_tools import HandTools
from tests.methods.test_adapters import LORA, REQUEST, SHORT, equal, state
from tests.reference import finetuning

CUSTOM = replace(CUSTOM_DIFFUSION, **SHORT)
PIVOTAL = replace(PIVOTAL_TUNING, **SHORT, rank=4, word_steps=2, word_learning_rate=0.5)


def fitted(method, subject: Subject, backbone: Backbone) -> dict[str, torch.Tensor]:
    weights = method.fit(subject, backbone, HandTools(method, subject))
    return {name: weight.clone() for name, weight in weights.items()}


def test_custom_diffusions_steps_are_those_of_diffusers(
    models: dict[str, Path], backbone: Backbone, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[finetuning.Given] = []
    draw_rows = Term.draw

    def recording(self, stage):
        rows, prompts = draw_rows(self, stage)
        given.append(finetuning.Given(rows.latents, rows.noise, rows.timesteps, prompts))
        return rows, prompts

    monkeypatch.setattr(Term, "draw", recording)
    method, before = replace(CUSTOM, prior_weight=0.7), state(backbone)
    tools = HandTools(method, subject)
    found = method.fit(subject, backbone, tools)
    assert {prompt for one in given for prompt in one.prompts} == {"a sks dog", "a dog"}
    expected = finetuning.custom_diffusion_steps(
        models["sd"],
        [given[i : i + 2] for i in range(0, len(given), 2)],
        identifier="sks",
        prior_weight=0.7,
        learning_rate=method.learning_rate,
        weight_decay=method.weight_decay,
        max_grad_norm=method.max_grad_norm,
    )
    told = [list(tools.losses[step].values()) for step in (1, 2, 3)]
    np.testing.assert_allclose(told, expected.terms, rtol=1e-5, atol=1e-5)
    names = {name: f"denoiser.{name}" for name in expected.weights} | {"word": "word.text_encoder"}
    assert {*found} == {*names.values()}
    sure = {name: expected.smallest[name] > 3e-5 for name in names}  # else AdamW divides noise
    for name, mine in names.items():
        torch.testing.assert_close(
            found[mine][sure[name]], expected.weights[name][sure[name]], atol=1e-5, rtol=0
        )
        assert sure[name].any()
    moved = {k for k, tensor in state(backbone).items() if not torch.equal(tensor, before[k])}
    assert moved == {name for name in names if name != "word"}


def test_custom_diffusion_draws_from_what_it_learned_alone(
    models: dict[str, Path], backbone: Backbone, subject: Subject
) -> None:
    tools = HandTools(CUSTOM, subject)
    weights = fitted(CUSTOM, subject, backbone)
    pipe = finetuning.pipeline(models["sd"])
    named = finetuning.with_custom_attention(pipe.unet)
    for name, parameter in named.items():
        parameter.data.copy_(weights[f"denoiser.{name}"])
    [row] = pipe.tokenizer("sks", add_special_tokens=False).input_ids
    pipe.text_encoder.get_input_embeddings().weight.data[row] = weights["word.text_encoder"]
    theirs = pipe(
        "a sks dog in the snow",
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
        output_type="pt",
    ).images
    for module in backbone.modules().values():  # whatever is there, it is drawn from the weights
        module.requires_grad_(False)
    mine = CUSTOM.generate(weights, subject, [REQUEST], backbone, tools)
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("suite", ["dreambench-sd35", "dreambench-flux", "dreambench-if"])
def test_a_model_without_such_matrices_is_refused_with_the_reason(suite: str) -> None:
    chosen = load_suite(suite)
    chosen = chosen.model_copy(update={"data": load_suite("pocket").data})
    with pytest.raises(UserError, match="'custom-diffusion' needs cross-attention.* and backbone"):
        plan(chosen, ["custom-diffusion"], subjects=["dog"])


def test_text_encoders_do_not_learn_by_custom_diffusion() -> None:
    with pytest.raises(UserError, match="train_text_encoder is true"):
        replace(CUSTOM, train_text_encoder=True)


def test_the_pivot_is_textual_inversions_and_stays(backbone: Backbone, subject: Subject) -> None:
    before = state(backbone)
    weights = fitted(PIVOTAL, subject, backbone)
    assert equal(state(backbone), before)
    inversion = replace(
        TEXTUAL_INVERSION,
        identifier="sks",
        steps=2,
        learning_rate=0.5,
        batch_size=PIVOTAL.batch_size,
        templates=["a {} dog"],
    )
    alone = fitted(inversion, subject, backbone)
    assert torch.equal(weights.pop("word.text_encoder"), alone["text_encoder"])
    assert weights.keys() == fitted(LORA, subject, backbone).keys()


def test_the_word_stands_in_what_lora_learns_from(
    backbone: Backbone, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LoRA on a model whose table holds the word."""
    weights = fitted(PIVOTAL, subject, backbone)
    word = weights.pop("word.text_encoder")
    table = backbone.text_encoders["text_encoder"].get_input_embeddings().weight.data
    [row] = backbone.readers[0].tokenizer("sks", add_special_tokens=False).input_ids
    kept = table[row].clone()
    table[row] = word
    expected = fitted(LORA, subject, backbone)
    table[row] = kept
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_word_is_learned_on_narrow_weights_if_lora_is(
    models: dict[str, Path], subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And learns the same, bit by bit: two trainings of a word and an adapter each."""
    backbone = load_backbone(
        str(models["sd"]), precision="bf16", device="cpu", sampler=Sampler("own", 2)
    )
    layer = backbone.stages[0].denoiser.time_embedding.linear_1
    learn, seen = training.train, list[torch.dtype]()

    def looking(*given: object) -> None:
        seen.append(layer.weight.dtype)
        learn(*given)

    for module in ("stage_training", "words"):
        monkeypatch.setattr(f"methods.{module}.train", looking)
    wide = fitted(PIVOTAL, subject, backbone)
    narrow = fitted(replace(PIVOTAL, narrow_weights=True), subject, backbone)
    assert equal(wide, narrow) and layer.weight.dtype == torch.float32
    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("backbone", "method"),
    [("xl", CUSTOM), ("xl", PIVOTAL), ("sd3", PIVOTAL), ("if", PIVOTAL)],
    indirect=["backbone"],
)
def test_words_and_weights_are_drawn_on_other_families(
    backbone: Backbone, subject: Subject, method
) -> None:
    method = replace(method, prior_scheduler="own")
    weights = fitted(method, subject, backbone)
    tools = HandTools(method, subject)
    images = method.generate(weights, subject, [REQUEST], backbone, tools)
    assert images.shape == (1, 3, backbone.resolution, backbone.resolution)
    assert torch.equal(method.generate(weights, subject, [REQUEST], backbone, tools), images)
