"""A model in diffusers' layout: a folder per part, and which files of it are read.

check_layout(Path("my-model"))        # UserError naming what is missing
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.models.families import INDEX, Family, family_of, read_configuration

SUFFIXES = (".safetensors", ".json", ".txt", ".model")  #: weights, configuration, vocabulary
SENTENCES = "spiece.model"  #: a vocabulary of the library sentencepiece
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def stem(part: str) -> str:
    """What the weights of a part's folder are called, before `.safetensors`."""
    of_transformers = part.startswith(("text_encoder", "image_encoder"))
    return "model" if of_transformers else "diffusion_pytorch_model"


def configuration_file(part: str) -> str:
    """Where a part's configuration lies."""
    called = "scheduler_" if part.endswith("scheduler") else ""
    called = "preprocessor_" if part.endswith("feature_extractor") else called
    return f"{part}/{called}config.json"


def check_layout(directory: Path) -> Family:
    """The model's family, if all of it is there.

    Raises UserError naming the directory and what it lacks, or the family that is not known.
    """
    family = family_of(directory)
    absent = [stage for stage in family.stages if not (directory / stage).is_dir()]
    if absent:
        raise UserError(f"{directory} lacks {' and '.join(absent)}: {stages_of(family)}")
    missing = [part for part in sorted(family.folders) if not (directory / part).is_dir()]
    if missing:
        raise UserError(f"no diffusers model in {directory}: it lacks {', '.join(missing)}")
    for path in (path for part in family.folders for path in (directory / part).rglob("*")):
        if path.suffix in SUFFIXES and not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is no file that can be read: put the file in its place")
    for part in family.weights:
        weight_files(directory / part)
    for choices in _configuration(family):
        if not any(all((directory / name).is_file() for name in names) for names in choices):
            raise UserError(
                f"no diffusers model in {directory}: it lacks {' and '.join(choices[0])}"
            )
    return family


def stages_of(family: Family) -> str:
    """Which models belong in which folder, for a message."""
    stages = " and ".join(f"{pipeline} in {stage}/" for stage, pipeline in family.stages.items())
    return f"{family.name} is a folder of its models, {stages}"


def _configuration(family: Family) -> Iterator[list[list[str]]]:
    """What each part needs beside weights; of a tokenizer either form will do."""
    for part in (*family.weights, *family.schedulers, *family.images.values()):
        yield [[configuration_file(part)]]
    for folder in family.texts.values():
        yield [
            [f"{folder}/vocab.json", f"{folder}/merges.txt"],
            [f"{folder}/tokenizer.json"],
            [f"{folder}/{SENTENCES}"],
        ]


def variant(folder: Path) -> str | None:
    """None if the part in `folder` is read at full precision, "fp16" if only that is there."""
    return "fp16" if ".fp16" in _main_file(folder).name else None


def weight_files(folder: Path) -> list[Path]:
    """The files the weights of one part are read from; several if they are cut into shards.

    Full precision goes before the `fp16` variant. Raises UserError if there are none, or a shard
    is missing; a pickle (`.bin`, `.ckpt`) is named and never read.
    """
    main = _main_file(folder)
    if main.suffix == ".safetensors":
        return [main]
    try:
        names = set(json.loads(main.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{main} is no index of safetensors shards: {error!r}") from error
    shards = [folder / name for name in sorted(names)]
    for shard in shards:
        if shard.parent != folder or shard.suffix != ".safetensors" or not shard.is_file():
            raise UserError(f"{main} names {shard.name}, but there is no such safetensors file")
    return [main, *shards]


def _main_file(folder: Path) -> Path:
    called = stem(folder.name)
    names = (
        f"{called}.safetensors",
        f"{called}.safetensors.index.json",
        f"{called}.fp16.safetensors",
        f"{called}.safetensors.index.fp16.json",
    )
    for name in names:
        if (folder / name).is_file():
            return folder / name
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES:
            raise UserError(
                f"{path} is a pickle, which can run code when it is read: "
                f"only safetensors are; bring {names[0]}"
            )
    raise UserError(f"no weights in {folder}: it lacks {names[0]}")


def all_weight_files(directory: Path) -> list[Path]:
    """Of every part."""
    return [
        file for part in family_of(directory).weights for file in weight_files(directory / part)
    ]


def identifying_files(directory: Path) -> list[Path]:
    """Every file that decides what the model does, sorted: variants not read are left out."""
    read = set(all_weight_files(directory))
    return sorted(
        path
        for part in family_of(directory).folders
        for path in (directory / part).rglob("*")
        if path in read or (path.suffix in SUFFIXES and path.is_file() and not _is_weights(path))
    )


def index_settings(directory: Path) -> dict[str, Any]:
    """What its index says that changes images; see `Family.index`."""
    path = directory / INDEX
    said = read_configuration(path) if path.is_file() else {}
    return {key: said[key] for key in family_of(directory).index if key in said}


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or ".safetensors.index" in path.name
