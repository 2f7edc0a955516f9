"""What a judge answered, kept word for word: one sealed file an answer, under what was asked.

    answers/<two digits>/<key>.json

The key is a digest over all that decides the answer: the judge and how it samples, the rubric's
text, the images' pixels, and which asking it was. So what was answered once is never asked again,
by whichever job, metric or protocol; and another judge's answer is never taken for it. A refusal
stays under its key, too: what comes of asking again is another answer, which says after which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MILLION = 1e6  #: prices are of so many tokens


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str  #: word for word
    refused: str = ""  #: why the judge would not answer, if so; then `text` is what it said
    cut: bool = False  #: it reached the limit of its length, so that its end is missing
    probability: float | None = None  #: in [0, 1], of the word that was asked about
    model: str = ""  #: as who answered calls itself
    fingerprint: str = ""  #: of a server's build, if it tells
    tokens_in: int | None = None  #: images included; None where nobody counted
    tokens_out: int | None = None
    seconds: float = 0.0  #: waits for a busy server left out


@dataclass(frozen=True)
class Answer:
    """One question's answer, and what was asked of whom."""

    key: str
    judge: dict[str, Any]  #: its table in the protocol, as `Scoring.encoders` has it
    rubric: str  #: name, version, and 12 hexadecimal digits over its declaration
    values: dict[str, str]  #: what stood in the rubric's placeholders
    images: tuple[str, ...]  #: SHA-256 over shape and pixels of each that was shown, in order
    attempt: int  #: above 0: asked once more, since an answer could not be read, or was refused
    repeat: int  #: asked again to see whether the answer stays
    swapped: bool  #: the images stood in the other order
    reply: Reply
    time: str  #: when it came
    after: tuple[str, ...] = ()  #: keys of the refusals after which the same was asked again


@dataclass(frozen=True)
class Repeatability:
    """How far a judge agrees with itself on one metric, on the metric's scale.

    Of images to which every asking gave a score; numbers are None where there is no such image.
    """

    images: int  #: that were asked about
    read: int  #: to which every asking gave a score
    spread: float | None  #: standard deviation of the first scores from image to image
    change: float | None  #: mean absolute difference between the first asking and a later one
    same: float | None  #: the share of later scores that equal the first
    #: The same of the images in the other order; None where a rubric fixes their order too.
    swapped_change: float | None = None
    swapped_same: float | None = None
    swapped_shift: float | None = None  #: mean difference, the other order's minus the first


@dataclass(frozen=True)
class SelfAgreement:
    """What was measured of a protocol's judges. It lies beside the protocol's scores."""

    protocol: str  #: its label
    judges: dict[str, dict[str, Any]]  #: their tables, as `Scoring.encoders` has them
    repeats: int  #: askings of each question in the first order
    metrics: dict[str, Repeatability]
    answers: tuple[str, ...]  #: keys of all that were read, sorted
    tokens_in: int | None  #: of all of them; None if nobody counted
    tokens_out: int | None
    price: float | None  #: None if the protocol has no prices
    provenance: dict[str, Any]


def shown(text: str, most: int) -> str:
    """`text` on one line, at most so many characters of it, and none that cannot be printed."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= most else f"{line[:most]}..."


def tokens_of(answers: Sequence[Answer]) -> tuple[int | None, int | None]:
    """What the judge read and wrote for `answers`; None if one was not counted."""
    replies = [answer.reply for answer in answers]
    return _sum([r.tokens_in for r in replies]), _sum([r.tokens_out for r in replies])


def price_of(answers: Sequence[Answer], table: Mapping[str, Any]) -> float | None:
    """What `answers` cost by the prices of a judge's table; None if they cannot be told."""
    count_in, count_out = tokens_of(answers)
    price_in, price_out = table.get("price_in"), table.get("price_out")
    if count_in is None or count_out is None or price_in is None or price_out is None:
        return None
    return float(count_in * price_in + count_out * price_out) / _MILLION


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [one for one in counts if one is not None]
    return sum(known) if len(known) == len(counts) else None


def answer_path(key: str) -> str:
    """Where the answer lies, relative to the run directory."""
    return f"answers/{key[:2]}/{key}.json"
