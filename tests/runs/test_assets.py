"""Masks and assets in a run: what decides a key, what is refused, what a record says."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmark.api import GUIDE, AssetKind, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.registry import load_method
from benchmark.config.suite import Suite, load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.models.assets.asset_files import MissingFiles
from benchmark.runs.assets import NoHollow, check_adapters, hollow
from benchmark.runs.luggage import luggage_of
from benchmark.runs.plan import plan
from benchmark.store.directory import RunDirectory
from tests import toy
from tests.tiny_adapter import save_tiny_adapter
from tests.tiny_clip import save_as_open_clip, save_tiny_clip
from tests.tiny_pipeline import save_tiny_pipeline

NAME = "tests.runs.test_assets"


@dataclass(frozen=True)
class Thirds:
    """Finds everything in the middle third of an image; nothing on every second one."""

    def segment(self, images: Tensor, noun: str) -> Tensor:
        found = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
        found[::2, 4:8, 4:8] = noun != "vase"
        return found


def knows_no_cat(table: Mapping[str, Any], nouns: Sequence[str]) -> None:
    if "cat" in nouns:
        raise UserError("assets.segmenter: it knows no 'cat'")


@dataclass(frozen=True)
class Masked:
    """Paints the share of its first image that is the subject's."""

    version: ClassVar[str] = "1"
    role: ClassVar[str] = "method"
    variant_of: ClassVar[None] = None
    draws: ClassVar[str] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})
    unscored: ClassVar[dict[str, str]] = {"accessory": "it has no hat"}
    description: str = "the share of the mask"

    def prior(self, subject: object) -> None:
        return None

    def fit(self, subject: object, backbone: None, tools: Any) -> dict[str, Tensor]:
        assert backbone is None
        return {"share": tools.masks(toy.SIZE)[0].float().mean()}

    def generate(self, weights, subject, requests, backbone, tools) -> Tensor:
        tools.count("painted plainly", len(requests))
        return weights["share"].expand(len(requests), 3, toy.SIZE, toy.SIZE)


@dataclass(frozen=True)
class Guided(Masked):
    """Paints what its guide makes of a text; of the prior prompt it draws nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({GUIDE})
    unscored: ClassVar[dict[str, str]] = {"prior": "it knows no class"}
    description: str = "the guide's colour"

    def fit(self, subject: object, backbone: None, tools: Any) -> dict[str, Tensor]:
        colour = tools.asset(GUIDE).embed_texts(["a dog"])[0, :3]
        return {"share": colour.sigmoid().mean()}


@dataclass(frozen=True)
class Encoders(toy.Eyes):
    """The kind of encoder whose file is a model's, and may be missing."""

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        (path,) = super().files(name, table)
        if not path.is_file():
            raise MissingFiles(f"{path} is not here")
        return [path]


MASKED, GUIDED, ENCODERS = Masked(), Guided(), Encoders()
KIND = AssetKind(
    "segmenter",
    files=lambda table: [Path(table["model"])],
    load=lambda table, device: Thirds(),
    check_nouns=knows_no_cat,
)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    found = load_suite(str(toy.write_world(tmp_path)))
    weights = tmp_path / "thirds.bin"
    weights.write_bytes(b"thirds")
    table = {"kind": f"{NAME}:KIND", "model": str(weights)}
    return found.model_copy(update={"assets": {"segmenter": table}})


def draw_masks(tmp_path: Path, subject: str, rows: int = 6) -> None:
    folder = tmp_path / "data" / subject / "masks"
    folder.mkdir(exist_ok=True)
    for i in range(2):
        mask = np.zeros((toy.SIZE, toy.SIZE), np.uint8)
        mask[:rows] = 255
        Image.fromarray(mask).save(folder / f"{i:02}.png")


def fits(suite: Suite, *methods: str) -> dict[tuple[str, str], Any]:
    return {(j.method, j.subject): j.fit for j in plan(suite, list(methods)).jobs}


