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
from pydantic import AfterValidator

from benchmark.api import WORDS, Backbone, Request, Subject, Tools, Weights, Word, checked_template
from methods.shared_settings import Personalisation, Trained

if TYPE_CHECKING:
    from torch import Tensor

#: `a photo of a {}`: without the word in it nothing would be learned from it.
Template = Annotated[str, AfterValidator(checked_template)]


@dataclass(frozen=True)
class Templates(Personalisation):
    """What the word is learned from: images under texts in which it stands alone."""

    batch_size: Annotated[int, Ge(1)] = 2
    templates: Annotated[list[Template], MinLen(1)] = field(
        default_factory=lambda: ["a {}", "a photo of a {}"]
    )

    @property
    def learned_texts(self) -> list[str]:
        """The templates with the word in them, e.g. `a photo of a sks`."""
        return [template.format(self.word) for template in self.templates]


@dataclass(frozen=True)
class TextualInversion(Trained, Templates):
    """One embedding vector is learned in the identifier's place, from the class noun's on.

    A model with several text encoders has a vector for each. The defaults are those of the authors'
    Stable Diffusion configuration, which the DreamBooth paper used. Prompts carry the identifier
    alone, as in Textual Inversion's own evaluation: `a [V] in the snow`.
    """

    version: ClassVar[str] = "1"
    variant_of: ClassVar[str | None] = None

    description: str = "one new word is learned, the model is frozen"
    steps: Annotated[int, Ge(1)] = 6100
    learning_rate: Annotated[float, Gt(0)] = 5e-3

    @property
    def needs(self) -> frozenset[str]:
        """Words, beside what every training needs."""
        return super().needs | {WORDS}

    def prior(self, subject: Subject) -> None:
        """None."""

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is learned from, on from which noun, and what is drawn."""
        return [*self.learned_texts, subject.class_noun, *self.drawn(subject, requests)]

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Learn the word's vectors; no weight of `backbone` moves. Raises UserError."""
        from methods.training import Loss, Term, at_guidance, seeded
        from methods.words import learn_word

        word = backbone.new_word(self.word, init=subject.class_noun)
        # The stage that reads the text for the whole of the image.
        stage = at_guidance(backbone.stages[0], self.training_guidance)
        term = Term(
            stage.prepare(tools.images(stage.resolution)),
            prompts=self.learned_texts,
            generator=seeded(tools.seed, subject.name, "instance"),
            name="instance",
            batch_size=self.batch_size,
        )
        loss = Loss(stage, [term], encode=partial(backbone.encode, words=[word]))
        return learn_word(word, loss, self.optimisation(), backbone, tools.progress).vectors

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
        return draw(backbone, self.drawn(subject, requests), requests, words=words)

    def export(self, weights: Weights, backbone: Backbone, folder: Path) -> None:
        """The vectors as diffusers' embeddings of `<identifier>`, a file a text encoder."""
        from methods.exports import write_words

        write_words([Word(self.word, dict(weights))], folder)


TEXTUAL_INVERSION = TextualInversion()
