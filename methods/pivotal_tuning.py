"""Pivotal tuning: a word is learned on the model as it is, then LoRA on the model, with that word.

    python -m benchmark run --methods pivotal-tuning,dreambooth-lora,textual-inversion

After Roich et al. 2021 (Pivotal Tuning for Latent-based Editing of Real Images), as Ryu brought it
to diffusion models (https://github.com/cloneofsimo/lora): Textual Inversion finds the point from
which the weights have least to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from benchmark.api import WORDS, Backbone, Request, Subject, Tools, Weights, Word
from methods.adapters import DreamBoothLora


@dataclass(frozen=True)
class PivotalTuning(DreamBoothLora):
    """The word is the identifier, beside the class noun; it begins as the noun and then stays."""

    description: str = "one new word is learned, then LoRA with that word, with prior preservation"
    variant_of: str | None = "dreambooth-lora"
    rank: Annotated[int, Ge(1)] = 8
    word_steps: Annotated[int, Ge(1)] = 500
    word_learning_rate: Annotated[float, Gt(0)] = 5e-4

    @property
    def needs(self) -> frozenset[str]:
        """Words, beside what LoRA needs."""
        return super().needs | {WORDS}

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """LoRA's, and what the word begins as."""
        return [subject.class_noun, *super().texts(subject, requests)]

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """First the word, on the instance term alone; then LoRA on both. Raises UserError."""
        from methods.words import with_word

        word = self._pivot(subject, backbone, tools)
        tuned = self.tuned(subject, backbone, tools, words=[word], before=self.word_steps)
        return with_word(word, tuned)

    def _pivot(self, subject: Subject, backbone: Backbone, tools: Tools) -> Word:
        from methods.training import Loss, Optimisation, at_guidance, part
        from methods.words import learn_word

        word = backbone.new_word(self.word, init=subject.class_noun)
        stage = at_guidance(backbone.stages[0], self.training_guidance)
        instance = replace(self, prior_weight=0.0).terms(subject, stage, tools)
        return learn_word(
            word,
            Loss(stage, instance, encode=partial(backbone.encode, words=[word])),
            Optimisation(
                self.word_steps,
                self.word_learning_rate,
                self.weight_decay,
                passes=self.gradient_accumulation or 1,
            ),
            backbone,
            part(tools.progress, "word", 0, self.word_steps + self.steps),
            narrow=self.narrows,
        )

    def export(self, weights: Weights, backbone: Backbone, folder: Path) -> None:
        """As LoRA, and the word as diffusers' embedding of `<identifier>`."""
        from methods.exports import write_words
        from methods.words import without_word, word_of

        super().export(without_word(weights), backbone, folder)
        write_words([word_of(weights, self.word, backbone.device)], folder)


PIVOTAL_TUNING = PivotalTuning()
