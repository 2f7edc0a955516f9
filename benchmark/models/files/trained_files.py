"""What a training left behind, and which of it draws: LoRA, peft's adapters, weights, words.

files = trained_files(Path("out/checkpoint-500"))
files.lora                                  # out/checkpoint-500/pytorch_lora_weights.safetensors
files.digest()                              # of all that is read of it

Told by the files' names and headers: no weight is read, and no torch is imported.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.api import UserError
from benchmark.models.files.diffusers_layout import PICKLES, weight_files
from benchmark.models.files.header import Header, read_header
from benchmark.store.files import file_digest

SAFE = ".safetensors"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WORDS = "learned_embeds"
#: What textual inversion for several text encoders calls their vectors in one file.
ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
#: In the names of an adapter's tensors, whichever trainer wrote them.
_ADAPTED = ("lora", "lokr", "loha", "hada")
#: Folders and pickles beside the weights that draw nothing here.
_BESIDE = ("unet_ema", "transformer_ema", "safety_checker", "image_encoder")
_STATE = ("optimizer", "scheduler", "random_states", "scaler", "sampler")
_WORDS_AT_MOST = 64  #: tensors in a file of words
SAVE_SAFE = "have the trainer save safetensors, or convert it"


@dataclass(frozen=True)
class TrainedFiles:
    """Of one checkpoint."""

    path: Path  #: the file or folder that it is
    lora: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)  #: module -> peft's folder
    parts: Mapping[str, Path] = field(
        default_factory=dict
    )  #: module -> folder, or file, of weights
    words: Mapping[str, Path] = field(default_factory=dict)  #: text encoder -> file of its vectors

    def files(self) -> list[Path]:
        """All that is read of it, in order. Raises UserError for what is not whole."""
        found = [] if self.lora is None else [self.lora]
        for folder in self.adapters.values():
            found += [folder / ADAPTER, folder / ADAPTER_WEIGHTS]
        for place in self.parts.values():
            found += [place] if place.is_file() else [place / "config.json", *weight_files(place)]
        return sorted({*found, *self.words.values()})

    def check_whole(self) -> None:
        """Raise UserError for a file whose length is not what its header says."""
        for path in self.files():
            if path.suffix == SAFE:
                read_header(path)

    def digest(self) -> str:
        """SHA-256 over the names and contents of the files."""
        found = hashlib.sha256()
        for path in self.files():
            name = (
                path.name if path == self.path else path.relative_to(_folder(self.path)).as_posix()
            )
            found.update(os.fsencode(name) + b"\0" + file_digest(path))
        return found.hexdigest()

    @functools.cached_property
    def placeholders(self) -> list[str]:
        """What the words were called in training, where their files say."""
        names = {name for path in self.words.values() for name in read_header(path).shapes}
        return sorted(names - {*ENCODERS, "emb_params"})

    def spoken(self, phrase: str | None, word: str, class_noun: str) -> str:
        """What stands for the subject in prompts, with `word` where a learned word stood.

        `phrase`: else the word and the class noun, or of a word that was learned alone, that word.
        Raises UserError for a phrase without the learned word.
        """
        alone = self.words and not (self.lora or self.adapters or self.parts)
        said = phrase or (word if alone else f"{word} {class_noun}")
        for placeholder in self.placeholders:
            said = re.sub(rf"(?<!\S){re.escape(placeholder)}(?!\S)", lambda _: word, said)
        if self.words and word not in said.split():
            called = " or ".join([*self.placeholders, word])
            raise UserError(f"phrase '{phrase}' has not the learned word, {called}, in it")
        return said


@functools.cache
def planned_files(path: str, digest: str) -> TrainedFiles:
    """As they were when they were planned: a trainer may remove what is drawn."""
    return trained_files(Path(path))


def trained_files(path: Path) -> TrainedFiles:
    """What draws of a file or a folder. Raises UserError for a pickle, or if nothing is known."""
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() in PICKLES:
        raise UserError(pickle_words(path))
    if not path.is_file():
        raise UserError(f"there is no {path}")
    return _of_file(path, read_header(path))


def pickle_words(path: Path) -> str:
    """Why it is not read, and the way out."""
    return f"{path} is a pickle, which can run code when it is read: {SAVE_SAFE}"


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _of_file(path: Path, header: Header) -> TrainedFiles:
    if any(kind in name.lower() for name in header.shapes for kind in _ADAPTED):
        return TrainedFiles(path, lora=path)
    if _is_words(header):
        return TrainedFiles(path, words=_words(path, header))
    raise UserError(
        f"{path} is neither LoRA nor words that were learned: its tensors are {_some(header)}"
    )


def _is_words(header: Header) -> bool:
    """Whether its tensors are vectors: few, and of no layer."""
    few = 0 < len(header.shapes) <= _WORDS_AT_MOST
    return (
        few
        and all(len(shape) in (1, 2) for shape in header.shapes.values())
        and not any(name.endswith((".weight", ".bias")) for name in header.shapes)
    )


def _words(path: Path, header: Header) -> dict[str, Path]:
    """By text encoder: those in a file, and in its siblings `learned_embeds_2-...`."""
    named = [ENCODERS[name] for name in header.shapes if name in ENCODERS]
    if named:
        return dict.fromkeys(named, path)
    found = {"text_encoder": path}
    for number in (2, 3):
        sibling = path.with_name(path.name.replace(WORDS, f"{WORDS}_{number}", 1))
        if path.name.startswith(WORDS) and sibling.is_file():
            found[f"text_encoder_{number}"] = sibling
    return found


def _some(header: Header) -> str:
    return ", ".join([*header.shapes][:2]) or "none"


def _of_folder(folder: Path) -> TrainedFiles:
    lora = folder / f"pytorch_lora_weights{SAFE}"
    words = folder / f"{WORDS}{SAFE}"
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _BESIDE)
    own = {"": folder} if (folder / ADAPTER).is_file() else {}
    adapters = own | {path.name: path for path in inside if (path / ADAPTER).is_file()}
    loose = {f"{path.stem}": path for path in folder.glob(f"*{SAFE}") if path.stem in _PARTS}
    found = TrainedFiles(
        folder,
        lora=lora if lora.is_file() else None,
        adapters=adapters,
        parts=loose | {path.name: path for path in inside if _has_weights(path, adapters)},
        words=_words(words, read_header(words)) if words.is_file() else {},
    )
    for path in found.adapters.values():
        _check_adapter(path)
    return found if found.files() else _single(folder)


#: Modules some of whose weights may lie in a file of their name.
_PARTS = ("unet", "transformer")


def _has_weights(folder: Path, adapters: Mapping[str, Path]) -> bool:
    """Whether it is a part of a model, in diffusers' layout."""
    if folder.name in adapters or not (folder / "config.json").is_file():
        return False
    return any(path.suffix in (SAFE, *PICKLES) for path in folder.iterdir())


def _check_adapter(folder: Path) -> None:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PICKLES:
                raise UserError(pickle_words(path))
        raise UserError(f"{folder} has {ADAPTER} and no {ADAPTER_WEIGHTS}")


def _single(folder: Path) -> TrainedFiles:
    """Of a folder with nothing in it that has a known name: its one file of weights."""
    safe = sorted(folder.glob(f"*{SAFE}"))
    if len(safe) == 1:
        found = _of_file(safe[0], read_header(safe[0]))
        return TrainedFiles(folder, lora=found.lora, words=found.words)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES and not path.name.startswith(_STATE):
            raise UserError(pickle_words(path))
    raise UserError(
        f"{folder} holds no weights that are known: pytorch_lora_weights{SAFE}, {ADAPTER}, "
        f"{WORDS}{SAFE}, or a folder unet/ or transformer/ in diffusers' layout"
    )
