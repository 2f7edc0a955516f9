"""What a checkpoint's configuration says, checked against what is understood of it. No torch here.

    check_configuration(locate("my-model"))     # UserError: file, key, and the way out

A library drops a key that it does not know, so an image would be drawn without it. What is
understood stands in `known.toml`.
"""

from __future__ import annotations

import functools
import math
import tomllib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.models.diffusers_layout import weight_files
from benchmark.models.header import read_header
from benchmark.store.files import json_of, read_bytes

#: Where each part's configuration lies.
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
#: What a U-Net of so many more input channels than the VAE makes is for.
MORE_CHANNELS = {5: " (it is for inpainting)", 4: " (it is for editing an image)"}
#: What diffusers and transformers take where a configuration does not say.
DEFAULTS: dict[str, dict[str, Any]] = {
    "unet": {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 1280},
    "vae": {"latent_channels": 4},
    "text_encoder": {"hidden_size": 512},
    "scheduler": {"num_train_timesteps": 1000, "trained_betas": None},
}
FLAX = "Flax"  #: before a class: the same model in another library
REGULAR = "choose a text-to-image model"
OWN = "bring the model's own file"


@functools.cache
def known() -> dict[str, dict[str, Any]]:
    """`known.toml`."""
    return tomllib.loads(Path(__file__).with_name("known.toml").read_text("utf-8"))


def read_configuration(path: Path) -> dict[str, Any]:
    """The JSON object at `path`. Raises UserError naming it."""
    try:
        text = read_bytes(path)
        if text.startswith(BOM_UTF8):  # the libraries that read it too do not take one
            raise ValueError("it begins with a byte order mark: save it as UTF-8 without one")
        content = json_of(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}: {OWN}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, not {type(content).__name__}")
    return content


def class_of(name: object) -> str:
    """A class by its name in a configuration; `FlaxPNDMScheduler` is `PNDMScheduler`."""
    return str(name).removeprefix(FLAX)


def scheduler_configuration(directory: Path) -> dict[str, Any]:
    """That of the model in `directory`; its class is both if model_index.json names another."""
    configuration = read_configuration(directory / FILES["scheduler"])
    index = directory / "model_index.json"
    if index.is_file():
        listed = (read_configuration(index).get("scheduler") or [None])[-1]
        own = configuration.get("_class_name")
        if listed and class_of(listed) != class_of(own):
            both = f"{listed} in model_index.json and {own} in scheduler_config.json"
            configuration["_class_name"] = both
    return configuration


def check_configuration(directory: Path) -> None:
    """Raise UserError naming the file and the key of what is not understood, and the way out.

    Reads every part's configuration, and the names and shapes of weights, but no weights.
    `directory` holds a model in diffusers' layout.
    """
    parts = {part: read_configuration(directory / file) for part, file in FILES.items()}
    for part, configuration in parts.items():
        for fault in _faults(part, configuration):
            raise UserError(f"{directory / FILES[part]}: {fault}")
    _check_index(directory)
    filled = {part: DEFAULTS.get(part, {}) | parts[part] for part in parts}
    for fault in _misfits(filled):
        raise UserError(f"{directory} is no Stable Diffusion 1 or 2: {fault}: {REGULAR}")
    _check_entry(directory, filled["unet"]["in_channels"])
    _check_vocabulary(directory)


def _faults(part: str, configuration: Mapping[str, Any]) -> Iterator[str]:
    understood = known()[part]
    architectures = configuration.get("architectures") or [None]
    first = architectures if isinstance(architectures, str) else architectures[0]
    named = configuration.get("_class_name", first)
    if named is not None and class_of(named) not in understood["classes"]:
        yield f"it is a {named}, none of {', '.join(understood['classes'])}: {REGULAR}"
    for key, value in configuration.items():
        if value is None:
            continue
        if key in understood["choices"]:
            choices = understood["choices"][key]
            if value not in choices:
                yield f"its {key} is {value!r}, none of {', '.join(map(str, choices))}: {REGULAR}"
        elif key in understood.get("numbers", ()) and not _positive(value):
            yield f"its {key} is {value!r}, and should be a number above 0: {OWN}"
        elif key in understood["wanted"]:
            yield f"its {key} is {value!r}: it wants {understood['wanted'][key]}: {REGULAR}"
        elif key not in understood["obeyed"] and key not in understood["ignored"]:
            yield (
                f"its {key} = {value!r} is not understood, and would be left out: remove it if "
                "the model draws alike without it"
            )


