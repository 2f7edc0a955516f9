"""The parts of a model, read from wherever it lies: diffusers' layout, the hub, a single file.

parts = read_parts("pocket")
parts.modules["unet"], parts.tokenizers["tokenizer"]    # by the names of their folders
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from diffusers.pipelines import stable_diffusion
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5TokenizerFast
from transformers.utils.logging import disable_progress_bar

from benchmark.api import UserError
from benchmark.models.families import OWN, Family, families, family_of, read_configuration
from benchmark.models.files.configuration import (
    check_configuration,
    processor_configurations,
    scheduler_configurations,
    understood,
)
from benchmark.models.files.diffusers_layout import (
    SENTENCES,
    configuration_file,
    index_settings,
    variant,
    weight_files,
)
from benchmark.models.files.hub import NAMED
from benchmark.models.files.identity import SingleFile, locate, locate_here
from benchmark.models.texts.tokens import Tokenizer
from benchmark.store.errors import in_one_line

#: In the files of a part, but of no use here; weights that a module lacks otherwise are refused.
OF_NO_USE = re.compile(
    r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale"
    r"|(vision_model|visual_projection)\..*|loss\..*"
)


@dataclass(frozen=True)
class Parts:
    """A model's parts, each by the name of its folder, in the precision of its file, on the CPU."""

    family: Family
    modules: Mapping[str, nn.Module]
    tokenizers: Mapping[str, Tokenizer]
    schedulers: Mapping[str, Mapping[str, Any]]  #: their configurations
    index: Mapping[str, Any]  #: what the model's index says that changes images
    #: The weights as they lie in the files, mapped: "unet.conv_in.weight" -> on the CPU, as stored.
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    #: How images become an image encoder's, by the folder that says so.
    processors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """The configuration that samplers are built from."""
        return self.schedulers[self.family.schedulers[0]]


