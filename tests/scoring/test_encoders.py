import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from benchmark.api import UserError
from benchmark.models.assets import asset_files
from benchmark.models.memory import halving
from benchmark.scoring.encoders import (
    BATCH,
    IntermediateEncoder,
    Preprocessing,
    TimmEncoder,
)
from benchmark.scoring.features import Encoders, load_encoders
from benchmark.scoring.kinds import identify
from tests.reference.metrics import lpips as reference_lpips

HALF = [0.5, 0.5, 0.5]
WORDS = ("a", "dog", "cat", "red", "in", "the", "snow")


def save_dino(directory, *, seed=0):
    import timm

    torch.manual_seed(seed)
    arguments = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 0,
    }
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    directory.mkdir()
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "num_features": 24,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 0, "classifier": "head"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, directory / "model.safetensors")
    return directory


def save_clip(directory):
    import open_clip
    from transformers import CLIPTokenizer

    vocabulary, merges = [], []
    for letter in "abcdefghijklmnopqrstuvwxyz":
        vocabulary += [letter, f"{letter}</w>"]
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocabulary.append(pieces[0])
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=list(dict.fromkeys(merges)),
        model_max_length=12,
    )
    tokenizer.save_pretrained(directory)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
        "text_cfg": {
            "context_length": 12,
            "vocab_size": len(vocabulary),
            "width": 16,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "own",
        },
    }
    torch.manual_seed(0)
    weights = open_clip.CLIP(**config).state_dict()
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(
        {k: v.contiguous() for k, v in half.items()}, directory / "open_clip_model.safetensors"
    )
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return directory


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    preprocessing = {"resize": 32, "crop": 32, "mean": HALF, "std": HALF}
    return {
        "dino": {"kind": "timm", "model": str(save_dino(folder / "dino")), **preprocessing},
        "clip": {"kind": "open_clip", "model": str(save_clip(folder / "clip")), **preprocessing},
        "lpips": {
            "kind": "intermediate",
            "model": str(folder / "dino"),
            "layers": [0, 2],
            "like": "dino",
        },
    }


@pytest.fixture(scope="module")
def encoders(settings):
    return load_encoders(settings, device="cpu")


