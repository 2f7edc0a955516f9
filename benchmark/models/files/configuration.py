"""What a checkpoint's configuration says, checked against what is understood of it. No torch here.

    check_configuration(locate("my-model"))     # UserError: file, key, and the way out

A library drops a key that it does not know, so an image would be drawn without it. What is
understood stands in `known.toml`.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.models.families import INDEX, OWN, Family, class_of, family_of, read_configuration
from benchmark.models.files.diffusers_layout import configuration_file, weight_files
from benchmark.models.files.header import read_header
from benchmark.models.files.misfits import MISFITS, image_misfits

#: What diffusers and transformers take where a configuration does not say.
DEFAULTS: dict[str, dict[str, Any]] = {
    "unet": {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 1280},
    "vae": {"latent_channels": 4},
    "text_encoder": {"hidden_size": 512, "projection_dim": 512},
    "t5_encoder": {"d_model": 512},
    "transformer": {"in_channels": 16, "joint_attention_dim": 4096, "pooled_projection_dim": 2048},
    "packed_transformer": {
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    },
    "image_encoder": {"projection_dim": 512, "image_size": 224},
    "image_normalizer": {"embedding_dim": 768},
    "feature_extractor": {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "size": 224,
        "crop_size": 224,
    },
    "scheduler": {"num_train_timesteps": 1000, "trained_betas": None},
}
REGULAR = "choose a text-to-image model"


@functools.cache
def known() -> dict[str, dict[str, Any]]:
    """`known.toml`."""
    return tomllib.loads(Path(__file__).with_name("known.toml").read_text("utf-8"))


def understood(family: Family, part: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What of a part's configuration is understood in a family: `known.toml`, as it differs."""
    own = family.parts.get(part, {})
    common, obeyed = known()[_like(family, part, configuration)], own.get("obeyed", [])
    return {
        **common,
        "must": {},
        **own,
        "obeyed": [*common["obeyed"], *obeyed],
        "choices": common["choices"] | own.get("choices", {}),
        "wanted": {key: what for key, what in common["wanted"].items() if key not in obeyed},
    }


def _like(family: Family, part: str, configuration: Mapping[str, Any]) -> str:
    """The table of `known.toml` for a part of this configuration."""
    like = family.parts.get(part, {}).get("like", part.rpartition("/")[2])
    if isinstance(like, dict):
        first = next(iter(like.values()))
        return str(like.get(configuration.get("model_type"), first))
    return str(like)


def scheduler_configurations(directory: Path) -> dict[str, dict[str, Any]]:
    """Those of the model in `directory`, by their folders, as its family takes them.

    The class of one is both if model_index.json names another.
    """
    family = family_of(directory)
    return {part: family.completed(_scheduler(directory, part)) for part in family.schedulers}


def processor_configurations(directory: Path) -> dict[str, dict[str, Any]]:
    """How images become those of each image encoder, by the folders that say so, all filled in."""
    return {
        part: DEFAULTS["feature_extractor"]
        | read_configuration(directory / configuration_file(part))
        for part in family_of(directory).images.values()
    }


def _scheduler(directory: Path, part: str) -> dict[str, Any]:
    configuration = read_configuration(directory / configuration_file(part))
    stage, _, name = part.rpartition("/")
    index = directory / stage / INDEX
    if index.is_file():
        listed = (read_configuration(index).get(name) or [None])[-1]
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
    family = family_of(directory)
    filled = {}
    for part in (*family.weights, *family.schedulers, *family.images.values()):
        path = directory / configuration_file(part)
        configuration = read_configuration(path)
        for fault in _faults(understood(family, part, configuration), configuration):
            raise UserError(f"{path}: {fault}")
        filled[part] = DEFAULTS.get(_like(family, part, configuration), {}) | configuration
    for part in family.schedulers:
        _check_betas(directory / configuration_file(part), filled[part])
    for stage in family.stages or ("",):
        _check_index(directory, stage, family)
    text_encoders = [filled[part] for part in family.texts]
    for part in family.denoisers:
        misfits = MISFITS[_like(family, part, filled[part])]
        for fault in misfits(filled[part], filled.get("vae"), text_encoders):
            raise UserError(f"{directory} is no {family.name}: {fault}: {REGULAR}")
        entry = understood(family, part, filled[part])["entry"]
        _check_entry(directory / part, entry, filled[part]["in_channels"])
    for encoder, processor in family.images.items():
        normalizer, unet = filled["image_normalizer"], filled[family.denoisers[0]]
        for fault in image_misfits(unet, normalizer, filled[encoder], filled[processor]):
            raise UserError(f"{directory} is no {family.name}: {fault}: {OWN}")
    for text_encoder, tokenizer in family.texts.items():
        table = understood(family, text_encoder, filled[text_encoder])["table"]
        _check_vocabulary(directory / text_encoder, table, directory / tokenizer)


def _faults(understood: Mapping[str, Any], configuration: Mapping[str, Any]) -> Iterator[str]:
    architectures = configuration.get("architectures") or [None]
    first = architectures if isinstance(architectures, str) else architectures[0]
    named = configuration.get("_class_name", first)
    if named is not None and class_of(named) not in understood["classes"]:
        yield f"it is a {named}, none of {', '.join(understood['classes'])}: {REGULAR}"
    for key, needed in understood["must"].items():
        if configuration.get(key) != needed:
            yield f"its {key} is {configuration.get(key)!r}, and has to be {needed!r}: {REGULAR}"
    for key, value in configuration.items():
        if value is None or key in understood["must"]:
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


def _check_index(directory: Path, stage: str, family: Family) -> None:
    """A stage's model_index.json, where there is one, names parts of the classes that are read."""
    path = directory / stage / INDEX
    if not path.is_file():
        return
    for name, named in read_configuration(path).items():
        part = f"{stage}/{name}" if stage else name
        if part not in (*family.weights, *family.schedulers) or not isinstance(named, list):
            continue
        configuration = read_configuration(directory / configuration_file(part))
        classes = understood(family, part, configuration)["classes"]
        if class_of(named[-1]) not in classes:
            raise UserError(
                f"{path}: its {name} is a {named[-1]}, none of {', '.join(classes)}: {REGULAR}"
            )


def _check_betas(path: Path, scheduler: Mapping[str, Any]) -> None:
    steps, betas = scheduler.get("num_train_timesteps"), scheduler.get("trained_betas")
    if betas is not None and len(betas) != steps:
        raise UserError(f"{path}: it has {len(betas)} trained_betas for {steps} timesteps: {OWN}")


def _check_entry(denoiser: Path, entry: str, channels: int) -> None:
    path, shape = _weight(denoiser, entry)
    if shape is not None and shape[1] != channels:
        raise UserError(
            f"{path}: {entry} takes {shape[1]} channels, and {denoiser.name}/config.json says "
            f"{channels}: bring the configuration of these weights"
        )


def _check_vocabulary(text_encoder: Path, table: str, tokenizer: Path) -> None:
    """Every token has a row in the text encoder's `table`."""
    path, shape = _weight(text_encoder, table)
    if shape is None:
        return  # the weights are another model's, which loading says
    for file, token, number in _tokens(tokenizer):
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
    if isinstance(vocabulary, list):  # of sentencepiece: tokens and how rare they are
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    for token, number in vocabulary.items():
        yield token, int(number)
