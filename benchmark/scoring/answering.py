"""Asking a judge, and remembering what it said: what was answered once is never asked again.

asking = Asking(scoring.encoders, RunDirectory(path))
asking.ask("judge", encoder, questions)         # an Answer each, or Unscored with the reason
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from benchmark.api import Unscored
from benchmark.scoring.questions import Question, Unanswered, pixels_digest
from benchmark.store.answers import Answer, Reply

#: Called with a question's index and what came back, as soon as it did.
Keep = Callable[[int, Reply | Unanswered], None]


class Memory(Protocol):
    """Where answers are kept: a run directory, or nowhere beyond this process."""

    def answer(self, key: str) -> Answer | None:
        """What was answered under `key`; None if nothing was."""
        ...

    def write_answer(self, answer: Answer) -> None:
        """Keep an answer."""
        ...


@dataclass
class Notes:
    """A memory that ends with the process."""

    answers: dict[str, Answer] = field(default_factory=dict)

    def answer(self, key: str) -> Answer | None:
        return self.answers.get(key)

    def write_answer(self, answer: Answer) -> None:
        self.answers[answer.key] = answer


def as_it_is(question: Question) -> Question:
    """No variation."""
    return question


@dataclass(frozen=True)
class Asking:
    """The judges of a protocol, and what they have answered."""

    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: tables, identified
    memory: Memory = field(default_factory=Notes)
    vary: Callable[[Question], Question] = as_it_is  #: how each is asked, to measure what it does
    reads_only: bool = False  #: no judge is asked: what is remembered is all there is

    def ask(self, name: str, judge: Any, questions: Sequence[Question]) -> list[Answer | Unscored]:
        """What the judge `name` answers to each question.

        `judge()` gives the encoder; it is called if there is anything left to ask. Each answer is
        kept as it comes. Where there is none, the reason: the next command asks for it again.
        """
        table = dict(self.judges[name])
        questions = [self.vary(question) for question in questions]
        keys = [question.key(table) for question in questions]
        found: dict[str, Answer | Unscored] = {}
        for key in dict.fromkeys(keys):
            if (known := self.memory.answer(key)) is not None:
                found[key] = known
        left = {k: q for k, q in zip(keys, questions, strict=True) if k not in found}
        order = [*left]

        def keep(index: int, reply: Reply | Unanswered) -> None:
            key = order[index]
            if isinstance(reply, Unanswered):
                found[key] = Unscored(str(reply))
                return
            # Another process may have asked the same meanwhile: one answer is kept, and counts.
            answer = self.memory.answer(key)
            if answer is None:
                answer = _answer(key, table, left[key], reply)
                self.memory.write_answer(answer)
            found[key] = answer

        if self.reads_only:
            found |= dict.fromkeys(left, Unscored("no answer to this question is kept"))
        elif left:
            judge().answers([*left.values()], keep)
        return [found[key] for key in keys]


def _answer(key: str, table: dict[str, Any], question: Question, reply: Reply) -> Answer:
    return Answer(
        key=key,
        judge=table,
        rubric=question.rubric,
        values=dict(question.values),
        images=tuple(map(pixels_digest, question.images)),
        attempt=question.attempt,
        repeat=question.repeat,
        swapped=question.swapped,
        reply=reply,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
