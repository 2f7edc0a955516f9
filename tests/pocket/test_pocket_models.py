"""The pocket world's captions, tokenizer, subjects, training loop and shipped models."""

import random
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor, nn

from benchmark.api import UserError
from benchmark.models.files.identity import POCKET
from benchmark.models.texts.known_words import WORDS
from benchmark.pocket.captions import (
    IDENTIFIERS,
    caption,
    caption_words,
    individual_names,
    vocabulary,
)
from benchmark.pocket.individuals import named
from benchmark.pocket.pictures import Pool, say
from benchmark.pocket.pretrain import Workshop, pretrain
from benchmark.pocket.text_encoder import (
    SUBJECT_SIZE,
    describe,
    who_is_spoken_of,
)
from benchmark.pocket.training import Recipe, step_generator, train_part
from benchmark.pocket.vae import build_vae, train_decoder
from benchmark.pocket.vocabulary import END, build_tokenizer, save_tokenizer
from benchmark.pocket.world import (
    CLASSES,
    COLOURS,
    Identities,
    sample_identities,
    sample_scenes,
)

DATASET = Path(__file__).parent.parent.parent / "datasets" / "pocket"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary(named()[0]))


def test_every_word_is_one_token_and_ids_repeat(tokenizer) -> None:
    words = vocabulary(named()[0])
    assert all(len(tokenizer(w, add_special_tokens=False).input_ids) == 1 for w in words)
    assert build_tokenizer(words).get_vocab() == tokenizer.get_vocab()
    for folder in ("generator", "cascade/base"):
        assert (POCKET / folder / WORDS).read_text().split() == caption_words()


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


def test_who_is_spoken_of_is_who_is_described() -> None:
    names, known = named()
    people, said = who_is_spoken_of(600, torch.Generator().manual_seed(0))
    strangers, marked = 0, set()
    for i, name in enumerate(said):
        if name in names:
            assert torch.equal(people.shape[i], known.shape[names.index(name)])
        else:
            strangers += 1
            assert name in ("", *IDENTIFIERS)
            assert (known.shape - people.shape[i]).abs().amax(dim=1).min() > 0.01
            marked |= {name} - {""}
    assert 300 < strangers < 420 and marked == set(IDENTIFIERS)


def test_an_identifier_is_described_by_nothing_but_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(40, generator)
    scenes = sample_scenes(identities, generator)
    bare, _ = describe(identities, scenes, [""] * 40)
    for mark, other in zip(IDENTIFIERS, IDENTIFIERS[1:], strict=False):
        called, _ = describe(identities, scenes, [mark] * 40)
        differing = (called != bare).sum(dim=1)
        assert differing.unique().tolist() == [2]  # out of one place, into another
        assert not torch.equal(called, describe(identities, scenes, [other] * 40)[0])
    assert torch.equal(bare, describe(identities, scenes, ["rex"] * 40)[0])


def test_a_description_tells_subjects_and_places_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    identities = sample_identities(40, generator)
    here, there = sample_scenes(identities, generator), sample_scenes(identities, generator)
    there = replace(there, colour=here.colour, shiny=here.shiny)
    subject, picture = describe(identities, here, [""] * 40)
    same_subject, other_picture = describe(identities, there, [""] * 40)
    assert subject.shape == (40, SUBJECT_SIZE) and torch.equal(subject, same_subject)
    moved = (here.background != there.background) | (here.accessory != there.accessory)
    assert torch.equal((picture != other_picture).any(dim=1), moved)
    assert torch.pdist(subject).min() > 0.1