def test_masks_are_in_the_key_of_a_fit_that_uses_them_and_of_no_other(
    suite: Suite, tmp_path: Path
) -> None:
    masked, plain = f"{NAME}:MASKED", "tests.toy:PAINT"
    before = fits(suite, masked, plain)
    identity = before[masked, "dog-red"].assets["segmenter"]
    assert identity.startswith(f"{NAME}:KIND-1 thirds.bin@")
    draw_masks(tmp_path, "dog-red")
    after = fits(suite, masked, plain)
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {(masked, "dog-red")}
    own = after[masked, "dog-red"]
    assert own.masks and own.assets == {}, "with masks of one's own no segmenter decides anything"
    draw_masks(tmp_path, "dog-red", rows=7)
    assert fits(suite, masked)[masked, "dog-red"].key != own.key
    (tmp_path / "thirds.bin").write_bytes(b"others")
    other = fits(suite, masked, plain)
    assert other[masked, "dog-blue"].key != after[masked, "dog-blue"].key
    assert other[plain, "dog-blue"] == after[plain, "dog-blue"]
    assert "dog-red/masks/01.png" in luggage_of(suite, subjects={"dog-red"}).data


def test_what_a_method_lacks_is_said_before_anything_runs(suite: Suite, tmp_path: Path) -> None:
    masked = f"{NAME}:MASKED"
    without = suite.model_copy(update={"assets": {}})
    with pytest.raises(UserError, match="needs the asset 'segmenter' for subject 'dog-red', and"):
        plan(without, [masked])
    assert plan(without, ["tests.toy:PAINT"]).jobs
    draw_masks(tmp_path, "dog-red")
    (job,) = plan(without, [masked], subjects=["dog-red"]).jobs
    assert job.fit.assets == {} and job.fit.backbone is None and job.sampler is None
    Image.new("L", (5, 12), 255).save(tmp_path / "data/dog-red/masks/00.png")
    with pytest.raises(UserError, match="masks/00.png has 5 x 12 pixels, .*: draw it in the image"):
        plan(suite, ["tests.toy:PAINT"])


def test_a_job_gets_its_masks_and_its_prompts_stay_unscored(suite: Suite, tmp_path: Path) -> None:
    masked = f"{NAME}:MASKED"
    draw_masks(tmp_path, "dog-blue")
    grid = plan(suite, [masked], subjects=["dog-blue"])
    assert run_grid(grid, tmp_path / "run", resources=toy.ONE) == 0
    directory = RunDirectory(tmp_path / "run")
    record = directory.job_record((masked, "dog-blue", 0))
    assert record is not None and record.counts == {"painted plainly": record.drawn}
    pixels = np.asarray(Image.open(directory.path / next(iter(record.images))))
    assert (pixels == round(0.5 * 255)).all(), "half of each mask is white"
    text = (tmp_path / "run/report.md").read_text()
    assert "painted plainly: 8 images" in text and "it has no hat" in text
    rows = [
        row
        for path in (tmp_path / "run/scores").rglob("*.csv")
        for row in csv.DictReader(path.open())
    ]
    hats = [row for row in rows if row["prompt_kind"] == "accessory"]
    assert hats and all(r["value"] == "" and r["reason"] == "it has no hat" for r in hats)
    assert any(row["value"] for row in rows if row["prompt_kind"] == "recontextualization")


def test_what_knows_no_class_has_no_score_of_prior_preservation(
    suite: Suite, tmp_path: Path
) -> None:
    table = {"kind": "clip", "model": str(save_tiny_clip(tmp_path / "guide"))}
    guided = suite.model_copy(update={"assets": {"guide": table}})
    grid = plan(guided, [f"{NAME}:GUIDED"], subjects=["dog-red"])
    assert run_grid(grid, tmp_path / "run", resources=toy.ONE) == 0
    rows = [
        row
        for path in (tmp_path / "run/scores").rglob("*.csv")
        for row in csv.DictReader(path.open())
    ]
    prior = [row for row in rows if row["metric"] in ("pres", "prior_div")]
    assert prior and all(r["value"] == "" and r["reason"] == "it knows no class" for r in prior)
    assert all(row["value"] for row in rows if row["metric"] in ("dino", "clip_t"))
    assert "it knows no class" in (tmp_path / "run/report.md").read_text()


def test_nothing_found_on_a_photograph_is_a_failed_job_with_the_way_out(
    suite: Suite, tmp_path: Path
) -> None:
    """The toy segmenter finds nothing on every second image."""
    masked = f"{NAME}:MASKED"
    grid = plan(suite, [masked], subjects=["dog-red"])
    assert run_grid(grid, tmp_path / "r", resources=toy.ONE) == 1
    (error,) = (tmp_path / "r").rglob("*.error.txt")
    assert "01.png shows no 'dog' that the segmenter finds: draw masks" in error.read_text()


