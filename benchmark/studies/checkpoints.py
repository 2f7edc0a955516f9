"""Every checkpoint that a trainer leaves in a folder, drawn and scored: a row for each.

    python -m benchmark checkpoints out/my-lora --subject dog --token sks --watch

A checkpoint is a safetensors file or a folder whose name says how far it was trained. It is a
method of the plan that needs no training, so the run is one like any other: it resumes, and what is
drawn stays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.api import CHECKPOINT, UserError
from benchmark.config.registry import available, load_method
from benchmark.config.suite import Suite
from benchmark.models.diffusers_layout import PICKLES
from benchmark.models.header import read_header
from benchmark.models.trained_files import SAFE, pickle_words, trained_files

STEP, EPOCH = "step", "epoch"
SETTLED = 5.0  #: seconds for which what is being written has to stand still
POLL = 1.0  #: seconds between two looks into a folder
#: How far, at the end of a name: `checkpoint-500`, `a-step00000500`, `a_000000500`, `a-000003`.
_NUMBER = re.compile(
    r"(?:^|[-_. ])(?:(?P<word>checkpoint|steps?|epochs?|iter(?:ation)?s?)[-_=. ]?)?0*(?P<number>\d+)$",
    re.IGNORECASE,
)
_DIGITS = 3  #: a number alone has at least so many, with the zeros before it
_KOHYAS_EPOCH = re.compile(r"-\d{6}$")
_KOHYAS_STEPS = "ss_steps"  #: in the metadata of its files


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
class Choice:
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


def checkpoints(folder: Path) -> tuple[list[Trained], list[str]]:
    """The checkpoints in `folder` in their order, and lines that say what else of it is left out.

    Raises UserError if it is no folder, for pickles, for two checkpoints that are equally far, and
    for steps beside epochs.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that the trainer writes to")
    found, unnumbered = list[Trained](), list[Path]()
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and (path.is_dir() or path.suffix in (SAFE, *PICKLES)):
            one = _trained(path)
            if one is not None:
                found.append(one)
            elif path.suffix == SAFE:
                unnumbered.append(path)
    found = [one for one in found if not _is_second(one, found)]
    _check_different(found)
    return sorted(found), [
        f"{path}: no step in its name, as -step00000500 or checkpoint-500/" for path in unnumbered
    ]


def _trained(path: Path) -> Trained | None:
    """What a file or a folder is; None if it does not say how far it was trained."""
    stem = path.name if path.is_dir() else path.stem
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
    if (steps := _kohyas_steps(path)) is not None:
        return Trained(steps, STEP, path)
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


def _kohyas_steps(path: Path) -> int | None:
    """How many steps kohya's scripts say in the file; None if it says none, or is not whole."""
    try:
        said = read_header(path).metadata.get(_KOHYAS_STEPS, "")
    except UserError:
        return None
    return int(said) if said.isdecimal() else None


def _is_second(one: Trained, found: Sequence[Trained]) -> bool:
    """Whether it is part of another: a second text encoder's words, or the end under two names."""
    first = one.path.name.replace("learned_embeds_2", "learned_embeds")
    first = first.replace("learned_embeds_3", "learned_embeds")
    others = [other for other in found if other != one and other.number == one.number]
    if first != one.path.name and any(other.path.name == first for other in others):
        return True
    return _NUMBER.search(one.path.stem) is None and bool(others)


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


def check_whole(one: Trained) -> None:
    """Raise UserError for one that is not known, or not written to its end."""
    trained_files(one.path).check_whole()


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
            "file": str(one.path.resolve()),
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


# Watching ----------------------------------------------------------------------------------------


@dataclass
class Watch:
    """A folder that fills: what is whole by now, and what is waited for."""

    folder: Path
    choice: Choice
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic
    known: dict[Trained, None] = field(default_factory=dict)  #: whole, in the order of their coming
    waiting: dict[Path, str] = field(default_factory=dict)  #: why each is waited for
    _seen: dict[Path, tuple[Any, float]] = field(default_factory=dict)

    def look(self) -> bool:
        """Look into the folder again; whether a checkpoint has become whole. Raises UserError."""
        found, _ = checkpoints(self.folder)
        there = {one.path for one in found}
        self.waiting = {path: why for path, why in self.waiting.items() if path in there}
        fresh = False
        for one in self.choice.of([replace(one) for one in found]):
            if one in self.known or not self._stands_still(one.path):
                continue
            try:
                check_whole(one)
            except UserError as error:
                if self.waiting.get(one.path) != str(error):
                    self.say(f"waiting     {one.label}: {error}")
                self.waiting[one.path] = str(error)
                continue
            self.waiting.pop(one.path, None)
            self.known[one], fresh = None, True
        return fresh

    def _stands_still(self, path: Path) -> bool:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        try:
            stats = [(str(file), (s := file.stat()).st_size, s.st_mtime_ns) for file in files]
        except FileNotFoundError:  # a temporary file, gone since
            return False
        state, now = sorted(stats), self.clock()
        if path not in self._seen or self._seen[path][0] != state:
            self._seen[path] = state, now
        return now - self._seen[path][1] >= SETTLED
