"""What a judge is asked: turns of text and images. No torch here.

question.key(judge)     # under which its answer is kept, of the judge of that table
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Part = str | np.ndarray  #: text, or an image: uint8 (height, width, 3)


class Unanswered(Exception):
    """There is no answer now, and there may be one later: the reason, in words.

    `alone`: it is this question that has none, and others may have one.
    """

    def __init__(self, why: str, *, alone: bool = False) -> None:
        super().__init__(why)
        self.alone = alone


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says: the last turn of a question is the user's."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked, and which asking it is."""

    rubric: str  #: name, version and digest
    turns: tuple[Turn, ...]
    #: The same with its images in the other order; None where they have no order to change.
    other_order: tuple[Turn, ...] | None = None
    values: dict[str, str] = field(default_factory=dict)  #: what stands in the placeholders
    #: Not what the judge says is asked for, but how probable it is that it begins with this word.
    word: str = ""
    attempt: int = 0  #: above 0: once more, since an answer could not be read, or was refused
    repeat: int = 0  #: again, to see whether the answer stays
    swapped: bool = False

    def swap(self) -> Question:
        """The question in the other order, or itself where there is none."""
        if self.other_order is None:
            return self
        return replace(
            self, turns=self.other_order, other_order=self.turns, swapped=not self.swapped
        )

    @property
    def images(self) -> list[np.ndarray]:
        """Those that are shown, in order."""
        parts = [part for turn in self.turns for part in turn.parts]
        return [part for part in parts if not isinstance(part, str)]

    def key(self, judge: Mapping[str, Any]) -> str:
        """32 hexadecimal digits over all that decides the answer of `judge`, a table identified."""
        turns = [[turn.role, [_said(part) for part in turn.parts]] for turn in self.turns]
        asked = [dict(judge), self.rubric, turns, self.word, self.attempt, self.repeat]
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def pixels_digest(image: np.ndarray) -> str:
    """SHA-256 over shape and pixels, in hex."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def within(image: np.ndarray, longest_side: int) -> np.ndarray:
    """`image`, made smaller if one of its sides is longer than so many pixels (Lanczos)."""
    from PIL import Image

    height, width = image.shape[:2]
    if max(height, width) <= longest_side:
        return image
    scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _said(part: Part) -> list[str]:
    return ["text", part] if isinstance(part, str) else ["image", pixels_digest(part)]