def test_masks_that_change_after_the_plan_fail_the_job(suite: Suite, tmp_path: Path) -> None:
    masked = f"{NAME}:MASKED"
    draw_masks(tmp_path, "dog-red")
    grid = plan(suite, [masked], subjects=["dog-red"])
    draw_masks(tmp_path, "dog-red", rows=3)
    assert run_grid(grid, tmp_path / "r", resources=toy.ONE) == 1
    (error,) = (tmp_path / "r").rglob("*.error.txt")
    assert "the masks of subject 'dog-red' are not those" in error.read_text()


def test_a_reason_for_no_score_is_a_reason_of_a_prompts_kind(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = type(load_method(f"{NAME}:MASKED"))  # which pytest has not imported by this name
    monkeypatch.setattr(method, "unscored", {"hats": "it has none"})
    with pytest.raises(UserError, match="unscored of method .*MASKED' has 'hats'.*recontext"):
        plan(suite, [f"{NAME}:MASKED"])


def test_an_asset_that_scores_is_refused_in_another_format_too(
    suite: Suite, tmp_path: Path
) -> None:
    """The encoder is the guide as open_clip keeps it; and once it is there, a run scored again."""
    guide = save_tiny_clip(tmp_path / "guide")
    kept = save_as_open_clip(guide, tmp_path / "encoder", torch.float16)
    other = save_tiny_clip(tmp_path / "other", seed=1)
    encoder = {
        "kind": f"{NAME}:ENCODERS",
        "file": str(kept / "open_clip_model.safetensors"),
    }
    encoders = suite.protocol.encoders | {"clip": encoder}
    conflicted = suite.protocol.model_copy(update={"encoders": encoders})

    def guided_by(folder: Path, protocol: Protocol = conflicted) -> Suite:
        table = {"kind": "clip", "model": str(folder)}
        return suite.model_copy(update={"assets": {"guide": table}, "protocol": protocol})

    method = f"{NAME}:GUIDED"
    with pytest.raises(UserError, match="assets.guide of method .* same model as encoders.clip of"):
        plan(guided_by(guide), [method])
    assert plan(guided_by(guide), ["tests.toy:PAINT"]).jobs, "which uses no guide"
    (job, *_) = plan(guided_by(other), [method]).jobs
    fit = job.fit
    assert fit.assets["guide"].startswith("clip-1 other@") and fit.backbone is None
    grid = plan(guided_by(guide, suite.protocol), [method], subjects=["dog-red"])
    assert grid.jobs[0].fit.key != fit.key
    assert run_grid(grid, tmp_path / "run", resources=toy.ONE) == 0
    file = tmp_path / "conflicted.toml"
    file.write_text(conflicted.model_copy(update={"name": "conflicted"}).dump_toml())
    with pytest.raises(UserError, match="same model as encoders.clip of protocol 'conflicted-1'"):
        score_run(tmp_path / "run", protocol=str(file))


@pytest.mark.more
@pytest.mark.parametrize("declares", ["other", None])
def test_what_images_were_made_with_is_what_the_runs_suite_declares_or_nobody_else_scores_them(
    suite: Suite, tmp_path: Path, declares: str | None
) -> None:
    """The guide is one of the protocol's encoders, but the run went on under another suite."""
    guide = save_tiny_clip(tmp_path / "guide")
    save_tiny_clip(tmp_path / "other", seed=1)
    kept = save_as_open_clip(guide, tmp_path / "encoder", torch.float16)
    encoder = {"kind": f"{NAME}:ENCODERS", "file": str(kept / "open_clip_model.safetensors")}
    encoders = suite.protocol.encoders | {"clip": encoder}
    file = tmp_path / "conflicted.toml"
    changed = {"encoders": encoders, "name": "conflicted"}
    file.write_text(suite.protocol.model_copy(update=changed).dump_toml())

    def guided_by(name: str | None) -> Suite:
        table = {"kind": "clip", "model": str(tmp_path / str(name))}
        return suite.model_copy(update={"assets": {"guide": table} if name else {}})

    run, method = tmp_path / "run", f"{NAME}:GUIDED"
    grid = plan(guided_by("guide"), [method], subjects=["dog-red"])
    assert run_grid(grid, run, resources=toy.ONE) == 0
    more = plan(guided_by(declares), ["tests.toy:PAINT"], subjects=["dog-red"])
    assert run_grid(more, run, resources=toy.ONE) == 0
    assert score_run(run) == 0, "under the protocol that it was planned with"
    used = grid.jobs[0].fit.assets["guide"]
    now = f"clip-1 {declares}@" if declares else "none,"
    with pytest.raises(UserError) as error:
        score_run(run, protocol=str(file))
    assert str(error.value).startswith(f"{grid.jobs[0].label} was made with guide '{used}', and")
    assert f"suite.toml declares {now}" in str(error.value)


def test_an_encoder_whose_files_are_not_here_is_left_to_the_run(
    suite: Suite, tmp_path: Path
) -> None:
    """Nothing can be compared yet, and a run refuses it by itself."""
    guide = save_tiny_clip(tmp_path / "guide")
    missing = {"kind": f"{NAME}:ENCODERS", "file": str(tmp_path / "missing.safetensors")}
    protocol = suite.protocol.model_copy(
        update={"encoders": suite.protocol.encoders | {"clip": missing}}
    )
    table = {"kind": "clip", "model": str(guide)}
    suite = suite.model_copy(update={"assets": {"guide": table}, "protocol": protocol})
    grid = plan(suite, [f"{NAME}:GUIDED"], subjects=["dog-red"])
    with pytest.raises(UserError, match="missing.safetensors is not here"):
        run_grid(grid, tmp_path / "run", resources=toy.ONE)
    assert not list((tmp_path / "run").rglob("*.png"))


def test_all_that_is_missing_is_told_at_once(suite: Suite, tmp_path: Path) -> None:
    """Photographs, assets and encoders; and an encoder alone is left to the run."""
    encoders = suite.protocol.encoders | {
        name: {"kind": f"{NAME}:ENCODERS", "file": str(tmp_path / f"{name}.safetensors")}
        for name in ("clip", "dino")
    }
    table = {"kind": "clip", "model": "vit", "hub": "someone/vit"}
    lacking = suite.model_copy(
        update={
            "assets": {"guide": table},
            "protocol": suite.protocol.model_copy(update={"encoders": encoders}),
        }
    )
    assert plan(lacking, ["tests.toy:PAINT"]).jobs
    (tmp_path / "data/dog-blue/01.png").unlink()
    with pytest.raises(UserError) as error:
        plan(lacking, [f"{NAME}:GUIDED", f"{NAME}:MASKED", "tests.toy:PAINT"])
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value), "a worker may say it"
    said = str(error.value)
    assert said.startswith("4 problems: (1) dataset 'colours': ") and "\n" not in said
    for number, part in enumerate(
        (
            "dog-blue/01.png",
            "assets.guide: the weights of 'someone/vit' are not here; fetch them: hf download",
            f"method '{NAME}:MASKED' needs the asset 'segmenter' for subject 'dog-red'",
            f"{tmp_path}/dino.safetensors is not here; {tmp_path}/clip.safetensors is not here",
        ),
        1,
    ):
        assert part in said.partition(f"({number}) ")[2].partition(f"; ({number + 1}) ")[0]
    with pytest.raises(UserError) as error:
        plan(suite, ["tests.toy:PAINT"])
    assert str(error.value).startswith("dataset 'colours': "), "one problem has no number"


