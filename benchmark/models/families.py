"""The families of models that are known, as `families.toml` declares them. No torch here.

    family = family_of(Path("my-model"))    # UserError: this is a Kandinsky model; ...
    family.weights                          # ("text_encoder", "text_encoder_2", "unet", "vae")

Which family a model is of, it says itself: its `model_index.json` names a pipeline's class.
"""

from __future__ import annotations

import functools
import tomllib
from codecs import BOM_UTF8
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.store.files import json_of, read_bytes

#: A repository of the Hugging Face hub, and a commit of it.
Place = tuple[str, str]

INDEX = "model_index.json"
OWN = "bring the model's own file"
#: Those of a family's `models` that draw nothing.
NO_DENOISERS = ("vae", "image_normalizer")
FLAX = "Flax"  #: before a class: the same model in another library


class WrongFamily(UserError):
    """A model of a family that is not known."""


@dataclass(frozen=True)
class Family:
    """What is known of a family before one of its models is loaded; see `families.toml`."""

    module: str  #: of `benchmark.models`, its code, which it may share
    name: str
    pipelines: tuple[str, ...]
    texts: Mapping[str, str]  #: text encoder -> its tokenizer
    models: tuple[str, ...]
    capabilities: frozenset[str]
    scheduler: Mapping[str, Any]
    images: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    unsaid: Mapping[str, Any] = field(default_factory=dict)
    known_by: Mapping[str, bool] = field(default_factory=dict)
    index: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ("scheduler",)
    stages: Mapping[str, str] = field(default_factory=dict)
    samplers: tuple[str, ...] = ()
    timesteps: str = "logit-normal"
    drawing: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    tokens: int | None = None
    lowercase: bool = False
    gradient_checkpointing: bool = False
    licence: str | None = None
    named: Mapping[str, Place | Mapping[str, Place]] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def weights(self) -> tuple[str, ...]:
        """The parts that have weights, each a folder."""
        return (*self.texts, *self.images, *self.models)

    @property
    def folders(self) -> tuple[str, ...]:
        """Every part's."""
        prepare = (*self.texts.values(), *self.images.values())
        return (*self.schedulers, *self.weights, *prepare)

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The parts that draw, and learn: one, or a cascade's in their order."""
        return tuple(part for part in self.models if part not in NO_DENOISERS)

    @property
    def learners(self) -> tuple[str, ...]:
        """The text encoders that learn words."""
        return self.words or tuple(self.texts)

    @property
    def learns_in_clip(self) -> bool:
        """Whether all words are learned in CLIP's vocabulary."""
        likes = (self.parts.get(part, {}).get("like", part) for part in self.learners)
        return all(like == "text_encoder" for like in likes)

    def completed(self, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """A scheduler's configuration as the family takes it."""
        return {**self.unsaid, **scheduler, **self.always}


@functools.cache
def families() -> dict[str, Family]:
    """By the names of their tables."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return {name: _declared(name, tables) for name in tables}


def _declared(name: str, tables: dict[str, dict[str, Any]]) -> Family:
    module = tables[name].get("like", name)
    table = tables[module] | tables[name]
    table.pop("like", None)
    lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    named = {name: _place(place) for name, place in table.get("named", {}).items()}
    capabilities = frozenset(table["capabilities"])
    return Family(module=module, **(table | lists | {"named": named, "capabilities": capabilities}))


def _place(declared: Any) -> Place | dict[str, Place]:
    if isinstance(declared, dict):
        return {stage: (repository, commit) for stage, (repository, commit) in declared.items()}
    repository, commit = declared
    return repository, commit


def class_of(name: object) -> str:
    """A class by its name in a configuration; `FlaxPNDMScheduler` is `PNDMScheduler`."""
    return str(name).removeprefix(FLAX)


def families_that_can(needs: Collection[str]) -> str:
    """Those with all of these capabilities and their models' short names, for a message."""
    able = [family for family in families().values() if family.capabilities >= {*needs}]
    found = [
        f"{family.name} ({', '.join(family.named)})" if family.named else family.name
        for family in able
    ]
    return ", ".join(found)


def known_families() -> str:
    """Their names, for a message."""
    return ", ".join(family.name for family in families().values())


def family_of(directory: Path) -> Family:
    """That of a model in diffusers' layout: the one that its index names.

    Of several that the index names, it is the one that the denoiser's configuration fits. Where
    there is no index, it is the family of which most folders are there, and if that is a cascade,
    the indices of its stages name it. Raises WrongFamily.
    """
    said = _said(directory / INDEX)
    if said is None:
        fitting = [family for family in families().values() if _fits(directory, family)]
        found = max(fitting, key=lambda family: _present(directory, family))
        for stage, pipeline in found.stages.items():
            check_pipeline(directory / stage / INDEX, pipeline)
        return found
    for family in families().values():
        if said in family.pipelines and _fits(directory, family):
            return family
    raise WrongFamily(
        f"{directory / INDEX}: this is a {said.removesuffix('Pipeline')} model ({said}); known are "
        f"{known_families()}"
    )


def _fits(directory: Path, family: Family) -> bool:
    """Whether the denoiser's configuration, where there is one, is what the family is known by."""
    path = directory / family.denoisers[0] / "config.json"
    if not family.known_by or not path.is_file():
        return True
    said = read_configuration(path)
    return all(bool(said.get(key)) == value for key, value in family.known_by.items())


def check_pipeline(index: Path, pipeline: str) -> None:
    """Raise WrongFamily if the index, where there is one, names another class than `pipeline`."""
    said = _said(index)
    if said not in (None, pipeline):
        raise WrongFamily(f"{index}: this is a {said}, and a {pipeline} belongs there")


def _said(index: Path) -> str | None:
    """The class that an index names; None if it names none, or is not there."""
    said = read_configuration(index).get("_class_name") if index.is_file() else None
    return None if said is None else class_of(said)


def _present(directory: Path, family: Family) -> tuple[int, int]:
    """How many of its folders are there; and of families with as many, which lacks the fewest."""
    there = sum((directory / folder).is_dir() for folder in family.folders)
    return there, there - len(family.folders)


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
