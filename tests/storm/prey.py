"""A folder that has one of everything that is read, and which command reads what.

prey = Prey.made(folder)            # seconds: a run, a kept run, a baseline, subjects, a model
prey.targets[0].path                # Path("toy.toml")
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmark.models.files.identity import POCKET as SHIPPED
from benchmark.store.directory import KEPT_SCORES, RECORDS
from benchmark.store.files import gunzipped, gzipped
from tests import toy
from tests.storm import mutations
from tests.storm.in_process import call
from tests.tiny_pipeline import save_tiny_pipeline

Command = list[str]
DRY = ["run", "--dry-run", "--no-controls", "--methods", "tests.toy:PAINT", "--out", "out"]
AGAIN = [*("run", "--no-controls", "--methods", "tests.toy:PAINT[prior_count=2]"), "--keep-weights"]
AGAIN += [*("--suite", "toy.toml", "--subjects", "dog-red,dog-blue", "--prompts", "accessory")]
AGAIN += [*("--images-per-prompt", "1", "--seed", "0,1,2", "--out", "run")]
OWN = '[mine]\nclass_noun = "dog"\nlive = true\n[other]\nclass_noun = "vase"\nlive = false\n'
EXTENDED = 'extends = "toy.toml"\nname = "small"\ndescription = "fewer"\n[sampler]\nsteps = 3\n'
TABLES = """
[[tables]]
name = "steps"
title = "Steps"
members = ["tests.toy:PAINT", "tests.toy:PAINT*"]
metrics = ["dino", "clip_t"]
settings = ["steps"]
[methods."tests.toy:PAINT"]
steps = 3
[estimate]
train_step_seconds = 0.1
image_seconds = 0.1
"""
EYES = """
[encoders.dino]
kind = "timm"
model = "encoders/dino"
resize = 64
crop = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[encoders.clip]
kind = "open_clip"
model = "encoders/clip"
resize = 64
crop = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[encoders.lpips]
kind = "intermediate"
model = "encoders/dino"
layers = [1, 3, 5]
like = "dino"
"""
MODEL = """
extends = "pocket"
name = "model"
description = "a model in a folder"
[backbone]
model = "model"
"""


@dataclass(frozen=True)
class Target:
    """A file that is read, how it may be changed, and the commands that read it."""

    path: str
    change: Callable[[bytes], Any]  #: -> a strategy of contents
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Prey:
    """The folder, and its files."""

    folder: Path
    targets: tuple[Target, ...]

    @classmethod
    def made(cls, folder: Path) -> Prey:
        """Make it in a new folder."""
        folder.mkdir(parents=True)
        write_files(folder)
        for command in (
            AGAIN,
            ["publish", "run", "kept"],
            ["check", "run", "--baseline", "base.toml", "--update", "--force"],
            ["report", "run", "--out", "joint"],
        ):
            answer = call(command, folder)
            assert answer.code == 0 and not answer.raised, answer
        for place in ("run", "kept", "joint"):  # nothing reads these, and they are copied each time
            for derived in ("tables", "figures"):
                shutil.rmtree(folder / place / derived, ignore_errors=True)
        return cls(folder, tuple(_targets(folder)))


def write_files(folder: Path) -> None:
    """All but what commands make of it."""
    suite = toy.write_world(folder)
    suite.write_text(suite.read_text().replace(str(folder) + os.sep, "") + TABLES)
    suite.write_text(
        suite.read_text().replace('dataset = "data"', 'dataset = "data"\nsplit = "test"')
    )
    toy.write_protocol(folder)
    (folder / "small.toml").write_text(EXTENDED)
    (folder / "model.toml").write_text(MODEL)
    pictures = sorted((folder / "data").glob("*/*.png"))
    for subject, picture in zip(("mine", "mine", "other"), pictures, strict=False):
        (folder / "own" / subject).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / "own" / subject / f"{len(picture.name)}{picture.name}")
    (folder / "own" / "subjects.toml").write_text(OWN)
    prompt = folder / "images" / "dog-red" / "a-subject-in-a-hat"
    prompt.mkdir(parents=True)
    shutil.copy(pictures[0], prompt / "0.png")
    rows = "file,subject,prompt,sample,seed,method\nimages/dog-red/a-subject-in-a-hat/0.png"
    (folder / "images.csv").write_text(f"{rows},dog-red,a dog in a hat,0,0,mine\n")
    save_tiny_pipeline(folder / "model", prediction_type="epsilon")
    save_file({"x": torch.zeros(2)}, folder / "single.safetensors")
    (folder / "gzipped").mkdir()
    gzipped = {"average.x": torch.zeros(2)}
    save_file(gzipped, folder / "gzipped" / "text.safetensors", {"step": "1", "made_on": ""})
    _write_encoders(folder)
    os.mkfifo(folder / "fifo")
    for name, place in (("loop", "loop"), ("dangling", "nowhere"), ("zero", "/dev/zero")):
        (folder / name).symlink_to(place)
    (folder / "folder.toml").mkdir()


def _write_encoders(folder: Path) -> None:
    """The shipped encoders in folders of one's own, and a protocol that looks through them."""
    for name in ("clip", "dino"):
        (folder / "encoders" / name).mkdir(parents=True)
        for path in (SHIPPED / name).iterdir():
            place = folder / "encoders" / name / path.name
            if path.suffix == ".safetensors":
                place.symlink_to(path)
            else:
                shutil.copyfile(path, place)
    text = (folder / "other.toml").read_text().partition("[encoders")[0] + EYES
    (folder / "eyes.toml").write_text(text.replace('name = "other"', 'name = "eyes"'))