def pictures(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    coarse = [rng.integers(0, 256, (h // 4 + 1, w // 4 + 1, 3), np.uint8) for h, w in sizes]
    return [
        np.asarray(Image.fromarray(c).resize((w, h), Image.Resampling.BILINEAR))
        for c, (h, w) in zip(coarse, sizes, strict=True)
    ]


# --- preprocessing


@pytest.mark.parametrize("size", [(64, 64), (67, 131), (131, 67), (33, 32), (20, 45), (256, 255)])
def test_preprocessing_is_torchvisions_on_pillow_images(size):
    mean, std = (0.48, 0.45, 0.41), (0.27, 0.26, 0.28)
    (image,) = pictures(size)
    expected = transforms.Compose(
        [
            transforms.Resize(36, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )(Image.fromarray(image))
    found = Preprocessing(36, 32, mean, std)([image])
    assert found.shape == (1, 3, 32, 32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_an_image_of_the_size_is_not_touched():
    (image,) = pictures((32, 32))
    found = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)([image])[0]
    assert np.array_equal((found * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), image)


# --- the encoders against their libraries


def test_dino_is_the_class_token_of_unit_length(encoders, settings):
    import timm

    images = pictures((32, 32), (40, 50))
    model = timm.create_model(f"local-dir:{settings['dino']['model']}", pretrained=True).eval()
    batch = Preprocessing(32, 32, tuple(HALF), tuple(HALF))(images)
    with torch.no_grad():
        token = model.forward_features(batch)[:, 0].numpy()
    expected = token / np.linalg.norm(token, axis=1, keepdims=True)
    found = encoders.embeddings("dino", images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_clip_equals_open_clip_itself(encoders, settings):
    import open_clip

    name = f"local-dir:{settings['clip']['model']}"
    model = open_clip.create_model(name).eval()
    images, texts = pictures((32, 32), (32, 32)), ["a red dog", "a cat in the snow", "a"]
    with torch.no_grad():
        batch = Preprocessing(32, 32, tuple(HALF), tuple(HALF))(images)
        image = model.encode_image(batch).numpy()
        text = model.encode_text(open_clip.get_tokenizer(name)(texts)).numpy()
    found = encoders.embeddings("clip", images), encoders.text_embeddings("clip", texts)
    for rows, expected in zip(found, (image, text), strict=True):
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert np.abs(found[1][0] - found[1][1]).max() > 1e-3


def test_lpips_equals_its_formula_in_plain_loops(encoders, settings):
    import timm

    images = pictures((32, 32), (32, 32), (32, 32))
    model = timm.create_model(f"local-dir:{settings['lpips']['model']}", pretrained=True).eval()
    seen = []
    for layer in settings["lpips"]["layers"]:
        model.blocks[layer].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        model(Preprocessing(32, 32, tuple(HALF), tuple(HALF))(images))
    # (n, 1 + 16, 24): a class token, then 4 x 4 positions
    layers = [s[:, 1:].permute(0, 2, 1).reshape(3, 24, 4, 4).numpy() for s in seen]
    found = encoders.distances("lpips", images, [[0, 1, 2]])
    for i in range(3):
        for j in range(3):
            expected = reference_lpips([x[i] for x in layers], [x[j] for x in layers])
            assert found[i, j] == pytest.approx(expected, abs=1e-5)
    assert (np.diag(found) == 0).all()
    assert np.array_equal(found, found.T)


def test_weights_are_computed_with_in_single_precision(encoders):
    for encoder in encoders.loaded.values():
        assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
        assert not encoder.model.training


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 3])
def test_results_do_not_depend_on_the_batch_they_came_in(encoders, count):
    images = pictures(*[(32, 32)] * count, seed=count)
    together = encoders.embeddings("dino", images)
    assert together.shape[0] == count
    alone = encoders.embeddings("dino", images[-1:])
    np.testing.assert_allclose(together[-1:], alone, atol=1e-6)


def refuse_above(monkeypatch, model, most):
    """A device on which `model` takes no more than `most` images at once."""
    whole = {name: getattr(model, name) for name in ("forward", "forward_intermediates")}

    def limited(name):
        def call(batch, **options):
            if len(batch) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return whole[name](batch, **options)

        return call

    for name in whole:
        monkeypatch.setattr(model, name, limited(name))


@pytest.mark.more
def test_where_memory_runs_out_fewer_go_at_once_as_if_from_the_start(settings, monkeypatch):
    monkeypatch.setattr(halving, "_sizes", {})
    images = pictures(*[(32, 32)] * 20)
    groups = [list(range(5)), list(range(5, 20))]
    roomy, tight = (load_encoders(settings, device="cpu") for _ in range(2))
    for name in ("dino", "lpips"):
        refuse_above(monkeypatch, tight.loaded[name].model, 5)
    found, apart = tight.embeddings("dino", images), tight.distances("lpips", images, groups)
    whole = roomy.distances("lpips", images, groups)
    np.testing.assert_allclose(apart, whole, atol=1e-6)  # where it is NaN, too
    assert np.isfinite(apart).sum() == 5**2 + 15**2
    monkeypatch.setattr("benchmark.scoring.encoders.BATCH", 4)
    assert (found == roomy.embeddings("dino", images)).all()
    taken = halving.batches_taken()
    assert taken == {"encoder dino": 4, "distances by encoder lpips": 4}


def test_what_has_been_seen_is_not_computed_again(settings, monkeypatch):
    encoders = load_encoders(settings, device="cpu")
    images = pictures((32, 32), (32, 32))
    first = encoders.remembered_embeddings("dino", images)
    text = encoders.text_embeddings("clip", ["a dog"])
    monkeypatch.setattr(encoders.loaded["dino"], "model", None)
    monkeypatch.setattr(encoders.loaded["clip"], "model", None)
    again = encoders.remembered_embeddings("dino", [image.copy() for image in images])
    assert again is first
    assert encoders.text_embeddings("clip", ["a dog"]) is text
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_the_same_bytes_whatever_was_seen_before(settings):
    images = pictures(*[(32, 32)] * 7)
    fresh, used = (load_encoders(settings, device="cpu") for _ in range(2))
    for name in ("dino", "clip"):
        used.remembered_embeddings(name, images[:3])
        used.remembered_embeddings(name, images[2:])
        expected = fresh.embeddings(name, images)
        assert used.remembered_embeddings(name, images).tobytes() == expected.tobytes()
    used.text_embeddings("clip", ["a cat", "a dog"])
    texts = ["a dog", "a red cat in the snow"]
    expected = fresh.text_embeddings("clip", texts)
    assert used.text_embeddings("clip", texts).tobytes() == expected.tobytes()


def test_numbers_that_are_not_finite_are_refused():
    class Broken:
        def embeddings(self, pixels):
            return np.full((len(pixels), 2), np.inf, np.float32)

        text_embeddings = embeddings

        def distances(self, pixels, groups):
            return np.full((len(pixels), len(pixels)), np.nan, np.float32)

    broken, images = Encoders({"style": Broken()}), pictures((8, 8), (8, 8))
    for ask in (
        lambda: broken.embeddings("style", images),
        lambda: broken.remembered_embeddings("style", images),
        lambda: broken.text_embeddings("style", ["a dog"]),
        lambda: broken.distances("style", images, [[0, 1]]),
    ):
        with pytest.raises(ValueError, match="encoder 'style' returned numbers that are not fin"):
            ask()


def test_only_pairs_of_a_group_have_a_distance(encoders):
    images = pictures((32, 32), (32, 32), (40, 32), (32, 32))
    found = encoders.distances("lpips", images, [[0, 2], [3]])
    compared = np.zeros((4, 4), bool)
    compared[np.ix_([0, 2], [0, 2])] = compared[3, 3] = True
    assert np.array_equal(~np.isnan(found), compared)
    pair = encoders.distances("lpips", [images[0], images[2]], [[0, 1]])
    assert found[0, 2] == pytest.approx(pair[0, 1], abs=1e-6)
    assert np.isnan(encoders.distances("lpips", images, [])).all()


# --- settings


def changed(settings, name, **change):
    return {**settings, name: {**settings[name], **change}}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dino", {"kind": "torch"}, r"encoders.dino.kind: unknown encoder 'torch'; known: .*timm"),
        ("dino", {"sise": 3}, r"encoders.dino.sise is unknown; the keys are kind, model, hub"),
        ("dino", {"model": "./nowhere"}, r"encoders.dino.model: nowhere has no config.json, model"),
        ("dino", {"model": "vit_small_patch16_224.dino"}, r"encoders.dino.hub is missing.*slash"),
        ("dino", {"resize": "32"}, r"encoders.dino.resize: it should be a whole number"),
        ("dino", {"std": [0.5, 0.0, 0.5]}, r"encoders.dino.std.1: it should be greater than 0"),
        ("dino", {"std": [0.5, math.inf, 0.5]}, r"encoders.dino.std.1: it should be a finite"),
        ("dino", {"mean": [0.5, math.nan, 0]}, r"encoders.dino.mean.1: it should be a finite"),
        ("lpips", {"like": ["dino"]}, r"encoders.lpips.like is \['dino'\].*: dino, clip$"),
        ("dino", {"crop": 64}, r"encoders.dino: crop is 64, more than resize, 32"),
        ("lpips", {"layers": [7]}, r"encoders.lpips.layers has 7; .* has layers 0 to 2"),
        ("lpips", {"layers": []}, r"encoders.lpips.layers: it should have at least 1 item"),
        ("lpips", {"like": "dimo"}, r"encoders.lpips.like is 'dimo'.*: dino, clip$"),
        ("lpips", {"like": "lpips"}, r"encoders.lpips.like is 'lpips'.*: dino, clip$"),
        ("style", {"model": "pocket"}, r"encoders.style.kind is missing; known: .*timm"),
    ],
)
def test_bad_settings_are_named(settings, name, change, message):
    bad = changed(settings, name, **change) if name in settings else {**settings, name: change}
    with pytest.raises(UserError, match=message):
        load_encoders(bad, device="cpu")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dino", {"model": "vit_of_nobody"}, r"cannot load 'vit_of_nobody'.*with a slash"),
        ("clip", {"model": "ViT-B-32"}, r"encoders.clip.pretrained is 'None'; .*openai"),
        ("clip", {"model": "ViT-B-32", "pretrained": "openai"}, r"use 'ViT-B-32-quickgelu'"),
    ],
)
def test_models_that_their_library_does_not_have_are_named(
    settings, tmp_path, name, change, message
):
    for file in ("model.safetensors", "open_clip_model.safetensors"):
        (tmp_path / "weights").mkdir(exist_ok=True)
        save_file({"a": torch.zeros(1)}, tmp_path / "weights" / file)
    place = {"hub": "somebody/weights", "directory": str(tmp_path)}
    with pytest.raises(UserError, match=message):
        load_encoders(changed(settings, name, **place, **change), device="cpu")


def test_missing_settings_are_named(settings):
    dino = {key: value for key, value in settings["dino"].items() if key != "mean"}
    with pytest.raises(UserError, match=r"encoders\.dino\.mean is missing"):
        load_encoders({**settings, "dino": dino}, device="cpu")


def test_the_shipped_encoders_are_found_by_name(settings, monkeypatch, tmp_path):
    (tmp_path / "dino").symlink_to(settings["dino"]["model"])
    (tmp_path / "clip").symlink_to(settings["clip"]["model"])
    monkeypatch.setattr(asset_files, "SHIPPED", tmp_path)
    pocket = {name: {**table, "model": "pocket"} for name, table in settings.items()}
    (image,) = pictures((32, 32))
    found = load_encoders(pocket, device="cpu").embeddings("dino", [image])
    expected = load_encoders(settings, device="cpu").embeddings("dino", [image])
    assert np.array_equal(found, expected)


def test_an_encoder_may_have_any_name_and_another_ones_preprocessing(settings):
    coarse = {**settings["dino"], "resize": 64, "crop": 32, "like": "clip"}
    del coarse["mean"], coarse["std"]
    clip = {**settings["clip"], "mean": [0.4, 0.5, 0.6]}
    tables = {"clip": clip, "my-eye": coarse}
    found = load_encoders(tables, device="cpu", names={"my-eye"})
    assert list(found.loaded) == ["my-eye"]
    assert found.loaded["my-eye"].preprocessing == Preprocessing(
        64, 32, (0.4, 0.5, 0.6), tuple(HALF)
    )


def test_what_is_inherited_is_part_of_an_encoders_identity(settings):
    other = changed(settings, "dino", resize=40)
    before, after = identify(settings)["lpips"], identify(other)["lpips"]
    assert (before.pop("resize"), after.pop("resize")) == (32, 40)
    assert before == after and "like" not in before


def test_a_clip_directory_without_a_tokenizer_of_its_own_is_refused(settings, tmp_path):
    directory = save_clip(tmp_path / "clip")
    config = json.loads((directory / "open_clip_config.json").read_text())
    del config["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="hf_tokenizer_name"):
        load_encoders(changed(settings, "clip", model=str(directory)), device="cpu")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_cfg": null}'])
def test_a_clip_directory_with_a_broken_configuration_is_named(settings, tmp_path, content):
    directory = save_clip(tmp_path / "clip")
    (directory / "open_clip_config.json").write_text(content)
    with pytest.raises(UserError, match="clip/open_clip_config.json is no open_clip configuration"):
        load_encoders(changed(settings, "clip", model=str(directory)), device="cpu")


def test_a_clip_directory_with_a_broken_tokenizer_is_named(settings, tmp_path):
    directory = save_clip(tmp_path / "clip")
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    del tokenizer["model"]  # the library raises a plain Exception
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"encoders\.clip: cannot load '.*clip'"):
        load_encoders(changed(settings, "clip", model=str(directory)), device="cpu")


def test_identity_follows_the_weights_and_not_the_place(settings, tmp_path):
    def digest(directory):
        return identify({"dino": {**settings["dino"], "model": str(directory)}})["dino"]["weights"]

    first, second = save_dino(tmp_path / "a"), save_dino(tmp_path / "b")
    assert digest(first) == digest(second) == identify(settings)["dino"]["weights"]
    assert digest(save_dino(tmp_path / "c", seed=1)) != digest(first)


def test_the_papers_dino_architecture_fits_the_same_path(tmp_path):
    import timm

    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).eval()
    preprocessing = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    cpu = torch.device("cpu")
    images = pictures((300, 280), (224, 260))
    tokens = TimmEncoder(model, preprocessing, cpu).embeddings(images)
    assert tokens.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-5)
    between = IntermediateEncoder(model, preprocessing, cpu, layers=[2, 5, 8, 11])
    assert between.distances(images, [[0, 1]]).shape == (2, 2)
