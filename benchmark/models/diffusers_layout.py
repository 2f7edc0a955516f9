"""A Stable Diffusion in diffusers' layout: a folder per part, and which files of it are read.

check_layout(Path("my-model"))        # UserError naming what is missing
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.api import UserError

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
#: What the weights of a part are called, before `.safetensors`.
STEMS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
#: What each part needs beside weights; of a tokenizer either form will do.
CONFIGURATION = (
    [["text_encoder/config.json"]],
    [["unet/config.json"]],
    [["vae/config.json"]],
    [["scheduler/scheduler_config.json"]],
    [["tokenizer/vocab.json", "tokenizer/merges.txt"], ["tokenizer/tokenizer.json"]],
)
SUFFIXES = (".safetensors", ".json", ".txt")  #: weights, configuration, vocabulary
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def check_layout(directory: Path) -> None:
    """Raise UserError naming the directory and what it lacks of a model that can be read."""
    missing = [part for part in PARTS if not (directory / part).is_dir()]
    if missing:
        raise UserError(f"no diffusers model in {directory}: it lacks {', '.join(missing)}")
    for path in (path for part in PARTS for path in (directory / part).rglob("*")):
        if path.suffix in SUFFIXES and not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is no file that can be read: put the file in its place")
    for part in STEMS:
        weight_files(directory / part)
    for choices in CONFIGURATION:
        if not any(all((directory / name).is_file() for name in names) for names in choices):
            raise UserError(
                f"no diffusers model in {directory}: it lacks {' and '.join(choices[0])}"
            )


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
    stem = STEMS[folder.name]
    names = (
        f"{stem}.safetensors",
        f"{stem}.safetensors.index.json",
        f"{stem}.fp16.safetensors",
        f"{stem}.safetensors.index.fp16.json",
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


def identifying_files(directory: Path) -> list[Path]:
    """Every file that decides what the model does, sorted: variants not read are left out."""
    read = {file for part in STEMS for file in weight_files(directory / part)}
    return sorted(
        path
        for part in PARTS
        for path in (directory / part).rglob("*")
        if path in read or (path.suffix in SUFFIXES and path.is_file() and not _is_weights(path))
    )


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or ".safetensors.index" in path.name
