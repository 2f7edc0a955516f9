"""What `--keep-weights` writes for others: a plain pipeline that loads it draws the same image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline
from peft import PeftModel
from safetensors.torch import load_file

from benchmark.api import Backbone, Subject
from methods.drawing import draw
from methods.peft_adapters import CALLED, adapters
from methods.textual_inversion import TEXTUAL_INVERSION
from tests.hand_tools import HandTools
from tests.methods.test_adapters import FITTING, LORA, PEFT, REFUSED, REQUEST
from tests.methods.test_custom_diffusion import CUSTOM, PIVOTAL
from tests.reference import finetuning

INVERSION = replace(
    TEXTUAL_INVERSION, identifier="sks", steps=3, learning_rate=0.5, templates=["a {}"]
)


def drawn(pipe, prompt: str) -> torch.Tensor:
    """By the pipeline as it ships."""
    found = pipe(
        prompt,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
        output_type="pt",
    )
    return found.images


def load_words(pipe, folder: Path) -> None:
    for name, encoder in finetuning.text_encoders(pipe).items():
        number = name.removeprefix("text_encoder")
        pipe.load_textual_inversion(
            folder / f"learned_embeds{number}.safetensors",
            tokenizer=getattr(pipe, f"tokenizer{number}"),
            text_encoder=encoder,
        )


def learned(method, subject: Subject, backbone: Backbone, folder: Path) -> torch.Tensor:
    """What the method draws itself, once it has written what it learned to `folder`."""
    tools = HandTools(method, subject)
    weights = {k: w.clone() for k, w in method.fit(subject, backbone, tools).items()}
    method.export(weights, backbone, folder)
    mine = method.generate(weights, subject, [REQUEST], backbone, tools)
    assert (mine - draw(backbone, ["a sks dog in the snow"], [REQUEST])).abs().max() > 1e-3
    return mine


@pytest.mark.parametrize(
    ("backbone", "changed"),
    [
        ("sd", {}),
        ("sd", {"options": {"use_dora": True}, "targets": "to_q"}),
        ("xl", {"alpha": 9.0, "train_text_encoder": True}),
        ("sd3", {"targets": "linear"}),
    ],
    indirect=["backbone"],
)
def test_diffusers_loads_lora(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    changed: dict,
    request: pytest.FixtureRequest,
) -> None:
    method = replace(LORA, prior_scheduler="own", **changed)
    mine = learned(method, subject, backbone, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipe = finetuning.pipeline(models[request.node.callspec.params["backbone"]])
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(mine, drawn(pipe, "a sks dog in the snow"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backbone", ["if"], indirect=True)
@pytest.mark.parametrize("stages", [1, 2])
def test_each_pipeline_of_a_cascade_loads_its_own(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path, stages: int
) -> None:
    method = replace(LORA, prior_scheduler="own", super_resolution_steps=[None, 2][stages - 1])
    mine = learned(method, subject, backbone, tmp_path)
    pipes = [
        IFPipeline.from_pretrained(models["if"] / "base"),
        IFSuperResolutionPipeline.from_pretrained(
            models["if"] / "super_resolution", text_encoder=None
        ),
    ]
    folders = [tmp_path / "base", tmp_path / "super_resolution"][:stages]
    assert sorted(tmp_path.iterdir()) == folders
    for pipe in pipes:
        pipe.to(torch.float32)
    for pipe, folder in zip(pipes, folders, strict=False):
        pipe.load_lora_weights(folder)
        assert pipe.get_active_adapters(), "it says nothing where no key is the U-Net's"
    base, larger = pipes
    with torch.no_grad():
        texts, blank = (
            base.encode_prompt([text], do_classifier_free_guidance=False)[0]
            for text in ("a sks dog in the snow", "")
        )
    given = {
        "prompt_embeds": texts,
        "negative_prompt_embeds": blank,
        "generator": [torch.Generator().manual_seed(7)],
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "output_type": "pt",
    }
    small = base(**given).images
    images = larger(image=small, noise_level=250, **given).images / 2 + 0.5
    torch.testing.assert_close(mine, images.clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backbone", ["sd3"], indirect=True)
def test_peft_loads_lora_on_text_encoders_that_diffusers_would_leave_out(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    method = replace(LORA, prior_scheduler="own", train_text_encoder=True)
    mine = learned(method, subject, backbone, tmp_path)
    pipe = finetuning.pipeline(models["sd3"])
    for name in ("transformer", *finetuning.text_encoders(pipe)):
        PeftModel.from_pretrained(getattr(pipe, name), tmp_path / name)
    assert len([*tmp_path.iterdir()]) == 4
    torch.testing.assert_close(mine, drawn(pipe, "a sks dog in the snow"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "adapter", sorted({*adapters(), *CALLED} - {*REFUSED} - {"lora", "dora", "rslora"})
)
def test_peft_loads_its_other_adapters(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path, adapter: str
) -> None:
    method = replace(PEFT, adapter=adapter, options=FITTING.get(adapter, {}))
    mine = learned(method, subject, backbone, tmp_path)
    pipe = finetuning.pipeline(models["sd"])
    PeftModel.from_pretrained(pipe.unet, tmp_path / "unet")
    torch.testing.assert_close(mine, drawn(pipe, "a sks dog in the snow"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backbone", ["sd", "xl"], indirect=True)
def test_diffusers_loads_words(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    mine = learned(INVERSION, subject, backbone, tmp_path)
    pipe = finetuning.pipeline(models[request.node.callspec.params["backbone"]])
    load_words(pipe, tmp_path)
    torch.testing.assert_close(mine, drawn(pipe, "a <sks> in the snow"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backbone", ["sd", "xl"], indirect=True)
@pytest.mark.parametrize("method", [PIVOTAL, CUSTOM], ids=["pivotal", "custom"])
def test_diffusers_loads_words_and_what_was_learned_with_them(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    method,
) -> None:
    mine = learned(replace(method, prior_scheduler="own"), subject, backbone, tmp_path)
    pipe = finetuning.pipeline(models[request.node.callspec.params["backbone"]])
    load_words(pipe, tmp_path)
    if method is PIVOTAL:
        pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    else:
        odd = pipe.unet.load_state_dict(load_file(tmp_path / "unet.safetensors"), strict=False)
        assert not odd.unexpected_keys
    torch.testing.assert_close(mine, drawn(pipe, "a <sks> dog in the snow"), atol=1e-4, rtol=0)
