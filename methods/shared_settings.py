"""The settings that all methods share which train, and what follows from them.

    @dataclass(frozen=True)
    class Own(Personalisation): ...

    @dataclass(frozen=True)
    class Mine(Trained, Own): ...

has first the settings of `Personalisation`, then its own, then those of `Trained`: reports show
them in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt
from pydantic import Field

from benchmark.api import (
    EMBEDDED_GUIDANCE,
    TEXT_TO_IMAGE,
    TRAINING,
    WORDS,
    Draws,
    Request,
    Role,
    Subject,
    UserError,
)
from methods.optimisers import Optimiser, check_optimiser

if TYPE_CHECKING:
    from methods.training import Optimisation


@dataclass(frozen=True, kw_only=True)
class Personalisation:
    """What the subject is called, and for how long that is learned."""

    identifier: Annotated[str, Field(pattern=r"\S")] | None = None  #: a token; None: the suite's
    steps: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)] = 1e-2

    @property
    def word(self) -> str:
        """The identifier. Raises UserError if there is none."""
        if self.identifier is None:
            raise UserError("the setting 'identifier' is missing: a rare token, e.g. 'sks'")
        return self.identifier

    def phrase(self, subject: Subject) -> str:
        """What stands for the subject in a prompt: the identifier alone."""
        return self.word

    def drawn(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """The text that is drawn for each request, e.g. `a sks in the snow`."""
        phrase = self.phrase(subject)
        return [request.text(subject.class_noun, phrase) for request in requests]


@dataclass(frozen=True)
class Trained(Personalisation):
    """What a model, or a machine, may want of a training."""

    role: ClassVar[Role] = "method"
    draws: ClassVar[Draws] = "prompts"

    #: What a model that is told its guidance is told while it learns; None: what it usually is.
    training_guidance: Annotated[float, Ge(0)] | None = None
    #: Into how many passes the rows of a step are split; None: it is one.
    gradient_accumulation: Annotated[int, Ge(1)] | None = None
    optimiser: Optimiser | None = None  #: None: AdamW with float32 moments

    @property
    def needs(self) -> frozenset[str]:
        """A model that can be trained; one that a guidance is told to, if one is set."""
        needs = frozenset({TEXT_TO_IMAGE, TRAINING})
        return needs if self.training_guidance is None else needs | {EMBEDDED_GUIDANCE}

    def check_device(self, device: str) -> None:
        """Raise UserError if the optimiser does not run there."""
        check_optimiser(self.optimiser, device)

    def words(self, subject: Subject) -> list[str]:
        """The identifier, of a method that learns it."""
        return [self.word] if WORDS in self.needs else []

    def optimisation(self) -> Optimisation:
        """Without clipping of gradients."""
        from methods.training import Optimisation

        return Optimisation(
            self.steps,
            self.learning_rate,
            self.weight_decay,
            passes=self.gradient_accumulation or 1,
            optimiser=self.optimiser,
        )