def _positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf  # type: ignore[operator]


def _check_index(directory: Path) -> None:
    """model_index.json, where there is one, names parts of the classes that are read."""
    path = directory / "model_index.json"
    if not path.is_file():
        return
    for part, named in read_configuration(path).items():
        if part not in FILES or not isinstance(named, list):
            continue
        if class_of(named[-1]) not in known()[part]["classes"]:
            raise UserError(
                f"{path}: its {part} is a {named[-1]}, none of "
                f"{', '.join(known()[part]['classes'])}: {REGULAR}"
            )


def _misfits(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    unet, vae, text_encoder = (parts[name] for name in ("unet", "vae", "text_encoder"))
    takes, gives, latents = unet["in_channels"], unet["out_channels"], vae["latent_channels"]
    if takes != latents:
        purpose = MORE_CHANNELS.get(takes - latents, "")
        yield f"its U-Net takes {takes} channels and its VAE makes {latents}{purpose}"
    if gives != latents:
        yield f"its U-Net gives {gives} channels and its VAE makes {latents}"
    width = text_encoder["hidden_size"]
    if unet["cross_attention_dim"] != width:
        yield (
            f"its U-Net reads texts of width {unet['cross_attention_dim']}, its text encoder makes "
            f"{width}"
        )
    steps, betas = parts["scheduler"]["num_train_timesteps"], parts["scheduler"]["trained_betas"]
    if betas is not None and len(betas) != steps:
        yield f"its scheduler has {len(betas)} trained_betas for {steps} timesteps"


def _check_entry(directory: Path, channels: int) -> None:
    path, shape = _weight(directory / "unet", "conv_in.weight")
    if shape is not None and shape[1] != channels:
        raise UserError(
            f"{path}: conv_in.weight takes {shape[1]} channels, and unet/config.json says "
            f"{channels}: bring the configuration of these weights"
        )


def _check_vocabulary(directory: Path) -> None:
    """Every token has a row in the text encoder's table."""
    path, shape = _weight(directory / "text_encoder", "embeddings.token_embedding.weight")
    if shape is None:
        return  # the weights are another model's, which loading says
    for file, token, number in _tokens(directory / "tokenizer"):
        if number >= shape[0]:
            raise UserError(
                f"{file}: token '{token}' has the id {number}, and the table in {path} has "
                f"{shape[0]} rows: bring the tokenizer of these weights, or enlarge the table"
            )


def _weight(folder: Path, name: str) -> tuple[Path, tuple[int, ...] | None]:
    """The file of the weight whose name ends in `name`, and its shape; None if there is none."""
    for file in weight_files(folder):
        if file.suffix != ".safetensors":
            continue
        for key, shape in read_header(file).shapes.items():
            if key == name or key.endswith(f".{name}"):
                return file, shape
    return folder, None


def _tokens(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """File, token and id of every token that a file of the tokenizer names."""
    for name in ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file() or (name == "vocab.json" and (folder / "tokenizer.json").is_file()):
            continue
        content = read_configuration(path)
        try:
            found = [*_named(content, name)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder} holds no tokenizer that can be read: {path.name}") from error
        for token, number in found:
            yield path, token, number


def _named(content: dict[str, Any], name: str) -> Iterator[tuple[str, int]]:
    """The tokens, with their ids, in the `content` of a tokenizer's file called `name`."""
    for number, added in content.get("added_tokens_decoder", {}).items():
        yield added["content"], int(number)
    for added in content.get("added_tokens") or []:
        yield added["content"], int(added["id"])
    vocabulary = content.get("model", {}).get("vocab", {}) if name == "tokenizer.json" else {}
    if name in ("vocab.json", "added_tokens.json"):
        vocabulary = content
    for token, number in vocabulary.items():
        yield token, int(number)
