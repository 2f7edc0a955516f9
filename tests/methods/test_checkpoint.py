"""Checkpoints of other trainers: the image is that of a plain pipeline which loads the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, OFTConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmark.api import Backbone, Subject, UserError
from benchmark.models.files.trained_files import TrainedFiles, trained_files
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import hollow_backbone
from benchmark.studies.checkpoints import checkpoints
from methods.checkpoint import CHECKPOINT_OF_A_TRAINER, Checkpoint
from methods.drawing import draw
from methods.imports import put_on
from tests.hand_tools import HandTools
from tests.methods.test_adapters import REQUEST
from tests.methods.test_exports import drawn, load_words
from tests.reference import finetuning
from tests.trained import (
    LAYERS,
    as_kohya,
    as_snapshot,
    layers_of,
    noisy,
    save_lora,
    save_peft,
    save_unet,
)

PROMPT = "a sks dog in the snow"
ALPHAS = {"to_q": 1.0, "fc1": 5.0}


def checkpoint(path: Path, **changed: Any) -> Checkpoint:
    digest = trained_files(path).digest()
    given = {"file": str(path), "digest": digest, "identifier": "sks", **changed}
    return replace(CHECKPOINT_OF_A_TRAINER, **given)


def painted(method: Checkpoint, subject: Subject, backbone: Backbone) -> torch.Tensor:
    """Its image, once it is seen to leave nothing and to draw the same from kept weights."""
    loan, tools = Loan(backbone), HandTools(method, subject)
    untuned = draw(backbone, [PROMPT], [REQUEST])
    weights = method.fit(subject, backbone, tools)
    image = method.generate(weights, subject, [REQUEST], backbone, tools)
    kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
    assert loan.settle(thorough=True) == []
    assert torch.equal(draw(backbone, [PROMPT], [REQUEST]), untuned)
    torch.testing.assert_close(method.generate(kept, subject, [REQUEST], backbone, tools), image)
    assert (image - untuned).abs().max() > 1e-3
    return image


def same(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.more
@pytest.mark.parametrize("backbone", ["sd", "xl", "sd3"], indirect=True)
def test_lora_of_diffusers(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    pipe = finetuning.pipeline(models[request.node.callspec.params["backbone"]])
    save_lora(pipe, tmp_path / "checkpoint-500")
    mine = painted(checkpoint(tmp_path / "checkpoint-500"), subject, backbone)
    pipe.load_lora_weights(tmp_path / "checkpoint-500")
    same(mine, drawn(pipe, PROMPT))


@pytest.mark.more
@pytest.mark.parametrize("backbone", ["sd", "xl"], indirect=True)
def test_lora_of_kohya(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.params["backbone"]
    pipe = finetuning.pipeline(models[name])
    lora = save_lora(pipe, tmp_path)
    if name == "xl":  # whose text encoders have other names there
        save_file({k: t for k, t in load_file(lora).items() if k.startswith("unet")}, lora)
    # One for all, since diffusers misplaces alphas that differ: those are tested by hand below.
    ends = (name.rpartition(".")[2] for layers in LAYERS.values() for name in layers)
    same_for_all = dict.fromkeys(ends, 1.0)
    file = as_kohya(lora, tmp_path / "my-000003.safetensors", same_for_all)
    mine = painted(checkpoint(file), subject, backbone)
    pipe.load_lora_weights(file)
    same(mine, drawn(pipe, PROMPT))


def test_kohyas_scale_is_alpha_over_rank(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    lora = save_lora(finetuning.pipeline(models["sd"]), tmp_path)
    file = as_kohya(lora, tmp_path / "my-000003.safetensors", ALPHAS)
    before = {
        f"{name}.{key}": tensor.clone()
        for name, module in backbone.modules().items()
        for key, tensor in module.state_dict().items()
    }
    method = checkpoint(file)
    weights = method.fit(subject, backbone, HandTools(method, subject))
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for layer, which, tensor in layers_of(lora):
        tensors.setdefault(layer, {})[which] = tensor
    assert len(weights) >= len(tensors) > 10
    for layer, pair in tensors.items():
        rank, name = len(pair["down"]), f"{layer.replace('text_model.', '')}.weight"
        alpha = ALPHAS.get(layer.rpartition(".")[2], rank)
        expected = before[name] + alpha / rank * pair["up"] @ pair["down"]
        torch.testing.assert_close(weights[name].detach(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("folder", "config"),
    [
        ("", noisy(LoraConfig(r=2, lora_alpha=6, target_modules=["to_k"], use_rslora=True))),
        ("unet", noisy(LoraConfig(r=2, target_modules=["to_k"], use_dora=True))),
        ("unet", LoHaConfig(r=2, alpha=4, target_modules=["to_k"])),
        ("", OFTConfig(r=0, oft_block_size=4, target_modules=["to_k"])),
        ("unet", IA3Config(target_modules=["to_k"], feedforward_modules=[])),
    ],
    ids=["rslora", "dora", "loha", "oft", "ia3"],
)
def test_folders_of_peft(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    folder: str,
    config: Any,
) -> None:
    save_peft(finetuning.pipeline(models["sd"]), tmp_path / folder, config)
    mine = painted(checkpoint(tmp_path), subject, backbone)
    pipe = finetuning.pipeline(models["sd"])
    PeftModel.from_pretrained(pipe.unet, tmp_path / folder)
    same(mine, drawn(pipe, PROMPT))


def test_whole_weights(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    pipe = finetuning.pipeline(models["sd"])
    save_unet(pipe, tmp_path)
    same(painted(checkpoint(tmp_path), subject, backbone), drawn(pipe, PROMPT))


def test_a_whole_pipeline(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    pipe = finetuning.pipeline(models["sd"])
    save_unet(pipe, tmp_path / "parts")
    pipe.save_pretrained(tmp_path / "whole")
    assert trained_files(tmp_path / "whole").parts.keys() == {"unet", "text_encoder", "vae"}
    same(painted(checkpoint(tmp_path / "whole"), subject, backbone), drawn(pipe, PROMPT))


@pytest.mark.parametrize("backbone", ["sd", "xl"], indirect=True)
@pytest.mark.parametrize("phrase", [None, "<cat-toy> dog"])
def test_a_learned_word(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    phrase: str | None,
    request: pytest.FixtureRequest,
) -> None:
    pipe = finetuning.pipeline(models[request.node.callspec.params["backbone"]])
    generator = torch.Generator().manual_seed(3)
    for name, encoder in finetuning.text_encoders(pipe).items():
        width = encoder.get_input_embeddings().weight.shape[1]
        vector = 30 * torch.randn(1, width, generator=generator) * 0.02
        number = name.removeprefix("text_encoder")
        save_file({"<cat-toy>": vector}, tmp_path / f"learned_embeds{number}-steps-500.safetensors")
        save_file({"<cat-toy>": vector}, tmp_path / f"learned_embeds{number}.safetensors")
    method = checkpoint(tmp_path / "learned_embeds-steps-500.safetensors", phrase=phrase)
    mine = painted(method, subject, backbone)
    load_words(pipe, tmp_path)
    same(mine, drawn(pipe, f"a {phrase or '<cat-toy>'} in the snow"))


def save_word(pipe: Any, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file({"<x>": torch.ones(1, 16)}, folder / "learned_embeds.safetensors")
    return folder


def save_adapter(pipe: Any, folder: Path) -> Path:
    save_peft(pipe, folder / "unet", noisy(LoraConfig(r=2, target_modules=["to_k"])))
    return folder


def save_loose(pipe: Any, folder: Path) -> Path:
    return save_lora(pipe, folder, name="my-step00000500.safetensors")


@pytest.mark.parametrize("make", [save_lora, save_unet, save_adapter, save_word, save_loose])
def test_a_snapshot_in_the_hubs_cache_is_read_as_the_files_that_its_links_lead_to(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    make: Callable[..., Path],
) -> None:
    made = make(finetuning.pipeline(models["sd"]), tmp_path / "out" / "checkpoint-500")
    loose = made.parent if make is save_loose else tmp_path / "out"
    [plain] = checkpoints(loose).found
    [linked] = checkpoints(as_snapshot(loose, tmp_path / "hub")).found
    assert linked.path.name == plain.path.name and linked.number == 500
    methods = [checkpoint(one.path) for one in (plain, linked)]
    assert methods[0].digest == methods[1].digest
    loan, found = Loan(backbone), []
    for method in methods:
        method.check_backbone(backbone)
        weights = method.fit(subject, backbone, HandTools(method, subject))
        found.append({name: tensor.detach().clone() for name, tensor in weights.items()})
        assert loan.settle(thorough=True) == []
    assert found[0].keys() == found[1].keys() and found[0]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


# What does not fit ------------------------------------------------------------------------------


def save_words(pipe: Any, folder: Path) -> Path:
    save_file({"<x>": torch.ones(1, 17)}, folder / "learned_embeds-steps-5.safetensors")
    return folder / "learned_embeds-steps-5.safetensors"


def save_odd(pipe: Any, folder: Path) -> Path:
    """One layer of the LoRA is of a model with more of them."""
    lora = save_lora(pipe, folder)
    tensors = load_file(lora)
    name = next(name for name in tensors if "down_blocks.1" in name)
    tensors[name.replace("down_blocks.1", "down_blocks.7")] = tensors.pop(name)
    save_file(tensors, lora)
    return lora


def save_dora(pipe: Any, folder: Path) -> Path:
    file = as_kohya(save_lora(pipe, folder), folder / "my-000001.safetensors", {})
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("to_q.alpha"))
    save_file(tensors | {name.replace("alpha", "dora_scale"): torch.ones(8, 1)}, file)
    return file


NO_PLACE = (
    "tensors have a place in this model; it differs in '.*[.]lora_A[.]weight': it was trained"
)


@pytest.mark.parametrize(
    ("made_of", "make", "message"),
    [
        (
            "xl",
            save_lora,
            r"/pytorch_lora_weights\.safetensors does not fit this model: .*size mismatch for "
            r"down_blocks\.1\.attentions\.0\.transformer_blocks\.0\.attn2\.to_v\.lora_A",
        ),
        ("sd3", save_lora, rf"/pytorch_lora_weights\.safetensors: 20 of its 38 {NO_PLACE}"),
        ("sd", save_odd, rf"/pytorch_lora_weights\.safetensors: 67 of its 68 {NO_PLACE}"),
        ("sd", save_dora, "is DoRA in kohya's format, whose magnitudes diffusers leaves out$"),
        (
            "xl",
            save_unet,
            r"/unet: 'down_blocks\.1\.attentions\.0\.proj_in\.weight' is of shape \(16, 16\), and "
            r"in this model \(16, 16, 1, 1\): it is of another model$",
        ),
        (
            "sd",
            save_words,
            r"/learned_embeds-steps-5\.safetensors holds vectors of the shape \(1, 17\) for "
            r"text_encoder: one of 16 numbers is read, a word of a single vector of this model$",
        ),
    ],
    ids=["xl-lora", "sd3-lora", "one-layer", "kohya-dora", "xl-unet", "wide-word"],
)
def test_weights_of_another_model_are_refused(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    made_of: str,
    make: Callable[..., Path],
    message: str,
) -> None:
    path = make(finetuning.pipeline(models[made_of]), tmp_path)
    method = checkpoint(path)
    hollow = hollow_backbone(
        str(models["sd"]), sampler=backbone.sampler, precision="fp32", modules_on="meta"
    )
    with pytest.raises(UserError, match=message):
        method.check_backbone(hollow)
    loan = Loan(backbone)
    with pytest.raises(UserError, match=message):
        method.fit(subject, backbone, HandTools(method, subject))
    assert loan.settle(thorough=True) == []


def without_a_matrix(tensors: dict[str, torch.Tensor], layer: str) -> None:
    del tensors[f"{layer}.lora_up.weight"]


def of_two_scales(tensors: dict[str, torch.Tensor], layer: str) -> None:
    tensors[f"{layer}.alpha"] = torch.ones(2)


def of_no_rank(tensors: dict[str, torch.Tensor], layer: str) -> None:
    for matrix in ("down", "up"):
        name = f"{layer}.lora_{matrix}.weight"
        tensors[name] = tensors[name].new_zeros(0, 16) if matrix == "down" else torch.zeros(16, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_matrix, "has '{}.alpha', but not the two matrices that it scales"),
        (of_two_scales, ": '{}.alpha' is no scale of a matrix of rank 3"),
        (of_no_rank, ": '{}.alpha' is no scale of a matrix of rank 0"),
    ],
)
def test_an_alpha_is_one_number_for_two_matrices(
    models: dict[str, Path],
    backbone: Backbone,
    tmp_path: Path,
    spoil: Callable[[dict[str, torch.Tensor], str], None],
    message: str,
) -> None:
    file = as_kohya(
        save_lora(finetuning.pipeline(models["sd"]), tmp_path), tmp_path / "a.st", ALPHAS
    )
    tensors = load_file(file)
    layer = next(name for name in tensors if name.endswith("to_q.alpha")).removesuffix(".alpha")
    spoil(tensors, layer)
    file = tmp_path / "my-000003.safetensors"
    save_file(tensors, file)
    with pytest.raises(UserError) as error:
        checkpoint(file).check_backbone(backbone)
    assert str(error.value).removeprefix(str(file)).strip() == message.format(layer)


@pytest.mark.parametrize("make", [save_lora, save_unet])
def test_what_fits_is_known_to_without_the_models_weights(
    models: dict[str, Path], tmp_path: Path, make: Callable[..., Path], backbone: Backbone
) -> None:
    path = make(finetuning.pipeline(models["sd"]), tmp_path)
    hollow = hollow_backbone(
        str(models["sd"]), sampler=backbone.sampler, precision="fp32", modules_on="meta"
    )
    checkpoint(path).check_backbone(hollow)


def test_a_file_that_changed_since_it_was_planned_is_refused(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    pipe = finetuning.pipeline(models["sd"])
    method = checkpoint(save_lora(pipe, tmp_path, seed=0))
    save_lora(pipe, tmp_path, seed=1)
    with pytest.raises(UserError, match="has changed since this was planned"):
        method.fit(subject, backbone, HandTools(method, subject))


def header_length(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (lambda content: len(content) - 1, "has {left} bytes of the {whole} that its header says"),
        (header_length, "has {left} bytes of the {whole} that its header says"),
        (lambda content: header_length(content) - 1, "ends within its header"),
        (lambda content: 9, "ends within its header"),
        (lambda content: 7, "ends before its header"),
        (lambda content: 0, "ends before its header"),
    ],
    ids=["a-byte", "no-tensor", "half-a-header", "one-letter", "seven-bytes", "nothing"],
)
def test_a_file_that_is_cut_short_is_told_from_others(
    tmp_path: Path, left: Callable[[bytes], int], said: str
) -> None:
    file = tmp_path / "my-000003.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: left(content)])
    said = said.format(left=left(content), whole=len(content))
    with pytest.raises(UserError) as error:
        trained_files(file)
    assert str(error.value).startswith(
        f"{file} is no safetensors file that is whole: it {said}, so it was cut short or is still"
    )


@pytest.mark.parametrize("content", [b"PK\x03\x04" + b"x" * 40, b"<html>nothing here</html>"])
def test_a_file_of_another_format_is_not_cut_short(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "my.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"my\.safetensors is no safetensors file: [A-Z]"):
        trained_files(tmp_path / "my.safetensors")


def test_a_file_that_changes_while_it_is_read_is_refused(
    models: dict[str, Path],
    backbone: Backbone,
    subject: Subject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is as planned when it is opened, and another by the time that it is drawn from."""
    pipe = finetuning.pipeline(models["sd"])
    method = checkpoint(save_lora(pipe, tmp_path / "planned", seed=0))
    other = save_lora(pipe, tmp_path / "other", seed=1).read_bytes()

    def replaced(files: TrainedFiles, *given: Any) -> Any:
        assert files.lora is not None and files.digest() == method.digest
        files.lora.write_bytes(other)
        return put_on(files, *given)

    monkeypatch.setattr("methods.imports.put_on", replaced)
    with pytest.raises(UserError, match="has changed since this was planned: start again"):
        method.fit(subject, backbone, HandTools(method, subject))


