"""Protocols: what each declares, and that it is what scores are made by."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import benchmark.scoring.features
from benchmark.api import Subject, UserError
from benchmark.config.protocol import Protocol, load_protocol, protocol_names
from benchmark.config.suite import Suite, load_suite
from benchmark.models.identity import identify
from benchmark.runs.job import Workplace, run_job
from benchmark.runs.plan import load_metrics, plan
from benchmark.store.directory import RunDirectory
from tests import toy

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


@pytest.mark.parametrize("name", [name for name in protocol_names() if name != "pocket"])
def test_no_protocol_takes_a_librarys_own_crop(name: str) -> None:
    for encoder, table in load_protocol(name).encoders.items():
        if encoder != "lpips":
            resize = 224 if encoder == "clip" else 256
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
    ],
)
def test_the_references_of_each_protocol(name: str, of_dog: list[int], of_mine: list[int]) -> None:
    protocol = load_protocol(name)
    assert protocol.reference_indices(DOG) == of_dog
    assert protocol.reference_indices(ELSEWHERE) == of_mine


def test_the_caption_of_each_protocol() -> None:
    captions = {name: load_protocol(name).phrase("dog", "sks") for name in protocol_names()}
    assert captions.pop("custom-diffusion") == "sks dog"
    assert set(captions.values()) == {"dog"}


@pytest.mark.parametrize("name", [name for name in protocol_names() if name != "pocket"])
def test_the_hubs_repositories_are_those_of_the_libraries(name: str) -> None:
    from open_clip.pretrained import get_pretrained_cfg as of_open_clip
    from timm.models import get_pretrained_cfg as of_timm

    for table in load_protocol(name).encoders.values():
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


@pytest.mark.parametrize("name", ["paper", "custom-diffusion", "kosmos-g", "pocket"])
def test_only_the_metrics_that_a_protocol_defines_are_computed(name: str) -> None:
    protocol = load_protocol(name)
    assert list(load_metrics(protocol)) == sorted(protocol.metrics)


def test_bad_protocols_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown protocol 'papper'; known: .*paper"):
        load_protocol("papper")
    path = tmp_path / "mine.toml"
    text = Path(benchmark.__path__[0], "protocols", "pocket.toml").read_text()
    path.write_text(text[: text.index("# Distances")])
    with pytest.raises(UserError, match=r"mine.toml: .*metric 'div' needs a table encoders.lpips"):
        load_protocol(str(path))
    path.write_text(text.replace('caption = "class-noun"', 'caption = "noun"'))
    with pytest.raises(UserError, match="caption: .*'class-noun' or 'as-given'"):
        load_protocol(str(path))


# --- the weights


def test_missing_weights_are_named_all_at_once_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    suite = load_suite("pocket").under("paper")
    with pytest.raises(UserError) as caught:
        plan(suite, ["untuned"])
    message = str(caught.value)
    assert (
        "hf download timm/vit_small_patch16_224.dino model.safetensors --revision 733b42a"
        in message
    )
    clip = "timm/vit_base_patch32_clip_224.openai"
    revision = load_protocol("paper").encoders["clip"]["revision"]
    assert f"hf download {clip} open_clip_model.safetensors --revision {revision}" in message
    assert f"curl --create-dirs -o {tmp_path}/torch/hub/checkpoints/alexnet-owt" in message


def test_weights_are_looked_for_in_a_folder_and_known_by_their_content(tmp_path: Path) -> None:
    suite = load_suite("pocket").under("kosmos-g", encoders=tmp_path)
    with pytest.raises(UserError, match=f"--local-dir {tmp_path}/vit_small_patch16_224.dino"):
        identify(suite.encoder_tables())
    places = {
        "dino": tmp_path / "vit_small_patch16_224.dino/model.safetensors",
        "clip": tmp_path / "vit_base_patch32_clip_224.openai/open_clip_model.safetensors",
    }
    for place in places.values():
        place.parent.mkdir()
        place.write_bytes(b"weights")
    first = identify(suite.encoder_tables())
    assert "directory" not in first["dino"]
    places["dino"].write_bytes(b"others")
    second = identify(suite.encoder_tables())
    assert second["dino"]["weights"] != first["dino"]["weights"]
    assert second["clip"] == first["clip"]


# --- through a run


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr(benchmark.scoring.features, "load_encoders", toy.load_encoders)
    return load_suite(str(toy.write_world(tmp_path)))


def rows(suite: Suite, path: Path, method: str, **change: Any) -> list[dict[str, str]]:
    protocol = Protocol(**(suite.protocol.model_dump() | change))
    grid = plan(suite.model_copy(update={"protocol": protocol}), [method], subjects=["dog-red"])
    directory = RunDirectory(path)
    directory.prepare(configuration=grid.configuration, suite_toml="", jobs=grid.jobs)
    run_job(grid.jobs[0], Workplace(grid.suite, directory), progress=lambda *_: None)
    directory.assemble_scores()
    with (path / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def values(found: list[dict[str, str]], metric: str) -> list[float]:
    return [float(row["value"]) for row in found if row["metric"] == metric]


def test_scores_are_scaled_and_carry_the_protocols_label(suite: Suite, tmp_path: Path) -> None:
    plain = rows(suite, tmp_path / "plain", "tests.toy:PAINT")
    scales = {"dino": {"factor": 100.0}, "clip_i": {}, "clip_t": {"minimum": 0.9}}
    scaled = rows(suite, tmp_path / "scaled", "tests.toy:PAINT", metrics=scales, version="2")
    assert {row["protocol"] for row in scaled} == {"toy-2"}
    assert {row["metric"] for row in scaled} == set(scales)
    expected = [100 * value for value in values(plain, "dino")]
    assert values(scaled, "dino") == pytest.approx(expected, abs=1e-4)
    assert values(scaled, "clip_i") == values(plain, "clip_i")
    floor = [max(0.9, value) for value in values(plain, "clip_t")]
    assert values(scaled, "clip_t") == pytest.approx(floor)
    assert floor != values(plain, "clip_t")


def test_one_reference_is_the_only_one_compared_with(suite: Suite, tmp_path: Path) -> None:
    one = {"references": "one", "reference": {"dog-red": "01.png"}}
    found = rows(suite, tmp_path / "run", "tests.toy:PAINT", **one)

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))

    encoders = toy.Colours()
    reference = encoders.dino([read(tmp_path / "data/dog-red/01.png")])[0]
    made = sorted((tmp_path / "run/images/tests.toy-PAINT/dog-red").glob("*snow-*.png"))
    expected = [float(encoders.dino([read(path)])[0] @ reference) for path in made]
    snow = [row for row in found if "snow" in row["prompt"]]
    assert values(snow, "dino") == pytest.approx(expected, abs=2e-6)
    real = rows(suite, tmp_path / "real", "real-images", **one)
    assert [row["sample"] for row in real if row["metric"] == "dino"] == ["0"]


def test_the_caption_rule_reaches_clip_t(suite: Suite, tmp_path: Path) -> None:
    found = rows(suite, tmp_path / "run", "tests.toy:PAINT", caption="as-given")
    image = np.asarray(
        Image.open(tmp_path / "run/images/tests.toy-PAINT/dog-red/a-subject-in-the-snow-s0-0.png")
    )
    encoders = toy.Colours()
    wanted = encoders.clip_text(["a sks dog in the snow"])[0] @ encoders.clip_image([image])[0]
    snow = [row for row in found if row["prompt"] == "a {} in the snow" and row["sample"] == "0"]
    assert values(snow, "clip_t") == pytest.approx([float(wanted)], abs=2e-6)


def test_a_suite_keeps_the_protocol_it_was_given(suite: Suite, tmp_path: Path) -> None:
    other = load_suite("pocket").under("kosmos-g", encoders=Path("there"))
    (tmp_path / "again.toml").write_text(other.dump_toml())
    assert load_suite(str(tmp_path / "again.toml")) == other
    assert other.protocol == load_protocol("kosmos-g")
    assert other.encoder_tables()["dino"]["directory"] == "there"
    job = plan(suite, ["real-images"]).jobs[0]
    assert replace(job, protocol="toy-2").key != job.key