def test_an_adapter_that_does_not_fit_the_backbone_is_refused(tmp_path: Path) -> None:
    directory = save_tiny_pipeline(tmp_path / "tiny")
    for model in ("pocket", str(directory)):
        suite = load_suite("pocket").on(model)
        jobs = plan(suite, ["ip-adapter", "untuned"], subjects=["dog"]).jobs
        assert [job.fit.assets.keys() for job in jobs] == [{"image-prompt"}, set()]
        check_adapters(suite, [job for job in jobs if job.method == "untuned"])
        if model == "pocket":
            check_adapters(suite, jobs)
            continue
        with pytest.raises(UserError, match="image-prompt: 'pocket' does not fit .*tiny': its"):
            check_adapters(suite, jobs)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def garbled(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{")


def of_other_layers(path: Path) -> None:
    """One layer more than the weights have; a whole CLIP's configuration has two towers."""
    said = json.loads(path.read_text())
    said.get("vision_config", said)["num_hidden_layers"] += 1
    path.write_text(json.dumps(said))


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("model.safetensors", cut, "{} is no safetensors file that is whole: it has"),
        ("vocab.json", garbled, "{} cannot be read as JSON: "),
        ("merges.txt", garbled, "{} cannot be read ("),
        ("config.json", of_other_layers, "{}/.. lacks 16 weights, vision_model.encoder.layers.3."),
    ],
)
def test_a_broken_guide_is_refused_before_anything_is_drawn(
    suite: Suite, tmp_path: Path, file: str, spoil: Any, message: str, dry_run: bool
) -> None:
    guide = save_tiny_clip(tmp_path / "guide")
    spoil(guide / file)
    table = {"kind": "clip", "model": str(guide)}
    guided = suite.model_copy(update={"assets": {"guide": table}})
    with pytest.raises(UserError) as error:
        run_grid(plan(guided, [f"{NAME}:GUIDED"]), tmp_path / "run", dry_run=dry_run)
    named = str(guide / file)
    expected = message.format(named).replace(f"{named}/..", str(guide))
    assert expected in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("{}/models/ip-adapter.safetensors", cut, "{file} is no safetensors file that is whole"),
        ("{}/models/image_encoder/model.safetensors", cut, "{file} is no safetensors file that is"),
        ("{}/models/image_encoder/config.json", garbled, "{file} cannot be read as JSON: "),
        (
            "{}/models/image_encoder/config.json",
            of_other_layers,
            "{folder} lacks 16 weights, vision",
        ),
    ],
)
def test_a_broken_adapter_is_refused_before_anything_is_drawn(
    tmp_path: Path, file: str, spoil: Any, message: str
) -> None:
    model = save_tiny_pipeline(tmp_path / "tiny")
    table = save_tiny_adapter(tmp_path / "adapter", model)
    found = Path(file.format(tmp_path / "adapter"))
    spoil(found)
    suite = load_suite("pocket").on(str(model))
    suite = suite.model_copy(update={"assets": suite.assets | {"image-prompt": table}})
    with pytest.raises(UserError) as error:
        grid = plan(suite, ["ip-adapter"], subjects=["dog"], prompts=["1"])
        run_grid(grid, tmp_path / "run", dry_run=True)
    assert message.format(file=found, folder=found.parent) in str(error.value)


