"""A rubric: what a judge is asked about an image, and how its answer is read. No torch here.

    rubric = load_rubric("likeness")
    question = rubric.question(image, references, values={"prompt": "a dog", "noun": "dog"})
    rubric.read(reply)      # a number on the rubric's scale, or None: it cannot be read

Ours are written out in `rubrics/*.toml`. Of rubrics by others these files hold no words: only where
the authors' text lies, at which commit, and its SHA-256.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from benchmark.api import DISTRIBUTION, UserError
from benchmark.data.manifest import Table, Text, read_known
from benchmark.scoring.questions import Part, Question, Turn
from benchmark.store.answers import Reply, shown
from benchmark.store.files import expanded, read_bytes, sha256, text_of

RUBRICS = Path(__file__).parent / "rubrics"
#: `Score: 3`, with at most a few words, stars or brackets before the number.
_SCORE = re.compile(r"\bscore\b[*_]*\s*:([^\d\n-]{0,20})(-?\d+(?:\.\d+)?)([^\n]*)", re.IGNORECASE)
#: Said before a number, this would make it another one: `minus 1`, `.4`, `not 4 but 3`, `> 3`.
_OTHERWISE = re.compile(
    r"[.,\u2012-\u2015]$|[~\u2248<>\u2264\u2265\u2212]\s*$|"
    r"\b(?:not|no|minus|of|than|between|from|under|over|above|below|almost|nearly|to|max\w*)\b",
    re.IGNORECASE,
)
#: Said after it, too: a range, a fraction, a second score.
_GOES_ON = re.compile(
    r"^(?:\w|%)|^\W*\d|^\s*/|^\W*(?:to|or|and|maybe|perhaps|possibly|out of)\b|\bscore\b[^\n]*\d",
    re.IGNORECASE,
)
_OF_HIGHEST = re.compile(r"^[\s(]*(?:/|out of)\s*(\d+)\b\)?", re.IGNORECASE)
_DIGITS = 9  #: of a number, at most
_SHOWN = 60  #: characters of an answer that a reason shows
_THINKING, _THOUGHT = "<think>", "</think>"  #: what stands between them is no answer


class PartTable(Table):
    """Text of ours, a text of the source, or images: one of the three."""

    text: str | None = None
    file: str | None = None
    images: Literal["image", "references"] | None = None
    caption: str = ""  #: said before these images, so that they may stand in either order

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(part is not None for part in (self.text, self.file, self.images)) != 1:
            raise ValueError("a part has one of text, file, images")
        return self


class TurnTable(Table):
    """What one side says."""

    role: Literal["user", "assistant"] = "user"
    parts: list[PartTable] = Field(min_length=1)


class Source(Table):
    """Where the authors' texts lie."""

    url: str = Field(pattern=r"^https://.*/$")
    sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]  #: file below url -> hash
    strip: bool = False  #: whether the authors' code strips white space off them


