"""Whether a model's files hold every weight that it has a place for, and no other.

    check_whole("my-model")     # UserError: file, tensor, and the way out

Told by the files' headers: the modules are built without memory, and no weight is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import diffusers
import torch
from torch import nn

from benchmark.api import UserError
from benchmark.models.families import Family, family_of, read_configuration
from benchmark.models.files.checkpoints import OF_NO_USE, part_class
from benchmark.models.files.configuration import understood
from benchmark.models.files.diffusers_layout import configuration_file, weight_files
from benchmark.models.files.header import read_header
from benchmark.models.files.identity import SingleFile, locate
from benchmark.models.files.single_file_header import describe
from benchmark.store.errors import in_one_line

#: What diffusers and transformers once called some weights, and what they call them now.
RENAMED = (
    ("text_model.", ""),
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)
WAY_OUT = "bring the weights and the configuration of one model"


def check_whole(model: str) -> None:
    """Raise UserError for a weight that is missing, has no place or another shape, or is no float.

    `model` is as in `identity.locate`, and its configuration is understood.
    """
    place = locate(model)
    if isinstance(place, SingleFile):
        from benchmark.models.files.single_file import check_single_file

        check_single_file(place)
        return
    family = family_of(place)
    for part in family.weights:
        folder = place / part
        for fault in faults(folder, weight_files(folder), _module(family, part, place)):
            raise UserError(f"model '{model}': {fault}: {WAY_OUT}")


def empty_denoiser(model: str) -> nn.Module:
    """The denoiser of a model that is here, a cascade's first, without memory. Raises UserError."""
    place = locate(model)
    if isinstance(place, SingleFile):
        from benchmark.models.files.single_file import empty_modules

        said = describe(place)
        return empty_modules(said.generation, said.prediction)["unet"]
    family = family_of(place)
    return _module(family, family.denoisers[0], place)


def _module(family: Family, part: str, directory: Path) -> nn.Module:
    """A part by its configuration, without memory. Raises UserError."""
    path = directory / configuration_file(part)
    configuration = read_configuration(path)
    name = understood(family, part, configuration)["classes"][0]
    try:
        with torch.device("meta"):
            kind = part_class(name)
            if issubclass(kind, diffusers.ModelMixin):
                return kind.from_config(configuration)
            return kind(kind.config_class.from_dict(configuration))
    # Whatever the libraries raise for a configuration that makes no module.
    except Exception as error:
        why = in_one_line(error)
        raise UserError(f"{path} makes no {name}: {why}: bring the model's own") from error


def faults(
    folder: Path, files: Iterable[Path], module: nn.Module, of_no_use: re.Pattern[str] = OF_NO_USE
) -> Iterator[str]:
    """What is wrong with the weights in `files` of `folder`, which are those of `module`.

    The module may be on the device "meta"; `of_no_use`: what files may hold besides. Raises
    UserError for a file that is not whole.
    """
    places = {_now(name): tensor.shape for name, tensor in module.state_dict().items()}
    names = defaultdict(set)  # of one weight, which a file may hold by any of them
    for name, weight in module.named_parameters(remove_duplicate=False):
        names[id(weight)].add(_now(name))
    same = {name: others for others in names.values() for name in others}
    for file in files:
        if file.suffix != ".safetensors":  # the index of shards
            continue
        header = read_header(file)
        for name, shape in sorted(header.shapes.items()):
            wanted = places.pop(_now(name), None)
            if wanted is None:
                if not of_no_use.fullmatch(name):
                    yield f"{file} holds {name}, which its configuration has no place for"
            elif shape != wanted:
                yield f"{file}: {name} is {list(shape)}, and its configuration has {list(wanted)}"
            elif name in header.whole_numbers:
                yield f"{file}: {name} holds whole numbers: its weights are packed"
    places = {name: shape for name, shape in places.items() if same.get(name, {name}) <= {*places}}
    if places:
        yield f"{folder} lacks {len(places)} weights, {min(places)} among them"


def _now(name: str) -> str:
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name