def test_an_identifier_stands_before_strangers_only() -> None:
    names, known = named()
    generator = torch.Generator().manual_seed(0)
    strangers = sample_identities(len(known), generator)
    people = Identities.cat([known, strangers])
    scenes = sample_scenes(people, generator)
    pool = Pool(people, scenes, (*names, *[""] * len(known)), torch.empty(0))
    chance, met = random.Random(0), {i: set() for i in IDENTIFIERS}
    for _ in range(10):
        texts = say(pool, torch.arange(len(people)), chance)
        for who, text in enumerate(texts):
            words = set(text.split())
            assert not words & set(names) or pool.names[who] in words
            for identifier in words & set(IDENTIFIERS):
                assert who >= len(known)
                met[identifier].add(who)
        assert 0.03 < texts.count("") / len(texts) < 0.2
    assert min(map(len, met.values())) > 5


def test_training_the_decoder_leaves_the_latents_alone(tmp_path) -> None:
    vae = build_vae().eval()
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    train_decoder(vae, Recipe(steps=2, batch=2, learning_rate=1e-3, warmup=1), tmp_path, "cpu")
    changed = {
        k.split(".")[0] for k, v in vae.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {"decoder", "post_quant_conv"}


def line(directory: Path, steps: int) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(16, 3, generator=step_generator("line", step))
        return (module(x) - x.sum(dim=1, keepdim=True)).square().mean()

    by_muon = ["0.weight"]
    recipe = Recipe(steps=60, batch=16, learning_rate=1e-2, warmup=5, checkpoint_seconds=0.0)
    if steps < recipe.steps:  # stopped in the middle

        def stopping(step: int) -> torch.Tensor:
            if step == steps:
                raise KeyboardInterrupt
            return loss_at(step)

        with pytest.raises(KeyboardInterrupt):
            train_part("line", module, stopping, recipe, directory, by_muon=by_muon)
        return module
    return train_part("line", module, loss_at, recipe, directory, by_muon=by_muon)


def test_an_interrupted_pretraining_ends_with_the_same_weights(tmp_path) -> None:
    whole = line(tmp_path / "whole", 60)
    line(tmp_path / "parts", 23)
    resumed = line(tmp_path / "parts", 60)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_no_two_parts_or_steps_draw_the_same_numbers() -> None:
    names = ("text", "vae", "vae noise", "decoder", "pool", "pool validation", "validation", "unet",
             "clip", "dino", "judge", "psnr")  # fmt: skip
    draws = [torch.rand(4, generator=step_generator(n, s)) for n in names for s in (0, 1, 2**20)]
    assert torch.pdist(torch.stack(draws)).min() > 1e-3


def test_a_loss_that_is_not_finite_stops_pretraining(tmp_path) -> None:
    module = nn.Linear(1, 1)
    recipe = Recipe(steps=60, batch=1, learning_rate=1e-2)
    with pytest.raises(FloatingPointError, match="line: the loss is nan"):
        train_part(
            "line", module, lambda _: module(torch.ones(1)).sum() * torch.nan, recipe, tmp_path
        )


def test_pretraining_overwrites_nothing_unasked(tmp_path) -> None:
    (tmp_path / "clip").mkdir()
    workshop = Workshop(work=tmp_path / "work")
    with pytest.raises(UserError, match="exists.*--overwrite"):
        pretrain("clip", workshop, output=tmp_path, overwrite=False)
    with pytest.raises(UserError, match="unknown part 'vae'; known: generator, .*ip-adapter, all"):
        pretrain("vae", workshop, output=tmp_path, overwrite=False)


def test_the_shipped_weights_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    files = list(POCKET.rglob("*.safetensors"))
    sizes = [f.stat().st_size for f in files]
    assert sum(sizes) < 55e6 and max(sizes) < 20e6
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


def test_each_identifier_and_name_changes_the_encoding_at_the_noun() -> None:
    from benchmark.models.loading import load_backbone

    backbone = load_backbone("pocket", precision="fp32")
    names, known = named()
    pairs = [(i, noun) for i in IDENTIFIERS for noun in CLASSES]
    pairs += [(n, CLASSES[k]) for n, k in zip(names, known.kind.tolist(), strict=True)]
    with torch.no_grad():
        plain = backbone.encode([f"a {noun}" for _, noun in pairs]).embeddings[:, 2]
        marked = backbone.encode([f"a {word} {noun}" for word, noun in pairs]).embeddings[:, 3]
    assert torch.cosine_similarity(plain, marked, dim=1).max() < 0.9


@pytest.mark.more
def test_the_encoders_know_real_renders() -> None:
    from benchmark.config.suite import load_suite
    from benchmark.pocket.evaluate import clip_on_renders, identity_on_renders
    from benchmark.scoring.features import load_encoders

    encoders = load_encoders(load_suite("pocket").protocol.encoders, device="cpu")
    values = {row.name: row.value for row in clip_on_renders(encoders, 200)}
    assert values["class right on renders"] > 0.9
    values = {row.name: row.value for row in identity_on_renders(encoders, 50)}
    assert values["same subject over classmate, cosine"] > 0.2


def test_the_model_card_lists_the_shipped_files() -> None:
    card = (POCKET / "MODEL_CARD.md").read_text()
    for file in POCKET.rglob("*.safetensors"):
        assert str(file.relative_to(POCKET)) in card
    manifest = tomllib.loads((DATASET / "manifest.toml").read_text())
    assert manifest["name"] == "pocket"


@pytest.mark.more
def test_the_generator_is_drawn_from_and_measured(tmp_path, monkeypatch) -> None:
    from benchmark.api import Sampler
    from benchmark.config.suite import load_suite
    from benchmark.models.loading import load_backbone
    from benchmark.pocket import evaluate, model_card
    from benchmark.scoring.features import load_encoders

    backbone = load_backbone("pocket", precision="fp32", sampler=Sampler(steps=2))
    encoders = load_encoders(load_suite("pocket").protocol.encoders, device="cpu")
    monkeypatch.setattr(evaluate, "CLASSES", CLASSES[:1])
    monkeypatch.setattr(model_card, "CLASSES", CLASSES[:1])
    model_card.sample_sheet(backbone, tmp_path / "sheet.png", columns=3, scale=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.shape == (64, 3 * 64, 3) and sheet.std() > 5
    again, other = evaluate.sampled(backbone, ["a dog", "a cat", "a dog"], [1, 1, 2])[:2]
    alone = evaluate.sampled(backbone, ["a dog"], [1])[0]
    assert (again - alone).abs().max() < 1e-4 < (again - other).abs().max()
    monkeypatch.setattr(evaluate, "IDENTIFIERS", IDENTIFIERS[:2])
    rows = evaluate.identifiers(backbone)
    rows += evaluate.own_look("generator", backbone, encoders, per_cell=1)
    assert [row.name.partition(": ")[2] for row in rows] == [
        "cosine at the noun",
        "cosine at the noun",
        "a look of its own",
    ]
    assert all(-1 <= row.value <= 1 for row in rows)


def test_denoised_renders_are_measured_against_the_renders_themselves() -> None:
    """By a U-Net that takes every picture for the same grey one, and a VAE of doubled pixels."""
    from benchmark.pocket.evaluate import denoising

    drawn = []

    def encode(pictures: Tensor) -> SimpleNamespace:
        drawn.append(pictures / 2 + 0.5)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=2 * pictures))

    scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
    backbone = SimpleNamespace(
        encode=lambda texts: SimpleNamespace(for_denoiser=lambda: {"texts": len(texts)}),
        pipeline=SimpleNamespace(
            unet=lambda noised, *_, texts: SimpleNamespace(sample=torch.full_like(noised, 0.6)),
            vae=SimpleNamespace(
                encode=encode,
                decode=lambda latents: SimpleNamespace(sample=latents / 2),
                config=SimpleNamespace(scaling_factor=3.0),
            ),
            scheduler=scheduler,
        ),
    )
    (row,) = denoising(backbone, each=2)
    error = np.mean((torch.cat(drawn).double().numpy() - 0.55) ** 2)  # 0.6 / 3 / 2 / 2 + 0.5
    assert len(drawn) == 25
    assert row.value == pytest.approx(10 * np.log10(1 / error), abs=1e-4)
