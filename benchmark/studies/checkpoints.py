"""Every checkpoint that a trainer leaves in a folder, drawn and scored: a row for each.

    python -m benchmark checkpoints out/my-lora --subject dog --token sks --watch

A checkpoint is a safetensors file or a folder whose name says how far it was trained. It is a
method of the plan that needs no training, so the run is one like any other: it resumes, and what is
drawn stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import CHECKPOINT, UserError
from benchmark.config.registry import available, load_method
from benchmark.config.suite import Suite
from benchmark.models.files.diffusers_layout import PICKLES
from benchmark.models.files.trained_files import SAFE, pickle_words, trained_files
from benchmark.store.files import json_of

STEP, EPOCH = "step", "epoch"
#: How far, at the end of a name: `checkpoint-500`, `a-step00000500`, `a_000000500`, `a-000003`.
_NUMBER = re.compile(
    r"(?:^|[-_. ])(?:(?P<word>checkpoint|steps?|epochs?|iterations?)[-_=. ]?)?(?P<number>\d+)$",
    re.IGNORECASE,
)
_DIGITS = 3  #: a number alone has at least so many, with the zeros before it
_KOHYAS_EPOCH = re.compile(r"-\d{6}$")
_KOHYAS_STEPS = "ss_steps"  #: in the metadata of its files
_LONGEST_NUMBER = 18  #: digits
_LONGEST_HEADER = 100_000_000  #: bytes; safetensors reads none that is longer


@dataclass(frozen=True, order=True)
class Trained:
    """A checkpoint: how far it was trained, in steps or in epochs, and where it lies."""

    number: int
    unit: str
    path: Path

    @property
    def label(self) -> str:
        """`step 500`."""
        return f"{self.unit} {self.number}"


@dataclass(frozen=True)
class Which:
    """Which of the checkpoints are wanted."""

    every: int | None = None  #: those whose number it divides
    last: int | None = None  #: the last so many

    def of(self, found: Sequence[Trained]) -> list[Trained]:
        """In their order."""
        kept = [one for one in sorted(found) if self.every is None or one.number % self.every == 0]
        return kept if self.last is None else kept[-self.last :]


@dataclass(frozen=True)
class Named:
    """What stands for the subject in the prompts; None: as the method says."""

    token: str | None = None
    phrase: str | None = None

    def settings(self) -> dict[str, str]:
        """Of the method that draws."""
        given = {"identifier": self.token, "phrase": self.phrase}
        return {key: value for key, value in given.items() if value is not None}


# What lies in a folder ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """What lies in one."""

    found: tuple[Trained, ...]  #: in their order
    unnumbered: tuple[Path, ...]  #: safetensors files that do not say how far they were trained
    unfinished: tuple[Path, ...]  #: files too short for the header that they begin with


def checkpoints(folder: Path) -> Folder:
    """The checkpoints in `folder`.

    Raises UserError if it is no folder, for pickles, for two checkpoints that are equally far, and
    for steps beside epochs.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that the trainer writes to")
    found, unnumbered, unfinished = list[Trained](), list[Path](), list[Path]()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix in (SAFE, *PICKLES)):
            continue
        with suppress(FileNotFoundError):  # taken away meanwhile
            said = _said(path) if path.suffix == SAFE and path.is_file() else {}
            if said is None:
                unfinished.append(path)
            elif (one := _trained(path, said)) is not None:
                found.append(one)
            elif path.suffix == SAFE:
                unnumbered.append(path)
    found = [one for one in found if not _is_second(one, found)]
    _check_different(found)
    return Folder(tuple(sorted(found)), tuple(unnumbered), tuple(unfinished))


