"""DreamBooth (Ruiz et al. 2023): fine-tune the whole model on `a [V] class`, keep `a class` as is.

python -m benchmark run --methods dreambooth
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt

from benchmark.api import PriorImages, Request, Sampler, Stage, Subject, Tools, UserError
from methods.stage_by_stage import FineTuning, StageByStage

if TYPE_CHECKING:
    from torch import nn

    from methods.training import Learned, Term


@dataclass(frozen=True)
class PriorPreservation(FineTuning):
    """The prior term's weight, and what it is learned from (paper, section 3.3)."""

    prior_weight: Annotated[float, Ge(0)] = 1.0  #: lambda of Eq. 2; at 0 no prior images are drawn
    prior_images: Annotated[int, Ge(1)] = 1000
    prior_scheduler: str = "ddpm"  #: the plain ancestral sampler
    prior_steps: Annotated[int, Ge(1)] = 250
    prior_guidance: Annotated[float, Ge(0)] = 1.0  #: none; guidance teaches a narrower class


@dataclass(frozen=True)
class DreamBooth(StageByStage, PriorPreservation):
    """Fine-tuning with the class-specific prior-preservation loss (paper, sections 3.2 and 3.3).

    All weights of the denoiser learn and, with `train_text_encoder`, those of the text encoders:
    from `a [V] class` by the instance term, from `a class` by the prior term. What is drawn is
    `a [V] class ...`. `StageByStage` has `fit` and `generate`.

    The defaults are the paper's for Stable Diffusion where it gives them. `noun` is what stands
    beside the identifier (paper, section 4.4): the subject's class noun, a wrong one, or none.

    Of a cascade the first model is trained, and with `super_resolution_steps` those that make
    images larger, too: details of the subject that they do not know would be lost.
    """

    version: ClassVar[str] = "1"
    description: str = "fine-tuned on 'a [V] class', with prior preservation"
    variant_of: str | None = None  #: no setting
    steps: Annotated[int, Ge(1)] = 1000
    learning_rate: Annotated[float, Gt(0)] = 5e-6

    def __post_init__(self) -> None:
        if self.noun == "none" and self.prior_weight:
            raise UserError(
                "noun is 'none', so there is no class to preserve: set prior_weight to 0, "
                f"not {self.prior_weight}"
            )
        super().__post_init__()

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is learned from, `a [V] class` and `a class`, and what is drawn."""
        learned = [self.prompt(subject)]
        if self.prior_weight or self.super_resolution_prompt == "noun":
            learned.append(self.prior_prompt(subject))
        return [*learned, *self.drawn(subject, requests)]

    def prior(self, subject: Subject) -> PriorImages | None:
        """Images of "a [class noun]", unless `prior_weight` is 0."""
        if not self.prior_weight:
            return None
        sampler = Sampler(self.prior_scheduler, self.prior_steps, self.prior_guidance)
        return PriorImages(self.class_noun(subject), self.prior_images, sampler)

    def terms(
        self, subject: Subject, stage: Stage, tools: Tools, *, prompt: str | None = None
    ) -> list[Term]:
        """The instance term and, if `prior_weight` is not 0, the prior term of Eq. 2."""
        from methods.training import Term, seeded

        instance = Term(
            stage.prepare(tools.images(stage.resolution)),
            prompts=[prompt or self.prompt(subject)],
            generator=seeded(tools.seed, subject.name, "instance"),
            name="instance",
            batch_size=self.batch_size,
        )
        if not self.prior_weight:
            return [instance]
        prior = Term(
            tools.prior(stage),
            prompts=[self.prior_prompt(subject)],
            generator=seeded(tools.seed, subject.name, "prior"),
            name="prior",
            batch_size=self.batch_size,
            weight=self.prior_weight,
        )
        return [instance, prior]

    @contextmanager
    def attached(self, modules: Mapping[str, nn.Module], seed: int) -> Iterator[dict[str, Learned]]:
        """Within, what learns is part of the `modules`: here all of their weights."""
        from methods.training import Learned

        yield {
            name: Learned([*module.parameters()], dict(module.named_parameters()))
            for name, module in modules.items()
        }


DREAMBOOTH = DreamBooth()
