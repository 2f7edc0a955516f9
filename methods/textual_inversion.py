"""Textual Inversion (Gal et al. 2022): one new word, everything else stays as it is.

python -m benchmark run --methods textual-inversion
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, MinLen
from pydantic import AfterValidator, Field

from benchmark.api import (
    EMBEDDED_GUIDANCE,
    TEXT_TO_IMAGE,
    TRAINING,
    WORDS,
    Backbone,
    Draws,
    PriorImages,
    Request,
    Role,
    Subject,
    Tools,
    UserError,
    Weights,
    Word,
    checked_template,
)
from methods.optimisers import Optimiser, check_optimiser

if TYPE_CHECKING:
    from torch import Tensor


#: `a photo of a {}`: without the word in it nothing would be learned from it.
Template = Annotated[str, AfterValidator(checked_template)]


@dataclass(frozen=True)
class TextualInversion:
    """One embedding vector is learned in the identifier's place, from the class noun's on.

    A model with several text encoders has a vector for each. The defaults are those of the authors'
    Stable Diffusion configuration, which the DreamBooth paper used. Prompts carry the identifier
    alone, as in Textual Inversion's own evaluation: `a [V] in the snow`.
    """

    version: ClassVar[str] = "1"
    role: ClassVar[Role] = "method"
    variant_of: ClassVar[str | None] = None
    draws: ClassVar[Draws] = "prompts"

    description: str = "one new word is learned, the model is frozen"
    identifier: Annotated[str, Field(pattern=r"\S")] | None = None  #: a token; None: the suite's
    steps: Annotated[int, Ge(1)] = 6100
    learning_rate: Annotated[float, Gt(0)] = 5e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-2
    batch_size: Annotated[int, Ge(1)] = 2
    templates: Annotated[list[Template], MinLen(1)] = field(
        default_factory=lambda: ["a {}", "a photo of a {}"]
    )
    #: What a model that is told its guidance is told while it learns; None: what it usually is.
    training_guidance: Annotated[float, Ge(0)] | None = None
    #: Into how many passes the rows of a step are split; None: it is one.
    gradient_accumulation: Annotated[int, Ge(1)] | None = None
    optimiser: Optimiser | None = None  #: None: AdamW with float32 moments

    @property
    def needs(self) -> frozenset[str]:
        """A model that a guidance is told to, if one is set."""
        needs = frozenset({TEXT_TO_IMAGE, TRAINING, WORDS})
        return needs if self.training_guidance is None else needs | {EMBEDDED_GUIDANCE}

    def prior(self, subject: Subject) -> PriorImages | None:
        """None."""
        return None

    def check_device(self, device: str) -> None:
        """Raise UserError if the optimiser does not run there."""
        check_optimiser(self.optimiser, device)

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is learned from, on from which noun, and what is drawn."""
        return [*self._learned(), subject.class_noun, *self._drawn(subject, requests)]

    def words(self, subject: Subject) -> list[str]:
        """The one that is learned."""
        return [self.word]

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Learn the word's vectors; no weight of `backbone` moves. Raises UserError."""
        from methods.training import Loss, Optimisation, Term, at_guidance, seeded
        from methods.words import learn_word

        word = backbone.new_word(self.word, init=subject.class_noun)
        # The stage that reads the text for the whole of the image.
        stage = at_guidance(backbone.stages[0], self.training_guidance)
        term = Term(
            stage.prepare(tools.images(stage.resolution)),
            prompts=self._learned(),
            generator=seeded(tools.seed, subject.name, "instance"),
            name="instance",
            batch_size=self.batch_size,
        )
        learned = learn_word(
            word,
            Loss(stage, [term], encode=partial(backbone.encode, words=[word])),
            Optimisation(
                self.steps,
                self.learning_rate,
                self.weight_decay,
                passes=self.gradient_accumulation or 1,
                optimiser=self.optimiser,
            ),
            backbone,
            tools.progress,
        )
        return learned.vectors

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images of the word whose vectors `weights` are, by text encoder."""
        from methods.drawing import draw

        vectors = {name: vector.to(backbone.device) for name, vector in weights.items()}
        words = [Word(self.word, vectors)]
        return draw(backbone, self._drawn(subject, requests), requests, words=words)

    def export(self, weights: Weights, backbone: Backbone, folder: Path) -> None:
        """The vectors as diffusers' embeddings of `<identifier>`, a file a text encoder."""
        from methods.exports import write_words

        write_words([Word(self.word, dict(weights))], folder)

    def _learned(self) -> list[str]:
        return [template.format(self.word) for template in self.templates]

    def _drawn(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        return [request.text(subject.class_noun, self.word) for request in requests]

    @property
    def word(self) -> str:
        """The identifier. Raises UserError if there is none."""
        if self.identifier is None:
            raise UserError("the setting 'identifier' is missing: a rare token, e.g. 'sks'")
        return self.identifier


TEXTUAL_INVERSION = TextualInversion()