def _said(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file, which may not be written to its end; None: too short."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _LONGEST_HEADER:
            return None
        header = file.read(length)
    if len(header) < length:
        return None
    try:
        said = json_of(header).get("__metadata__")
    except (AttributeError, ValueError):
        return None
    if not isinstance(said, dict):
        return {}
    return {str(key): str(value) for key, value in said.items()}


def _trained(path: Path, said: dict[str, str]) -> Trained | None:
    """What a file that says so, or a folder, is; None if it is not known how far it was trained."""
    stem = _stem(path)
    match = _NUMBER.search(stem)
    if match is not None and match["word"] is None:
        digits = re.search(r"\d+$", stem)
        if digits is None or len(digits[0]) < _DIGITS:
            match = None
    if path.suffix.lower() in PICKLES and path.is_file():
        if match is None:
            return None
        raise UserError(pickle_words(path))
    if path.is_dir():
        return None if match is None or not _is_output(path, match) else _numbered(path, match)
    steps = said.get(_KOHYAS_STEPS, "")
    if steps.isdecimal() and len(steps) <= _LONGEST_NUMBER:
        return Trained(int(steps), STEP, path)
    return None if match is None else _numbered(path, match)


def _numbered(path: Path, match: re.Match[str]) -> Trained:
    word = (match["word"] or "").lower()
    counts_epochs = word.startswith(EPOCH) or (
        not word and path.is_file() and _KOHYAS_EPOCH.search(path.stem) is not None
    )
    return Trained(int(match["number"]), EPOCH if counts_epochs else STEP, path)


def _is_output(folder: Path, match: re.Match[str]) -> bool:
    """Whether a folder with a number in its name is a trainer's: by a word, or by what it holds."""
    return match["word"] is not None or any(
        path.suffix == SAFE or path.name == "adapter_config.json" for path in folder.iterdir()
    )


def _is_second(one: Trained, found: Sequence[Trained]) -> bool:
    """Whether it is part of another: a second text encoder's words, or the end under two names."""
    first = one.path.name.replace("learned_embeds_2", "learned_embeds")
    first = first.replace("learned_embeds_3", "learned_embeds")
    others = [
        other
        for other in found
        if other != one and (other.unit, other.number) == (one.unit, one.number)
    ]
    if first != one.path.name and any(other.path.name == first for other in others):
        return True
    return _NUMBER.search(_stem(one.path)) is None and any(
        _NUMBER.search(_stem(other.path)) is not None and _same_content(one.path, other.path)
        for other in others
    )


def _same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, whatever else they say."""
    return one.is_file() and other.is_file() and _tensors(one) == _tensors(other)


def _tensors(path: Path) -> tuple[dict[str, Any], str]:
    with path.open("rb") as file:
        header = json_of(file.read(int.from_bytes(file.read(8), "little")))
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return {name: value for name, value in header.items() if name != "__metadata__"}, content


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _check_different(found: Sequence[Trained]) -> None:
    units: dict[str, Trained] = {}
    numbers: dict[tuple[str, int], Trained] = {}
    for one in found:
        other = numbers.setdefault((one.unit, one.number), one)
        if other != one:
            raise UserError(
                f"{other.path} and {one.path} are both of {one.label}: move one of them away"
            )
        units.setdefault(one.unit, one)
    if len(units) > 1:
        step, epoch = units[STEP], units[EPOCH]
        raise UserError(
            f"{step.path} counts steps and {epoch.path} epochs, which make no curve: move those of "
            "one kind to a folder of their own"
        )


# The plan ----------------------------------------------------------------------------------------


def reader() -> str:
    """The method that draws by checkpoints, by its needs. Raises UserError if none is installed."""
    for name in available("methods"):
        if CHECKPOINT in load_method(name).needs:
            return name
    raise UserError("no method is installed that draws by checkpoints")


def with_checkpoints(
    suite: Suite, found: Sequence[Trained], named: Named
) -> tuple[Suite, list[str]]:
    """`suite` with a method for each checkpoint, and their names: `checkpoint[step=500]`.

    Of all subjects of its dataset. Raises UserError for a checkpoint that is not whole.
    """
    tables: dict[str, dict[str, Any]] = {}
    for one in found:
        files = trained_files(one.path)
        files.check_whole()
        tables[f"{reader()}[{one.unit}={one.number}]"] = {
            "file": str(one.path.absolute()),
            "digest": files.digest(),
            **named.settings(),
        }
    data = suite.data.model_copy(update={"split": None, "subjects": []})
    methods = suite.methods | tables
    return suite.model_copy(update={"data": data, "methods": methods}), list(tables)


def subject_of(suite: Suite, name: str) -> str:
    """`name`, or the only subject of the suite's data. Raises UserError if there are several."""
    names = [subject.name for subject in suite.data.load().subjects]
    if name or len(names) == 1:
        return name or names[0]
    raise UserError(f"--subject: whom the checkpoints have learned; one of {', '.join(names)}")
