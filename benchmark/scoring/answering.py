"""Asking a judge, and remembering what it said: what was answered once is never asked again.

Only a refusal may be (`insists`): each stays, and the answer that comes after it counts.

asking = Asking(scoring.encoders, RunDirectory(path))
asking.ask("judge", encoder, questions)         # an Answer each, or Unscored with the reason
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    insists: bool = False  #: what was refused before is asked again, once
    _refused: set[str] = field(default_factory=set)  #: keys of what was refused to this process

    def ask(self, name: str, judge: Any, questions: Sequence[Question]) -> list[Answer | Unscored]:
        """What the judge `name` answers to each question.

        `judge()` gives the encoder; it is called if there is anything left to ask. Each answer is
        kept as it comes. Where there is none, the reason: the next command asks for it again.
        """
        table = dict(self.judges[name])
        standing = [self._standing(self.vary(question), table) for question in questions]
        found: dict[str, Answer | Unscored] = {
            one.key: one.answer for one in standing if one.answer is not None
        }
        left = [*{one.key: one for one in standing if one.answer is None}.values()]

        def keep(index: int, reply: Reply | Unanswered) -> None:
            asked = left[index]
            if isinstance(reply, Unanswered):
                found[asked.key] = Unscored(str(reply))
                return
            # Another process may have asked the same meanwhile: one answer is kept, and counts.
            answer = self.memory.answer(asked.key)
            if answer is None:
                answer = _answer(asked, table, reply)
                self.memory.write_answer(answer)
            if answer.reply.refused:
                self._refused.add(asked.key)
            found[asked.key] = answer

        if self.reads_only:
            nothing = Unscored("no answer to this question is kept")
            found |= {one.key: nothing for one in left}
        elif left:
            judge().answers([one.question for one in left], keep)
        return [found[one.key] for one in standing]

    def _standing(self, question: Question, table: dict[str, Any]) -> _Standing:
        """How it stands with a question: what was refused may have been asked again, or is now."""
        after: list[str] = []
        while True:
            key = question.key(table)
            answer = self.memory.answer(key)
            if answer is None or not answer.reply.refused:
                break
            again = replace(question, attempt=question.attempt + 1)
            insists = self.insists and key not in self._refused
            if not insists and self.memory.answer(again.key(table)) is None:
                break
            after.append(key)
            question = again
        return _Standing(question, key, tuple(after), answer)


@dataclass(frozen=True)
class _Standing:
    """A question as it was last asked, or is to be asked."""

    question: Question
    key: str
    after: tuple[str, ...]  #: keys of the refusals before it
    answer: Answer | None


def _answer(asked: _Standing, table: dict[str, Any], reply: Reply) -> Answer:
    question = asked.question
    return Answer(
        key=asked.key,
        judge=table,
        rubric=question.rubric,
        values=dict(question.values),
        images=tuple(map(pixels_digest, question.images)),
        attempt=question.attempt,
        repeat=question.repeat,
        swapped=question.swapped,
        reply=reply,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        after=asked.after,
    )
