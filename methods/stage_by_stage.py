"""Training the stages of a backbone one after another: of a cascade the first, or all.

What of a stage learns, and by which terms of a loss, is a method's to say: `methods.dreambooth`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from benchmark.api import (
    SUPER_RESOLUTION,
    Backbone,
    Request,
    Stage,
    Subject,
    Tools,
    UserError,
    Weights,
    Word,
)
from methods.naming import Called
from methods.shared_settings import Personalisation, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.stage_training import StageTraining
    from methods.training import Learned, Progress, Term

#: The settings of what is trained after the first stage of a cascade begin with this.
_LATER = "super_resolution_"


@dataclass(frozen=True)
class FineTuning(Personalisation):
    """What learns of a model, and from how many images at once."""

    max_grad_norm: Annotated[float, Ge(0)] = 1.0  #: gradients are clipped to it; 0 is no clipping
    batch_size: Annotated[int, Ge(1)] = 1  #: instance images a step, and as many prior images
    train_text_encoder: bool = False


@dataclass(frozen=True)
class StageByStage(Trained, Called, FineTuning, ABC):
    """The first stage learns, and with `super_resolution_steps` those that make images larger, too.

    Text encoders and words learn with the first stage, which makes the image from the text.
    """

    #: Of each stage of a cascade after the first; None: it is left as it is.
    super_resolution_steps: Annotated[int, Ge(1)] | None = None
    super_resolution_learning_rate: Annotated[float, Gt(0)] | None = None  #: None: as the first
    #: How much noise lies on the small images, 0 least, 1 nothing else; None: as they are drawn.
    super_resolution_noise: Annotated[float, Ge(0), Le(1)] | None = None
    #: What they are called there: "identifier" as in the first stage, "noun" the class noun alone.
    super_resolution_prompt: Literal["identifier", "noun"] | None = None

    @abstractmethod
    def attached(
        self, modules: Mapping[str, nn.Module], seed: int
    ) -> AbstractContextManager[dict[str, Learned]]:
        """Within, something of these `modules`, or on them, is what learns."""

    @abstractmethod
    def terms(
        self, subject: Subject, stage: Stage, tools: Tools, *, prompt: str | None = None
    ) -> list[Term]:
        """The loss. `prompt`: what the subject is learned under, if not `self.prompt(subject)`."""

    @property
    def narrows(self) -> bool:
        """Whether a denoiser's frozen weights lie in the precision that is computed with."""
        return False

    @property
    def needs(self) -> frozenset[str]:
        """A cascade, if its later stages are to be trained."""
        return super().needs | ({SUPER_RESOLUTION} if self.super_resolution_steps else set())

    def __post_init__(self) -> None:
        idle = [name for name, value in vars(self).items() if _LATER in name and value is not None]
        if idle and self.super_resolution_steps is None:
            raise UserError(f"{idle[0]} is set, and nothing learns by it: set {_LATER}steps too")
        if self.noun == "none" and self.super_resolution_prompt == "noun":
            raise UserError(
                "noun is 'none', so there is none for super_resolution_prompt = 'noun': choose "
                "'identifier'"
            )

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Train `backbone` on `subject`, stage by stage. Raises UserError without identifier."""
        return self.tuned(subject, backbone, tools)

    def tuned(
        self,
        subject: Subject,
        backbone: Backbone,
        tools: Tools,
        *,
        words: Sequence[Word] = (),
        before: int = 0,
    ) -> Weights:
        """What is learned while `words` stand in prompts, after so many steps.

        Words that want gradients learn with the first stage.
        """
        from methods.stage_training import train_stage
        from methods.training import learned_weights, part

        trainings = self._trainings(subject, backbone, words)
        done, steps = before, before + sum(one.optimisation.steps for one in trainings)
        with self.attached(self.trained_modules(backbone), tools.seed) as learned:
            for training in trainings:
                progress: Progress = tools.progress
                if len(trainings) > 1 or before:
                    progress = part(progress, training.stage.name, done, steps)
                terms = self.terms(subject, training.stage, tools, prompt=training.prompt)
                train_stage(training, terms, learned, backbone, progress)
                done += training.optimisation.steps
            return learned_weights(learned)

    def _trainings(
        self, subject: Subject, backbone: Backbone, words: Sequence[Word]
    ) -> list[StageTraining]:
        from methods.stage_training import StageTraining
        from methods.training import at_guidance

        stages = self._trained_stages(backbone)
        first, *later = [at_guidance(stage, self.training_guidance) for stage in stages]
        encoders = [*backbone.text_encoders] if self.train_text_encoder else []
        optimisation = replace(self.optimisation(), max_grad_norm=self.max_grad_norm)
        prompt = self.prompt(subject)
        trainings = [StageTraining(first, prompt, optimisation, encoders, words, self.narrows)]
        if self.super_resolution_prompt == "noun":
            prompt = self.prior_prompt(subject)
        for stage in later:
            assert self.super_resolution_steps is not None
            if self.super_resolution_noise is not None:
                stage = stage.with_noise(self.super_resolution_noise)
            rate = self.super_resolution_learning_rate or self.learning_rate
            own = replace(optimisation, steps=self.super_resolution_steps, learning_rate=rate)
            trainings.append(StageTraining(stage, prompt, own, [], words, self.narrows))
        return trainings

    def trained_modules(self, backbone: Backbone) -> dict[str, nn.Module]:
        """What is trained, by name: "denoiser.unet", "text_encoder.text_encoder_2"."""
        modules = {f"denoiser.{s.name}": s.denoiser for s in self._trained_stages(backbone)}
        if self.train_text_encoder:
            encoders = backbone.text_encoders.items()
            modules |= {f"text_encoder.{name}": encoder for name, encoder in encoders}
        return modules

    def _trained_stages(self, backbone: Backbone) -> Sequence[Any]:
        return backbone.stages if self.super_resolution_steps else backbone.stages[:1]

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images of the subject by a model of these `weights`, which are put in place.

        Where the identifier is a word that was learned, its vectors are among them.
        """
        from methods.drawing import draw, put_in_place
        from methods.training import learned_weights
        from methods.words import without_word, word_of

        with self.attached(self.trained_modules(backbone), tools.seed) as learned:
            put_in_place(without_word(weights), learned_weights(learned))
            words = [word_of(weights, word, backbone.device) for word in self.words(subject)]
            texts = self.drawn(subject, requests)
            return draw(backbone, texts, requests, words=words, narrow=self.narrows)