def test_a_noun_that_the_segmenter_does_not_know_is_refused(suite: Suite, tmp_path: Path) -> None:
    manifest = tmp_path / "data/manifest.toml"
    manifest.write_text(manifest.read_text().replace('"vase"', '"cat"'))
    with pytest.raises(UserError, match="it knows no 'cat'"):
        plan(suite, [f"{NAME}:MASKED"])


def test_another_segmenter_takes_nothing_over_from_the_extended_suite(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = 'extends = "dreambench"\nname = "mine"\ndescription = "mine"\n[assets.segmenter]\n'
    file.write_text(f'{text}kind = "noun-unet"\nmodel = "pocket"\n')
    assert load_suite(str(file)).assets["segmenter"] == {"kind": "noun-unet", "model": "pocket"}
    file.write_text(f'{text}directory = "here"\n')
    base = load_suite("dreambench").assets["segmenter"]
    assert load_suite(str(file)).assets["segmenter"] == base | {"directory": "here"}


def test_an_asset_whose_kind_has_nothing_in_its_place_leaves_an_estimate_unknown(
    suite: Suite,
) -> None:
    (job,) = plan(suite, [f"{NAME}:MASKED"], subjects=["dog-red"]).jobs
    with pytest.raises(NoHollow, match="the segmenter, whose kind has no `hollow`"):
        hollow(suite, job.fit)
    own = suite.model_copy(update={"assets": load_suite("pocket").assets})
    (job,) = plan(own, [f"{NAME}:MASKED"], subjects=["dog-red"]).jobs
    images = torch.zeros(2, 3, 4, 4)
    assert hollow(own, job.fit)["segmenter"].segment(images, "dog").shape == (2, 4, 4)