def _targets(folder: Path) -> list[Target]:
    plan = [*DRY, "--suite", "toy.toml"]
    images = ["score", "images", "--suite", "toy.toml", "--out", "out"]
    own = (["list", "subjects", "--data", "own"], [*plan, "--data", "own"], ["manifest", "own"])
    model = (
        ["run", "--dry-run", "--methods", "untuned", "--suite", "model.toml", "--out", "out"],
        ["identifier", "--suite", "model.toml", "--count", "2"],
    )
    single = ["run", "--dry-run", "--suite", "model.toml", "--methods", "untuned", "--out", "out"]
    found = [
        Target(
            "toy.toml", mutations.toml, (plan, images, ["list", "subjects", "--suite", "toy.toml"])
        ),
        Target("small.toml", mutations.toml, ([*DRY, "--suite", "small.toml"],)),
        Target(
            "other.toml",
            mutations.toml,
            ([*plan, "--protocol", "other.toml"], ["score", "run", "--protocol", "other.toml"]),
        ),
        Target("data/manifest.toml", mutations.toml, (plan, images)),
        Target("data/prompts.toml", mutations.toml, (plan, images)),
        Target("data/dog-red/00.png", mutations.raw, (plan, images)),
        Target("own/subjects.toml", mutations.toml, own),
        Target("own/mine/600.png", mutations.raw, own),
        Target("images/dog-red/a-subject-in-a-hat/0.png", mutations.raw, (images,)),
        Target(
            "images.csv",
            mutations.table,
            (["score", "images.csv", "--suite", "toy.toml", "--out", "out"],),
        ),
        Target("base.toml", mutations.toml, (["check", "run", "--baseline", "base.toml"],)),
        Target("joint/sources.toml", mutations.toml, (["report", "run", "--out", "joint"],)),
        Target(
            "gzipped/text.safetensors",
            mutations.safetensors,
            (
                ["pretrain", "--pack", "out/gzipped", "--work", "gzipped"],
                ["pretrain", "--export", "--work", "gzipped", "--out", "out/made"],
            ),
        ),
        Target(
            "single.safetensors",
            mutations.safetensors,
            ([*single, "--backbone", "single.safetensors"],),
        ),
    ]
    seen = (
        [*plan, "--protocol", "eyes.toml"],
        [*images, "--protocol", "eyes.toml"],
    )
    found += [Target("eyes.toml", mutations.toml, seen)]
    for place, commands in (("model", model), ("encoders", seen)):
        found += [
            Target(str(path.relative_to(folder)), _change_of(path), commands)
            for path in sorted((folder / place).rglob("*"))
            if path.is_file() and path.stat().st_size
        ]
    found += _of_runs(folder)
    return found


def _of_runs(folder: Path) -> list[Target]:
    """One of each kind of file in a run, and in a kept run."""
    reading: tuple[Command, ...] = (
        ["report", "run", "--out", "out"],
        ["report", "run", "--as-found", "--out", "out"],
        ["check", "run", "--baseline", "base.toml"],
        ["publish", "run", "out"],
        ["score", "run", "--metrics", "tests.toy:BRIGHTNESS"],
        AGAIN,
        [*AGAIN, "--dry-run"],
    )
    kinds: dict[tuple[str, str], Path] = {}
    for path in sorted((folder / "run").rglob("*")):
        name = path.relative_to(folder / "run").as_posix()
        if path.is_file() and path.suffix in (".json", ".toml", ".csv", ".png", ".safetensors"):
            kinds.setdefault((name.partition("/")[0], path.suffix), path)
    kinds = {kind: path for kind, path in kinds.items() if kind[0] not in ("tables", "summary.csv")}
    found = [
        Target(str(path.relative_to(folder)), _change_of(path), reading) for path in kinds.values()
    ]
    kept: tuple[Command, ...] = (
        ["report", "kept", "--out", "out"],
        ["report", "kept", "--as-found", "--out", "out"],
        ["check", "kept", "--baseline", "base.toml"],
        ["report", "run", "kept", "--out", "out"],
    )
    names = ("run.json", RECORDS, KEPT_SCORES, "suite.toml", "protocols/toy-1.toml")
    return found + [
        Target(f"kept/{name}", _change_of(folder / "kept" / name), kept) for name in names
    ]


def _change_of(path: Path) -> Callable[[bytes], Any]:
    kinds: dict[str, Callable[[bytes], Any]] = {
        ".toml": mutations.toml,
        ".json": mutations.json_file,
        ".jsonl": mutations.json_lines,
        ".csv": mutations.table,
        ".safetensors": mutations.safetensors,
    }
    if path.suffix == ".gz":
        change = kinds[path.with_suffix("").suffix]
        return lambda content: change(gunzipped(content)).map(gzipped)
    return kinds.get(path.suffix, mutations.raw)
