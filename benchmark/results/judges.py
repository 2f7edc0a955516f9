"""What judges were asked for a run's scores, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmark.results.run import Run
from benchmark.store.answers import Answer, price_of, tokens_of


@dataclass(frozen=True)
class Usage:
    """The answers of one judge under one protocol, each once."""

    protocol: str  #: its label
    judge: str  #: the encoder's name there
    model: str
    answers: int
    refused: int
    again: int  #: asked once more, since an answer could not be read, or was refused
    tokens_in: int | None  #: None if nobody counted
    tokens_out: int | None
    price: float | None  #: in the currency of the protocol's prices; None if it has none


def usage(run: Run) -> Iterator[Usage]:
    """A row for each judge that answered under each protocol of `run`."""
    for label, scoring in run.scorings.items():
        keys = {
            key
            for record in run.scored
            if record.scoring.protocol == label
            for own in record.answers.values()
            for key in own
        }
        found = [run.answers[key] for key in sorted(keys & run.answers.keys())]
        for name, table in scoring.encoders.items():
            answers = [answer for answer in found if answer.judge == table]
            if answers:
                prices = run.declarations[label].get("encoders", {}).get(name, {})
                yield _usage(label, name, answers, prices)


def _usage(label: str, name: str, answers: list[Answer], prices: dict[str, Any]) -> Usage:
    tokens_in, tokens_out = tokens_of(answers)
    return Usage(
        protocol=label,
        judge=name,
        model=str(answers[0].judge.get("model", "")),
        answers=len(answers),
        refused=sum(bool(answer.reply.refused) for answer in answers),
        again=sum(answer.attempt > 0 for answer in answers),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        price=price_of(answers, prices),
    )
