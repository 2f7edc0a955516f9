"""Training one stage of a backbone: what of it learns, beside which text encoders and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmark.api import Backbone, Stage, Word
from benchmark.models.memory.aside import aside
from methods.training import (
    Encode,
    Learned,
    Loss,
    Optimisation,
    Progress,
    Term,
    fixed_conditions,
    learning,
    train,
)


@dataclass(frozen=True)
class StageTraining:
    """How one stage learns."""

    stage: Stage
    prompt: str  #: under which the subject is learned
    optimisation: Optimisation
    encoders: Sequence[str]  #: the text encoders that learn with it
    words: Sequence[Word]  #: that stand in prompts; those that want gradients learn with it
    narrow: bool  #: whether frozen weights lie in the precision that is computed with


def train_stage(
    training: StageTraining,
    terms: Sequence[Term],
    learned: Mapping[str, Learned],
    backbone: Backbone,
    progress: Progress,
) -> None:
    """Change what of `learned` is the stage's, or its encoders', so that the `terms` fall.

    `learned`: by "denoiser.<stage>" and "text_encoder.<name>".
    """
    stage = training.stage
    encode: Encode = partial(backbone.encode, words=training.words)
    vectors = [v for word in training.words for v in word.vectors.values() if v.requires_grad]
    if not training.encoders and not vectors:
        texts = [prompt for term in terms for prompt in term.prompts]
        encode = fixed_conditions(backbone, texts, words=training.words)
    trained = [stage.denoiser, *(backbone.text_encoders[name] for name in training.encoders)]
    names = [f"denoiser.{stage.name}", *(f"text_encoder.{name}" for name in training.encoders)]
    matrices = [parameter for name in names for parameter in learned[name].parameters]
    parameters: list[Any] = [*matrices, *vectors]
    used = [*trained, *backbone.text_encoders.values()] if vectors else trained
    with learning(trained, parameters), aside(backbone, used, narrow=training.narrow):
        loss = Loss(stage, terms, encode)
        train(loss, parameters, training.optimisation, backbone.precision, progress)