class Rubric(Table):
    """A rubric's declaration."""

    name: Text
    version: Text
    description: str
    turns: list[TurnTable] = Field(min_length=1)
    #: How the answer is read: `Score: N`; the least of the list "score" in a JSON object; or not at
    #: all, since the probability of `word` is the score.
    answer: Literal["score", "least of a list", "probability"]
    lowest: int = 0
    highest: int = 1
    count: int = 1  #: of numbers in the list
    word: str = ""
    references: int = Field(default=1, ge=1)  #: at most so many of them are shown
    placeholders: dict[str, Literal["prompt", "noun"]] = {}  #: text -> what stands in its place
    #: Said when an answer cannot be read; else the same is asked once more.
    reminder: str = ""
    source: Source | None = None

    @property
    def label(self) -> str:
        """Name, version, and 12 hexadecimal digits over all that it says."""
        text = json.dumps(self.model_dump(mode="json", exclude={"description"}), sort_keys=True)
        return f"{self.name}-{self.version} {hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def shows_references(self) -> bool:
        return any(part.images == "references" for turn in self.turns for part in turn.parts)

    @property
    def names_prompt(self) -> bool:
        return "prompt" in self.placeholders.values()

    def check(self) -> None:
        """Raise UserError if a text of the authors is missing, or is not the one that is meant."""
        if self.source is None:
            return
        missing = [name for name in self.source.sha256 if not self._path(name).is_file()]
        if missing:
            fetch = [f"curl --create-dirs -o {self._path(n)} {self.source.url}{n}" for n in missing]
            raise UserError(
                f"rubric '{self.name}' is in its authors' words, which are not here; fetch them: "
                + " && ".join(fetch)
            )
        for name in self.source.sha256:
            self._text(name)

    def question(
        self, image: np.ndarray, references: Sequence[np.ndarray], values: Mapping[str, str]
    ) -> Question:
        """What to ask of `image`, uint8 (h, w, 3), beside `references`. Raises UserError."""
        shown = {"image": [image], "references": [*references[: self.references]]}
        turns = tuple(
            Turn(turn.role, self._parts(turn.parts, shown, values)) for turn in self.turns
        )
        other = None
        if any(_order_is_free(turn.parts) for turn in self.turns):
            other = tuple(
                Turn(turn.role, self._parts(_reversed(turn.parts), shown, values))
                for turn in self.turns
            )
        used: dict[str, str] = {key: values[key] for key in sorted({*self.placeholders.values()})}
        return Question(self.label, turns, other, used, word=self.word)

    def again(self, question: Question, reply: Reply) -> Question:
        """What to ask where `reply` could not be read."""
        turns, other = question.turns, question.other_order
        if self.reminder:
            said = (Turn("assistant", (reply.text,)), Turn("user", (self.reminder,)))
            turns, other = (*turns, *said), other and (*other, *said)
        return replace(question, turns=turns, other_order=other, attempt=question.attempt + 1)

    def read(self, reply: Reply) -> float | None:
        """The score that a reply gives, in [lowest, highest]; None if none can be read for sure."""
        if self.answer == "probability":
            return reply.probability
        if reply.cut:
            return None  # "Score: 1" may be the beginning of "Score: 10"
        text = reply.text.rpartition(_THOUGHT)[2]
        if _THINKING in text:
            return None
        found = self._list(text) if self.answer == "least of a list" else self._scores(text)
        if len(found) != self.count or not all(self.lowest <= one <= self.highest for one in found):
            return None
        return float(min(found))

    def why_unread(self, reply: Reply) -> str:
        """Why a reply gives no score, and what it was."""
        if reply.refused:
            return f"the judge refused: {shown(reply.refused, _SHOWN)}"
        text = shown(reply.text, _SHOWN)
        if self.word:
            return f"the judge's server does not tell how probable '{self.word}' is: '{text}'"
        if reply.cut:
            return f"the judge's answer was cut off at its limit of length: '{text}'"
        return f"the judge's answer could not be read: '{text}'"

    def _scores(self, text: str) -> list[int]:
        found = []
        for before, number, rest in _SCORE.findall(text):
            of = _OF_HIGHEST.match(rest)
            if of and of[1] == str(self.highest):
                rest = rest[of.end() :]
            if "." in number or _OTHERWISE.search(before) or _GOES_ON.search(rest):
                return []  # it was asked for a whole number, and one alone
            if len(number) > _DIGITS:
                return []
            found.append(int(number))
        return found

    def _list(self, text: str) -> list[int]:
        """The list "score" of the one JSON object in `text`."""
        start, end = text.find("{"), text.rfind("}")
        try:
            found = json.loads(text[start : end + 1])
        except (ValueError, RecursionError):
            return []
        scores = found.get("score") if isinstance(found, dict) else None
        scores = scores if isinstance(scores, list) else [scores]
        whole = all(isinstance(one, int) and not isinstance(one, bool) for one in scores)
        return scores if whole else []

    def _parts(
        self,
        parts: Sequence[PartTable],
        shown: Mapping[str, Sequence[np.ndarray]],
        values: Mapping[str, str],
    ) -> tuple[Part, ...]:
        """Texts that follow one another are one, a line each."""
        found: list[Part] = []
        for part in parts:
            text = part.text if part.file is None else self._text(part.file)
            for said in (text, part.caption or None):
                if said is not None:
                    said = self._filled(said, values)
                    if found and isinstance(found[-1], str):
                        said = f"{found.pop()}\n{said}"
                    found.append(said)
            found += shown[part.images] if part.images else []
        return tuple(found)

    def _filled(self, text: str, values: Mapping[str, str]) -> str:
        # In one go, so that what stands in one place is never taken for another's name.
        names = "|".join(map(re.escape, self.placeholders))
        if not names:
            return text
        return re.sub(names, lambda found: values[self.placeholders[found[0]]], text)

    def _text(self, name: str) -> str:
        source = self.source
        if source is None or name not in source.sha256:
            raise UserError(f"rubric '{self.name}' has no [source.sha256] for {name}: add it")
        path = self._path(name)
        try:
            content = read_bytes(path)
            text = text_of(content)
        except (OSError, ValueError) as error:
            raise UserError(f"rubric '{self.name}': {path} cannot be read ({error})") from error
        if sha256(content) != source.sha256[name]:
            raise UserError(
                f"rubric '{self.name}': {path} has SHA-256 {sha256(content)}, and its authors' has "
                f"{source.sha256[name]}: remove it, and fetch it anew: curl -o {path} "
                f"{source.url}{name}"
            )
        return text.strip() if source.strip else text

    def _path(self, name: str) -> Path:
        return _cache() / self.name / name


@functools.cache
def load_rubric(name_or_path: str) -> Rubric:
    """One of the rubrics that come with the package, or that of a TOML file. Raises UserError."""
    return read_known(name_or_path, RUBRICS, Rubric)


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(cache) / DISTRIBUTION / "rubrics"


def _order_is_free(parts: Sequence[PartTable]) -> bool:
    """Whether the images of a turn say what they are, and not where they stand."""
    images = [part for part in parts if part.images]
    return len(images) > 1 and all(part.caption for part in images)


def _reversed(parts: Sequence[PartTable]) -> list[PartTable]:
    """The parts, the images among them in the other order."""
    images = [part for part in parts if part.images]
    return [images.pop() if part.images else part for part in parts]
