"""DreamBooth (Ruiz et al. 2023): fine-tune the whole model on `a [V] class`, keep `a class` as is.

python -m benchmark run --methods dreambooth
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field

from benchmark.api import (
    EMBEDDED_GUIDANCE,
    SUPER_RESOLUTION,
    TEXT_TO_IMAGE,
    TRAINING,
    WORDS,
    Backbone,
    Draws,
    PriorImages,
    Request,
    Role,
    Sampler,
    Stage,
    Subject,
    Tools,
    UserError,
    Weights,
    Word,
)
from methods.optimisers import Optimiser, check_optimiser

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.stage_training import StageTraining
    from methods.training import Learned, Optimisation, Progress, Term

#: The settings of what is trained after the first stage of a cascade begin with this.
_LATER = "super_resolution_"


@dataclass(frozen=True)
class DreamBooth:
    """Fine-tuning with the class-specific prior-preservation loss (paper, sections 3.2 and 3.3).

    The defaults are the paper's for Stable Diffusion where it gives them. `noun` is what stands
    beside the identifier (paper, section 4.4): the subject's class noun, a wrong one, or none.

    Of a cascade the first model is trained, and with `super_resolution_steps` those that make
    images larger, too: details of the subject that they do not know would be lost.
    """

    version: ClassVar[str] = "1"
    role: ClassVar[Role] = "method"
    draws: ClassVar[Draws] = "prompts"
    description: str = "fine-tuned on 'a [V] class', with prior preservation"
    variant_of: str | None = None  #: no setting
    identifier: Annotated[str, Field(pattern=r"\S")] | None = None  #: None: the suite's
    steps: Annotated[int, Ge(1)] = 1000
    learning_rate: Annotated[float, Gt(0)] = 5e-6
    weight_decay: Annotated[float, Ge(0)] = 1e-2
    max_grad_norm: Annotated[float, Ge(0)] = 1.0  #: gradients are clipped to it; 0 is no clipping
    batch_size: Annotated[int, Ge(1)] = 1  #: instance images a step, and as many prior images
    train_text_encoder: bool = False
    prior_weight: Annotated[float, Ge(0)] = 1.0  #: lambda of Eq. 2; at 0 no prior images are drawn
    prior_images: Annotated[int, Ge(1)] = 1000
    prior_scheduler: str = "ddpm"  #: the plain ancestral sampler
    prior_steps: Annotated[int, Ge(1)] = 250
    prior_guidance: Annotated[float, Ge(0)] = 1.0  #: none; guidance teaches a narrower class
    noun: Literal["correct", "wrong", "none"] = "correct"
    #: What a live subject, or an object, is called if the noun is wrong.
    wrong_noun_live: Annotated[str, Field(pattern=r"\S")] = "teapot"
    wrong_noun_object: Annotated[str, Field(pattern=r"\S")] = "dog"
    #: What a model that is told its guidance is told while it learns; None: what it usually is.
    training_guidance: Annotated[float, Ge(0)] | None = None
    #: Into how many passes the rows of a step are split; None: it is one.
    gradient_accumulation: Annotated[int, Ge(1)] | None = None
    optimiser: Optimiser | None = None  #: None: AdamW with float32 moments
    #: Of each stage of a cascade after the first; None: it is left as it is.
    super_resolution_steps: Annotated[int, Ge(1)] | None = None
    super_resolution_learning_rate: Annotated[float, Gt(0)] | None = None  #: None: as the first
    #: How much noise lies on the small images, 0 least, 1 nothing else; None: as they are drawn.
    super_resolution_noise: Annotated[float, Ge(0), Le(1)] | None = None
    #: What they are called there: "identifier" as in the first stage, "noun" the class noun alone.
    super_resolution_prompt: Literal["identifier", "noun"] | None = None

    @property
    def needs(self) -> frozenset[str]:
        """A cascade, if its later stages are to be trained; a model that a guidance is told to."""
        needs = {TEXT_TO_IMAGE, TRAINING}
        if self.super_resolution_steps:
            needs.add(SUPER_RESOLUTION)
        if self.training_guidance is not None:
            needs.add(EMBEDDED_GUIDANCE)
        return frozenset(needs)

    def __post_init__(self) -> None:
        if self.noun == "none" and self.prior_weight:
            raise UserError(
                "noun is 'none', so there is no class to preserve: set prior_weight to 0, "
                f"not {self.prior_weight}"
            )
        idle = [name for name, value in vars(self).items() if _LATER in name and value is not None]
        if idle and self.super_resolution_steps is None:
            raise UserError(f"{idle[0]} is set, and nothing learns by it: set {_LATER}steps too")
        if self.noun == "none" and self.super_resolution_prompt == "noun":
            raise UserError(
                "noun is 'none', so there is none for super_resolution_prompt = 'noun': choose "
                "'identifier'"
            )

    def prior(self, subject: Subject) -> PriorImages | None:
        """Images of "a [class noun]", unless `prior_weight` is 0."""
        if not self.prior_weight:
            return None
        sampler = Sampler(self.prior_scheduler, self.prior_steps, self.prior_guidance)
        return PriorImages(self.class_noun(subject), self.prior_images, sampler)

    def check_device(self, device: str) -> None:
        """Raise UserError if the optimiser does not run there."""
        check_optimiser(self.optimiser, device)

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is learned from, and what is drawn."""
        learned = [self._prompt(subject)]
        if self.prior_weight or self.super_resolution_prompt == "noun":
            learned.append(self._prior_prompt(subject))
        return [*learned, *self._drawn(subject, requests)]

    def words(self, subject: Subject) -> list[str]:
        """The identifier, of a variant that learns it."""
        return [self.word] if WORDS in self.needs else []

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Fine-tune `backbone` on `subject`, stage by stage. Raises UserError without identifier.

        Text encoders learn with the first stage, which makes the image from the text.
        """
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

    def trained_modules(self, backbone: Backbone) -> dict[str, nn.Module]:
        """What is trained, by name: "denoiser.unet", "text_encoder.text_encoder_2"."""
        modules = {f"denoiser.{s.name}": s.denoiser for s in self._trained_stages(backbone)}
        if self.train_text_encoder:
            encoders = backbone.text_encoders.items()
            modules |= {f"text_encoder.{name}": encoder for name, encoder in encoders}
        return modules

    @contextmanager
    def attached(self, modules: Mapping[str, nn.Module], seed: int) -> Iterator[dict[str, Learned]]:
        """Within, what learns is part of the `modules`: here all of their weights."""
        from methods.training import Learned

        yield {
            name: Learned([*module.parameters()], dict(module.named_parameters()))
            for name, module in modules.items()
        }

    @property
    def narrows(self) -> bool:
        """Whether a denoiser's frozen weights lie in the precision that is computed with."""
        return False

    def _trainings(
        self, subject: Subject, backbone: Backbone, words: Sequence[Word]
    ) -> list[StageTraining]:
        from methods.stage_training import StageTraining
        from methods.training import at_guidance

        stages = self._trained_stages(backbone)
        first, *later = [at_guidance(stage, self.training_guidance) for stage in stages]
        encoders = [*backbone.text_encoders] if self.train_text_encoder else []
        optimisation, prompt = self._optimisation(), self._prompt(subject)
        trainings = [StageTraining(first, prompt, optimisation, encoders, words, self.narrows)]
        if self.super_resolution_prompt == "noun":
            prompt = self._prior_prompt(subject)
        for stage in later:
            assert self.super_resolution_steps is not None
            if self.super_resolution_noise is not None:
                stage = stage.with_noise(self.super_resolution_noise)
            rate = self.super_resolution_learning_rate or self.learning_rate
            own = replace(optimisation, steps=self.super_resolution_steps, learning_rate=rate)
            trainings.append(StageTraining(stage, prompt, own, [], words, self.narrows))
        return trainings

    def _optimisation(self) -> Optimisation:
        from methods.training import Optimisation

        return Optimisation(
            self.steps,
            self.learning_rate,
            self.weight_decay,
            self.max_grad_norm,
            self.gradient_accumulation or 1,
            self.optimiser,
        )

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
            texts = self._drawn(subject, requests)
            return draw(backbone, texts, requests, words=words, narrow=self.narrows)

    def terms(
        self, subject: Subject, stage: Stage, tools: Tools, *, prompt: str | None = None
    ) -> list[Term]:
        """The instance term and, if `prior_weight` is not 0, the prior term of Eq. 2.

        `prompt`: what the subject is learned under, if not the instance prompt.
        """
        from methods.training import Term, seeded

        instance = self.instance_term(subject, stage, tools, prompt=prompt)
        if not self.prior_weight:
            return [instance]
        prior = Term(
            tools.prior(stage),
            prompts=[self._prior_prompt(subject)],
            generator=seeded(tools.seed, subject.name, "prior"),
            name="prior",
            batch_size=self.batch_size,
            weight=self.prior_weight,
        )
        return [instance, prior]

    def instance_term(
        self, subject: Subject, stage: Stage, tools: Tools, *, prompt: str | None = None
    ) -> Term:
        """The subject's images, under the instance prompt if under no other."""
        from methods.training import Term, seeded

        return Term(
            stage.prepare(tools.images(stage.resolution)),
            prompts=[prompt or self._prompt(subject)],
            generator=seeded(tools.seed, subject.name, "instance"),
            name="instance",
            batch_size=self.batch_size,
        )

    def class_noun(self, subject: Subject) -> str:
        """The noun the subject is called in training; empty if it is called none."""
        wrong = self.wrong_noun_live if subject.live else self.wrong_noun_object
        return {"correct": subject.class_noun, "wrong": wrong, "none": ""}[self.noun]

    def phrase(self, subject: Subject) -> str:
        """What stands for the subject in a prompt, e.g. `sks dog`."""
        return f"{self.word} {self.class_noun(subject)}".strip()

    @property
    def word(self) -> str:
        """The identifier. Raises UserError if there is none."""
        if self.identifier is None:
            raise UserError("the setting 'identifier' is missing: a rare token, e.g. 'sks'")
        return self.identifier

    def _prompt(self, subject: Subject) -> str:
        return f"a {self.phrase(subject)}"

    def _prior_prompt(self, subject: Subject) -> str:
        return f"a {self.class_noun(subject)}"

    def _drawn(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        phrase = self.phrase(subject)
        return [request.text(subject.class_noun, phrase) for request in requests]


DREAMBOOTH = DreamBooth()
