"""What a study of people's preferences keeps: its questions' pairs, and the votes that come back.

    study = read_study(Path("study"))
    votes = read_votes(study, Path("study"))

A study folder holds index.html, which people see; study.json, which says what they saw and is not
for them; and votes/, a file for each of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from benchmark.api import UserError
from benchmark.data.manifest import Table, some
from benchmark.store.files import json_of, read_bytes, visible_files, write_atomically
from benchmark.store.seals import is_sealed, sealed, unsealed

PAGE, STUDY, VOTES = "index.html", "study.json", "votes"
#: The paper's two questions (Ruiz et al., section 4.3), which a study asks of each pair.
Question = Literal["subject", "prompt"]
QUESTIONS: tuple[Question, ...] = ("subject", "prompt")
#: Of a pair's pictures the one that is preferred; None: they cannot tell.
Choice = Literal["a", "b"] | None
_TOKEN = r"^[0-9a-f]{8,64}$"
_LARGEST = 1_000_000  #: bytes of a file of votes


class Picture(Table):
    """One method's image of a pair."""

    method: str
    seed: int
    sample: int = Field(ge=0)
    sha256: str


class Pair(Table):
    """Two methods' images of one subject and one prompt."""

    id: str
    subject: str
    text: str  #: the prompt with the class noun, as people read it
    a: Picture
    b: Picture
    #: "protocol/metric" -> the scores of a and b
    scores: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = {}


class Check(Table):
    """A question whose answer is known: who gets it wrong has not looked."""

    id: str
    question: Question
    right: Literal["a", "b"]


class MetricOfStudy(Table):
    """A metric whose agreement with people can be told."""

    label: str
    protocol: str
    lower_is_better: bool


class Study(Table):
    """What was asked."""

    format: Literal[1] = 1
    id: str = Field(pattern=_TOKEN)
    methods: list[str] = Field(min_length=2)  #: the first is compared with each of the others
    runs: list[str]
    pairs: list[Pair] = Field(min_length=1)
    checks: list[Check]
    metrics: dict[str, MetricOfStudy]


class Answer(Table):
    """One answer. `item`: the id of a pair or of a check."""

    question: Question
    item: str
    choice: Choice
    left: Literal["a", "b"]  #: which of the two stood on the left, or above
    seconds: float = Field(ge=0, allow_inf_nan=False)


class Votes(Table):
    """What one person answered. `person` is a random number: nobody's name is asked for."""

    format: Literal[1] = 1
    study: str
    person: str = Field(pattern=_TOKEN)
    answers: list[Answer]


def study_id(pairs: Iterable[Pair], checks: Iterable[Check]) -> str:
    """A digest of all that is shown, so that votes of another study are told from this one's."""
    content = [one.model_dump(mode="json", exclude={"scores"}) for one in (*pairs, *checks)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_study(study: Study, folder: Path) -> None:
    """Write study.json, sealed: it holds methods and scores, which decide what votes come to."""
    content = sealed(study.model_dump(mode="json"))
    write_atomically(folder / STUDY, json.dumps(content, indent=1) + "\n")


def read_study(folder: Path) -> Study:
    """The study in `folder`. Raises UserError naming the file and what is amiss."""
    path = folder / STUDY
    if not path.is_file():
        raise UserError(f"{path} does not exist: make a study with `study RUN --out {folder}`")
    content = _parsed(path)
    if not is_sealed(content):
        raise UserError(f"{path} was changed since its page was made: bring back what it said")
    try:
        return Study.model_validate(unsealed(content))
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from error


def parsed_votes(content: str | bytes, study: Study, name: str) -> Votes:
    """One person's votes, as they came. `name`: what errors call them. Raises UserError.

    That is for other than a page of `study` writes: an item that it does not have, or one twice.
    """
    if len(content) > _LARGEST:
        raise UserError(f"{name} has {len(content)} bytes, and votes have less than {_LARGEST}")
    try:
        votes = Votes.model_validate(json_of(content))
    except ValidationError as error:
        raise UserError(f"{name} holds no votes: {_first(error)}") from error
    except ValueError as error:
        raise UserError(f"{name} holds no votes: it is no JSON ({error})") from error
    if votes.study != study.id:
        raise UserError(
            f"{name} is of study {votes.study[:16]!r}, and this one is {study.id!r}: it belongs to "
            "another page"
        )
    asked = {(question, pair.id) for question in QUESTIONS for pair in study.pairs}
    asked |= {(check.question, check.id) for check in study.checks}
    given = [(answer.question, answer.item) for answer in votes.answers]
    if unknown := sorted({*given} - asked):
        raise UserError(f"{name} answers {some([' '.join(one) for one in unknown])}, not asked")
    if len({*given}) < len(given):
        twice = sorted({" ".join(one) for one in given if given.count(one) > 1})
        raise UserError(f"{name} answers {some(twice)} more than once")
    return votes


def read_votes(study: Study, folder: Path) -> list[Votes]:
    """Everybody's votes in `folder`/votes, by person. Raises UserError naming a file amiss.

    That is also for the same person's votes in two files, and for what is no file of votes:
    nobody's answers are left out for their file's name.
    """
    found: dict[str, tuple[Path, Votes]] = {}
    for path in visible_files(folder / VOTES):
        if path.suffix != ".json":
            raise UserError(
                f"{path} does not end in .json: rename it if it holds votes, else take it away"
            )
        votes = parsed_votes(_content(path), study, str(path))
        if votes.person in found:
            raise UserError(f"{found[votes.person][0]} and {path} are the same person's: keep one")
        found[votes.person] = path, votes
    if not found:
        raise UserError(f"{folder / VOTES} has no votes yet: put the files there that people sent")
    return [found[person][1] for person in sorted(found)]


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _parsed(path: Path) -> Any:
    try:
        return json_of(_content(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error


def _first(error: ValidationError) -> str:
    """What is amiss first, and where."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}"