def test_a_part_that_lacks_weights_of_this_model_is_of_another(
    models: dict[str, Path], backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    """A text encoder of fewer layers: all that it has has a place in one of more."""
    config = CLIPTextConfig.from_pretrained(models["sd"] / "text_encoder")
    config.num_hidden_layers -= 1
    CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")
    lacking = rf"text_encoder lacks 'encoder\.layers\.{config.num_hidden_layers}\.[a-z0-9_.]+'"
    method = checkpoint(tmp_path)
    with pytest.raises(UserError, match=rf"{lacking} of this model: it is of another model$"):
        method.fit(subject, backbone, HandTools(method, subject))


def test_a_file_may_hold_some_of_a_parts_weights(
    backbone: Backbone, subject: Subject, tmp_path: Path
) -> None:
    name, weight = next(iter(backbone.stages[0].denoiser.named_parameters()))
    expected = weight.detach() + 1
    save_file({name: expected}, tmp_path / "unet.safetensors")
    method = checkpoint(tmp_path)
    found = method.fit(subject, backbone, HandTools(method, subject))
    assert found.keys() == {f"unet.{name}"} and torch.equal(found[f"unet.{name}"], expected)


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("<x> <x>-like <x>", "sks <x>-like sks"),
        ("<x>s and a <x>", "<x>s and a sks"),
        ("a$<x> <x>", "a$<x> sks"),
    ],
)
def test_the_learned_word_is_a_whole_word_of_the_phrase(
    tmp_path: Path, phrase: str, said: str
) -> None:
    file = tmp_path / "learned_embeds-steps-5.safetensors"
    save_file({"<x>": torch.ones(1, 16)}, file)
    assert trained_files(file).spoken(phrase, "sks", "dog") == said


def test_a_phrase_without_the_learned_word_is_refused(subject: Subject, tmp_path: Path) -> None:
    file = tmp_path / "learned_embeds-steps-5.safetensors"
    save_file({"<cat-toy>": torch.ones(1, 16)}, file)
    with pytest.raises(UserError, match="phrase 'my dog' has not the learned word, <cat-toy> or"):
        checkpoint(file, phrase="my dog").prior(subject)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learned_embeds.bin", "learned_embeds.bin is a pickle, which can run code"),
        ("pytorch_lora_weights.bin", "pytorch_lora_weights.bin is a pickle"),
        ("optimizer.bin", "holds no weights that are known: pytorch_lora_weights.safetensors"),
    ],
)
def test_a_folder_without_what_is_read_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=message):
        trained_files(tmp_path)


def test_a_models_shapes_are_known_whatever_its_scheduler_is_made_of(backbone: Backbone) -> None:
    hollow = hollow_backbone(
        "pocket", sampler=backbone.sampler, precision="fp32", modules_on="meta"
    )
    found = {p.device.type for m in hollow.modules().values() for p in m.parameters()}
    assert found == {"meta"}
