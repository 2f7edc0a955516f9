"""The pocket world's captions, tokenizer, subjects, training loop and shipped models."""

import random
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmark.data import load_dataset, verify
from benchmark.model_files import POCKET
from benchmark.pocket.captions import IDENTIFIERS, caption, individual_names, vocabulary
from benchmark.pocket.individuals import named, subjects, write_dataset
from benchmark.pocket.pretrain import pretrain
from benchmark.pocket.training import Recipe, step_generator, train_part
from benchmark.pocket.vocabulary import END, build_tokenizer, save_tokenizer
from benchmark.pocket.world import CLASSES, COLOURS, sample_identities, sample_scenes
from benchmark.records import UserError

DATASET = Path(__file__).parent.parent / "datasets" / "pocket"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary(named()[0]))


def test_every_word_is_one_token_and_ids_repeat(tokenizer) -> None:
    words = vocabulary(named()[0])
    assert all(len(tokenizer(w, add_special_tokens=False).input_ids) == 1 for w in words)
    assert build_tokenizer(words).get_vocab() == tokenizer.get_vocab()


def test_the_end_token_has_the_highest_id(tokenizer) -> None:
    ids = tokenizer.get_vocab()
    assert ids[END] == max(ids.values())


def test_unknown_words_encode_and_do_not_end_the_text(tokenizer) -> None:
    ids = tokenizer("a zebra-3, dog").input_ids
    assert ids.count(tokenizer.get_vocab()[END]) == 1 and ids[-1] == tokenizer.get_vocab()[END]


@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json"])
def test_the_tokenizer_reads_back_from_either_layout(tokenizer, tmp_path, layout) -> None:
    from transformers import CLIPTokenizer

    save_tokenizer(tokenizer, tmp_path)
    for name in {"tokenizer.json", "vocab.json", "merges.txt"} - {layout}:
        if not (layout == "vocab.json" and name == "merges.txt"):
            (tmp_path / name).unlink()
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a photo of a shiny sks dog wearing a red hat in the snow"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == tokenizer.model_max_length


def test_a_name_stands_right_before_the_class_noun() -> None:
    names, identities = named()
    scenes = sample_scenes(identities, torch.Generator().manual_seed(0))
    texts = caption(identities, scenes, random.Random(0), names=names)
    said = 0
    for text, name, kind in zip(texts, names, identities.kind.tolist(), strict=True):
        words = text.split()
        if name in words:
            said += 1
            assert words[words.index(name) + 1] == CLASSES[kind]
    assert 0.4 < said / len(names) < 0.8


def test_a_changed_colour_is_what_the_caption_says() -> None:
    generator = torch.Generator().manual_seed(1)
    identities = sample_identities(200, generator)
    scenes = sample_scenes(identities, generator, colour_rate=1.0, accessory_rate=0.0)
    texts = caption(identities, scenes, random.Random(0))
    colours = [list(COLOURS)[c] for c in scenes.colour.tolist()]
    right = [c in t.split() for c, t in zip(colours, texts, strict=True)]
    assert sum(right) / len(right) > 0.85


def test_names_and_identifiers_are_no_other_words() -> None:
    words = vocabulary(named()[0])
    assert len(words) == len(set(words))
    assert not set(IDENTIFIERS) & set(individual_names(1000))


def test_pretraining_never_meets_the_subjects() -> None:
    known = named()[1]
    for split in ("development", "test"):
        _, held_out = subjects(split)
        for i in range(len(held_out)):
            same = known.kind == held_out.kind[i]
            distance = (known.shape[same] - held_out.shape[i]).abs().amax(dim=1)
            assert distance.min() > 0.1
    apart = subjects("development")[1].shape[:, None] - subjects("test")[1].shape[None]
    assert apart.abs().amax(dim=-1).min() > 0.1


def test_the_shipped_subjects_are_what_the_command_draws(tmp_path) -> None:
    write_dataset(tmp_path)
    shipped = sorted(p.relative_to(DATASET) for p in DATASET.rglob("*.png"))
    assert shipped == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.png"))
    for path in shipped:
        drawn, kept = (np.asarray(Image.open(d / path), int) for d in (tmp_path, DATASET))
        assert abs(drawn - kept).max() <= 1  # the last bit may round differently elsewhere
    assert (tmp_path / "prompts.toml").read_text() == (DATASET / "prompts.toml").read_text()