def read_parts(model: str) -> Parts:
    """The parts of `model`, which is as in `identity.locate`. A safety checker is never read.

    Raises UserError naming the file or directory if a part is missing, broken, or not of its
    family's shape.
    """
    place = locate(model)
    try:
        if isinstance(place, SingleFile):
            from benchmark.models.files.single_file import read_single_file

            parts = read_single_file(place)
        else:
            check_configuration(place)
            parts = _read_directory(place)
    except UserError as error:
        raise UserError(f"model '{model}': {error}") from error
    except (OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        path = place.path if isinstance(place, SingleFile) else place
        raise UserError(f"model '{model}' cannot be loaded from {path}: {error}") from error
    return parts


def read_tokenizers(model: str, *, of_words: bool = False) -> list[Tokenizer]:
    """The tokenizers of `model` alone, or those before the text encoders that learn words.

    Of a model that has a short name and learns words in CLIP's vocabulary, that is here: its
    weights need not be.
    """
    from benchmark.models.files.single_file import clip_tokenizer

    if (name := model.partition("@")[0]) in NAMED:
        family = next(family for family in families().values() if name in family.named)
        in_clip = family.learns_in_clip if of_words else not family.tokens
        if in_clip or (not of_words and locate_here(model) is None):
            return [clip_tokenizer()]
    place = locate(model)
    if isinstance(place, SingleFile):
        return [clip_tokenizer()]
    family = family_of(place)
    tokenizers = _tokenizers(place, family)
    wanted = family.learners if of_words else tuple(family.texts)
    return [tokenizers[family.texts[text_encoder]] for text_encoder in wanted]


def _read_directory(directory: Path) -> Parts:
    disable_progress_bar()
    family = family_of(directory)
    modules = {part: _read_weights(family, directory, part) for part in family.weights}
    return Parts(
        family,
        modules,
        _tokenizers(directory, family),
        scheduler_configurations(directory),
        index_settings(directory),
        _mapped_weights(directory, modules),
        processor_configurations(directory),
    )


def _mapped_weights(directory: Path, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The modules' weights, straight from their files.

    They take no memory of their own: the files are mapped, and the system may drop what it can read
    again. They have the files' precision. Parts whose files name the weights otherwise (old names)
    are left out.
    """
    found: dict[str, Tensor] = {}
    for name, module in modules.items():
        stored: dict[str, Tensor] = {}
        for file in weight_files(directory / name):
            if file.suffix == ".safetensors":  # the index of shards is none
                stored |= load_file(file)
        stored |= _tied(module, stored)
        if stored.keys() == module.state_dict().keys():
            found |= {f"{name}.{key}": tensor for key, tensor in stored.items()}
    return found


def _tied(module: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What has several names in a module and one in its file, by those that the file lacks."""
    names: dict[int, str] = {}
    state = module.state_dict()
    for name in stored.keys() & state.keys():
        names[state[name].data_ptr()] = name
    return {
        name: stored[names[tensor.data_ptr()]]
        for name, tensor in state.items()
        if name not in stored and tensor.data_ptr() in names
    }


def _tokenizers(directory: Path, family: Family) -> dict[str, Tokenizer]:
    return {
        name: _tokenizer(family, directory / name, directory / configuration_file(text_encoder))
        for text_encoder, name in family.texts.items()
    }


def _tokenizer(family: Family, folder: Path, text_encoder: Path) -> Tokenizer:
    """That in `folder`, for as many tokens as the text encoder of this configuration reads."""
    configuration = read_configuration(text_encoder)
    of_t5 = configuration.get("model_type") == "t5"
    if of_t5 and not (folder / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
        raise UserError(
            f"{folder / SENTENCES} takes another library to read: pip install sentencepiece "
            "protobuf"
        )
    kind: type[Tokenizer] = T5TokenizerFast if of_t5 else CLIPTokenizer
    try:
        tokenizer = kind.from_pretrained(folder)
    # The libraries raise errors of many kinds, and plain Exceptions, for files that are broken.
    except Exception as error:
        raise UserError(f"{folder} holds no tokenizer that can be read: {error!r:.200}") from error
    if of_t5:
        length = family.tokens or tokenizer.model_max_length  # T5 sets no limit itself
    else:
        length = _clip_length(text_encoder, configuration)
    tokenizer.model_max_length = min(tokenizer.model_max_length, length)
    if of_t5 and family.lowercase:  # CLIP's does so of itself
        backend = tokenizer.backend_tokenizer
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def _clip_length(path: Path, configuration: Mapping[str, Any]) -> int:
    """How many tokens a CLIP text encoder of the `configuration` at `path` reads."""
    try:
        settings = transformers.CLIPTextConfig.from_dict(dict(configuration))
    # The same goes for values of another kind.
    except Exception as error:
        raise UserError(f"{path} is no text encoder's: {in_one_line(error)}: {OWN}") from error
    return int(settings.max_position_embeddings)


def _read_weights(family: Family, directory: Path, part: str) -> nn.Module:
    folder = directory / part
    name = understood(family, part, read_configuration(folder / "config.json"))["classes"][0]
    kind = part_class(name)
    ours = issubclass(kind, diffusers.ModelMixin)  # told not to copy what the mapping can give
    module, found = kind.from_pretrained(
        folder,
        use_safetensors=True,
        variant=variant(folder),
        output_loading_info=True,
        **({"low_cpu_mem_usage": False} if ours else {}),
    )
    check_whole(folder, found)
    return cast(nn.Module, module)


def part_class(name: str) -> Any:
    """The class called `name`, of diffusers, of a pipeline there, or of transformers."""
    libraries = (diffusers, stable_diffusion, transformers)
    return next(getattr(one, name) for one in libraries if hasattr(one, name))


def check_whole(
    folder: Path, found: Mapping[str, Any], unused: re.Pattern[str] = OF_NO_USE
) -> None:
    """Refuse weights that lack a place, or places that lack a weight. Raises ValueError.

    `found`: as the libraries' `output_loading_info` says. `unused`: what a file may hold besides.
    """
    # The libraries only warn, and leave what is missing random.
    if found["missing_keys"]:
        raise ValueError(
            f"{folder} lacks {len(found['missing_keys'])} weights, "
            f"{min(found['missing_keys'])} among them"
        )
    strange = sorted(key for key in found["unexpected_keys"] if not unused.fullmatch(key))
    if strange:
        raise ValueError(
            f"{folder} holds {len(strange)} weights that its configuration has no place for, "
            f"{strange[0]} among them"
        )


def hollow_parts(directory: Path) -> Parts:
    """The parts of the model in `directory` by their configurations alone: no weights are read."""
    family = family_of(directory)
    return Parts(
        family,
        {part: _hollow(family, directory / part, part) for part in family.weights},
        _tokenizers(directory, family),
        scheduler_configurations(directory),
        index_settings(directory),
        processors=processor_configurations(directory),
    )


def _hollow(family: Family, folder: Path, part: str) -> nn.Module:
    """A part in float32, with weights as its class begins with."""
    name = understood(family, part, read_configuration(folder / "config.json"))["classes"][0]
    kind = part_class(name)
    if issubclass(kind, diffusers.ModelMixin):
        return cast(nn.Module, kind.from_config(kind.load_config(folder)))
    configuration = kind.config_class.from_pretrained(folder, dtype=torch.float32)
    return cast(nn.Module, kind(configuration))
