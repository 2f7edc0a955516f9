"""What zero-shot methods share that look at one of the subject's images while they draw.

@dataclass(frozen=True)
class Mine(OneImage):
    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE})
    description: str = "zero-shot: mine"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from benchmark.api import Draws, Request, Role, Subject, Tools, Weights


@dataclass(frozen=True)
class OneImage:
    """A method that learns nothing. What it draws is said of the class noun."""

    version: ClassVar[str] = "1"
    role: ClassVar[Role] = "method"
    variant_of: ClassVar[str | None] = None
    draws: ClassVar[Draws] = "prompts"

    image: Annotated[int, Ge(1)] = 1  #: which of the subject's images it looks at, from 1

    def prior(self, subject: Subject) -> None:
        """None."""

    def seen(self, subject: Subject) -> list[int]:
        """The one image."""
        return [self.image - 1]

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is drawn for each request."""
        return [request.prompt.text(subject.class_noun) for request in requests]

    def fit(self, subject: Subject, backbone: Any, tools: Tools) -> Weights:
        """Nothing to learn."""
        return {}