def test_the_shipped_subjects_verify_and_cover_both_groups() -> None:
    for split, count in (("test", 8), ("development", 4)):
        dataset = load_dataset("pocket", split=split)
        verify(dataset)
        assert len(dataset.subjects) >= count
        assert {s.live for s in dataset.subjects} == {True, False}
        assert all(4 <= len(s.images) <= 6 for s in dataset.subjects)


def line(directory: Path, steps: int) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(16, 3, generator=step_generator("line", step))
        return (module(x) - x.sum(dim=1, keepdim=True)).square().mean()

    recipe = Recipe(steps=60, batch=16, learning_rate=1e-2, warmup=5, checkpoint_seconds=0.0)
    if steps < recipe.steps:  # stopped in the middle

        def stopping(step: int) -> torch.Tensor:
            if step == steps:
                raise KeyboardInterrupt
            return loss_at(step)

        with pytest.raises(KeyboardInterrupt):
            train_part("line", module, stopping, recipe, directory)
        return module
    return train_part("line", module, loss_at, recipe, directory)


def test_an_interrupted_pretraining_ends_with_the_same_weights(tmp_path) -> None:
    whole = line(tmp_path / "whole", 60)
    line(tmp_path / "parts", 23)
    resumed = line(tmp_path / "parts", 60)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_stops_pretraining(tmp_path) -> None:
    module = nn.Linear(1, 1)
    recipe = Recipe(steps=60, batch=1, learning_rate=1e-2)
    with pytest.raises(FloatingPointError, match="line: the loss is nan"):
        train_part(
            "line", module, lambda _: module(torch.ones(1)).sum() * torch.nan, recipe, tmp_path
        )


def test_pretraining_overwrites_nothing_unasked(tmp_path) -> None:
    (tmp_path / "clip").mkdir()
    with pytest.raises(UserError, match="exists.*--overwrite"):
        pretrain("clip", work=tmp_path, output=tmp_path, device="cpu", overwrite=False)
    with pytest.raises(UserError, match="unknown part 'vae'.*generator, clip, dino, all"):
        pretrain("vae", work=tmp_path, output=tmp_path, device="cpu", overwrite=False)


def test_the_shipped_weights_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    files = list(POCKET.rglob("*.safetensors"))
    sizes = [f.stat().st_size for f in files]
    assert sum(sizes) < 40e6 and max(sizes) < 20e6
    for file in files:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(k).get_dtype() for k in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_other_tools_load_the_generator() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(POCKET / "generator")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipeline("a dog", num_inference_steps=2, output_type="np", generator=generator).images
    assert image.shape == (1, 64, 64, 3) and np.isfinite(image).all()


def test_each_identifier_is_the_mean_of_many_names_and_its_own() -> None:
    from benchmark.backbone import load_backbone

    backbone = load_backbone("pocket", precision="fp32")
    rows = torch.stack([backbone.token_embedding(identifier) for identifier in IDENTIFIERS])
    names = torch.stack([backbone.token_embedding(name) for name in named()[0]])
    middle = names.mean(dim=0)
    assert (rows - middle).norm(dim=1).max() < (names - middle).norm(dim=1).min()
    assert torch.pdist(rows).min() > 0.01
    with torch.no_grad():
        plain, marked = backbone.encode_prompts(["a dog", "a sks dog"])
    assert torch.cosine_similarity(plain[2], marked[3], dim=0) < 0.999


def test_the_judges_know_real_renders() -> None:
    from benchmark.encoders import load_encoders
    from benchmark.pocket.evaluate import identity_on_renders, judge_on_renders
    from benchmark.suite import load_suite

    encoders = load_encoders(load_suite("pocket").encoders, device="cpu")
    values = {row.name: row.value for row in judge_on_renders(encoders, 200)}
    assert values["class right on renders"] > 0.9
    values = {row.name: row.value for row in identity_on_renders(encoders, 50)}
    assert values["same subject over classmate, cosine"] > 0.2


def test_the_model_card_lists_the_shipped_files() -> None:
    card = (POCKET / "MODEL_CARD.md").read_text()
    for file in POCKET.rglob("*.safetensors"):
        assert str(file.relative_to(POCKET)) in card
    manifest = tomllib.loads((DATASET / "manifest.toml").read_text())
    assert manifest["name"] == "pocket"
