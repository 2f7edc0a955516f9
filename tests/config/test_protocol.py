"""Protocols: what each declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.api import Subject, UserError
from benchmark.config.protocol import Protocol, load_protocol, protocol_names
from benchmark.config.suite import load_suite
from benchmark.scoring.encoder_tables import completed

ROOT = Path(__file__).parent.parent.parent
POCKET = ROOT / "benchmark/config/protocols/pocket.toml"
OF_PHOTOGRAPHS = [name for name in protocol_names() if not name.startswith("pocket")]
DOG = Subject("dog", "dog", True, tuple(Path(f"{i:02}.jpg") for i in range(5)), "digest")
ELSEWHERE = Subject("mine", "dog", True, (Path("a.png"), Path("b.png")), "digest")


@pytest.mark.parametrize("name", protocol_names())
def test_a_shipped_protocol_is_labelled_by_name_and_version(name: str) -> None:
    protocol = load_protocol(name)
    assert (protocol.name, protocol.label) == (name, f"{name}-{protocol.version}")


@pytest.mark.parametrize("name", protocol_names())
def test_every_encoder_on_the_hub_is_pinned_to_a_commit(name: str) -> None:
    for table in load_protocol(name).encoders.values():
        if "hub" in table:
            assert re.fullmatch(r"[0-9a-f]{40}", table["revision"]), table["hub"]


@pytest.mark.parametrize("name", OF_PHOTOGRAPHS)
def test_no_protocol_takes_a_librarys_own_crop(name: str) -> None:
    for encoder, table in completed(load_protocol(name).encoders).items():
        if encoder != "lpips" and "resize" in table:
            resize = 256 if encoder.startswith("dino") else 224
            assert (table["resize"], table["crop"]) == (resize, 224), encoder


@pytest.mark.parametrize(
    ("name", "metric", "raw", "expected"),
    [
        ("paper", "clip_t", -0.1, -0.1),
        ("paper", "dino", 0.5, 0.5),
        ("custom-diffusion", "clip_t", 0.3, 0.75),
        ("custom-diffusion", "clip_t", -0.1, 0.0),
        ("custom-diffusion", "dino", -0.1, -0.1),
        ("dreambench++", "dinov2", 0.25, 25.0),
        ("dreambench++", "clip_t", -0.25, -25.0),
        ("kosmos-g", "clip_i", 0.5, 50.0),
        ("kosmos-g", "somebody's", 0.5, 0.5),
        ("dsh", "clip_t_l", 0.25, 25.0),
        ("xverse-clipseg", "dino", 0.5, 50.0),
        ("break-a-scene-clipseg", "dino", 0.5, 0.5),
        ("peft", "dinov2", 0.5, 0.5),
    ],
)
def test_the_scale_of_each_protocol(name: str, metric: str, raw: float, expected: float) -> None:
    assert load_protocol(name).scaled(metric, raw) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "of_dog", "of_mine"),
    [
        ("paper", [0, 1, 2, 3, 4], [0, 1]),
        ("custom-diffusion", [0, 1, 2, 3, 4], [0, 1]),
        ("dreambench++", [0], [0]),
        ("kosmos-g", [2], [0]),
        ("dsh", [0], [0]),
        ("xverse-clipseg", [0], [0]),
        ("peft", [0, 1, 2, 3, 4], [0, 1]),
    ],
)
def test_the_references_of_each_protocol(name: str, of_dog: list[int], of_mine: list[int]) -> None:
    protocol = load_protocol(name)
    assert protocol.reference_indices(DOG) == of_dog
    assert protocol.reference_indices(ELSEWHERE) == of_mine


def test_a_reference_that_is_none_of_the_subjects_images_is_refused() -> None:
    protocol = load_protocol("kosmos-g")
    few = Subject("dog", "dog", True, (Path("a.jpg"), Path("b.jpg")), "digest")
    with pytest.raises(UserError, match="'kosmos-g-1'.*'dog' with '02.jpg'.*images are a.jpg, b.j"):
        protocol.reference_indices(few)
    every = protocol.model_copy(update={"references": "all"})
    assert every.reference_indices(few) == [0, 1]


def test_the_caption_of_each_protocol() -> None:
    captions = {name: load_protocol(name).phrase("dog", "sks") for name in protocol_names()}
    assert captions.pop("custom-diffusion") == "sks dog"
    assert set(captions.values()) == {"dog"}
    naming = [name for name in protocol_names() if load_protocol(name).names_identifier]
    assert naming == ["custom-diffusion"]
    assert load_protocol("paper").phrase("dog", None) == "dog"


@pytest.mark.parametrize("name", OF_PHOTOGRAPHS)
def test_the_hubs_repositories_are_those_of_the_libraries(name: str) -> None:
    from open_clip.pretrained import get_pretrained_cfg as of_open_clip
    from timm.models import get_pretrained_cfg as of_timm

    for table in completed(load_protocol(name).encoders).values():
        if table["kind"] == "timm":
            known = of_timm(table["model"])
            assert known is not None
            assert table["hub"] == known.hf_hub_id
            assert table["mean"] == pytest.approx(known.mean)
            assert table["std"] == pytest.approx(known.std)
        if table["kind"] == "open_clip":
            config = of_open_clip(table["model"], table["pretrained"])
            assert table["hub"] == config["hf_hub"].strip("/")
            assert table["mean"] == pytest.approx(config["mean"])
            assert table["std"] == pytest.approx(config["std"])


def test_bad_protocols_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'papper' \(did you mean 'paper'\?\); known: .*paper"):
        load_protocol("papper")
    path = tmp_path / "mine.toml"
    path.write_text(POCKET.read_text().replace('caption = "class-noun"', 'caption = "noun"'))
    with pytest.raises(UserError, match="caption: .*'class-noun' or 'identifier-and-class-noun'"):
        load_protocol(str(path))


# --- one's own


def own(tmp_path: Path, change: str) -> Protocol:
    """The pocket protocol with a few lines more."""
    (tmp_path / "mine.toml").write_text(POCKET.read_text() + change)
    return load_protocol(str(tmp_path / "mine.toml"))


def test_a_metric_may_be_another_one_through_another_encoder(tmp_path: Path) -> None:
    found = own(tmp_path, '[metrics.again]\nmetric = "dino"\nencoder = "big"\nlabel = "DINO-B"')
    again = found.metrics["again"]
    assert (again.metric, again.encoder, again.label) == ("dino", "big", "DINO-B")
    assert (again.factor, again.minimum) == (1.0, None)
    assert found.metrics["dino"].metric is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[metrics.again]\nfactor = 0", "metrics.again.factor: .*greater than 0"),
        ("[metrics.again]\nfactor = inf", "metrics.again.factor: .*finite"),
        ("[metrics.again]\nminimum = nan", "metrics.again.minimum: .*finite"),
        ("[metrics.again]\nmaximum = 1.0", "metrics.again.maximum is unknown"),
        ("[metrics.again]\nlabel = ''", "metrics.again.label: .*at least 1 item"),
        (
            '[metrics."a\\nb"]\nmetric = "dino"',
            r"metrics.a\nb.\[key\]: it has characters that are no text",
        ),
        ("[reference]\ndog = '00.png'", r"\[reference\] names .* leave \[reference\] out$"),
        ("[views.v]\nbackground = 'black'\nnot_found = 'zero'", r"views need a .*\[segmenter\]$"),
        ("[encoders.pixels]\nkind = 'timm'", "encoders: .*cannot be called 'pixels'"),
        ("[encoders.'clip:big']\nkind = 'timm'", "encoders: .*cannot be called 'clip:big'"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=f"mine.toml: {message}"):
        own(tmp_path, change)


def test_a_suite_keeps_the_protocol_it_was_given(tmp_path: Path) -> None:
    suite = load_suite("pocket").under("kosmos-g", encoders=Path("there"))
    (tmp_path / "again.toml").write_text(suite.dump_toml())
    again = load_suite(str(tmp_path / "again.toml"))
    assert again == suite
    assert again.protocol == load_protocol("kosmos-g")
    assert again.encoders == "there"
