"""DreamBooth (Ruiz et al. 2023): fine-tune the whole model on `a [V] class`, keep `a class` as is.

python -m benchmark run --methods dreambooth
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import PRIOR, Generate, Progress, Request, Subject, UserError
from benchmark.models.sampling import Sampler

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from benchmark.models.stable_diffusion import Backbone
    from methods.training import Encode, Term

NOUNS = ("correct", "wrong", "none")


@dataclass(frozen=True)
class DreamBooth:
    """Fine-tuning with the class-specific prior-preservation loss (paper, sections 3.2 and 3.3).

    The defaults are the paper's for Stable Diffusion where it gives them. `noun` is what stands
    beside the identifier (paper, section 4.4): the subject's class noun, a wrong one, or none.
    """

    version: ClassVar[str] = "1"
    prompted: ClassVar[bool] = True

    description: str = "fine-tuned on 'a [V] class', with prior preservation"
    identifier: str | None = None  #: None: the suite's
    steps: int = 1000
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0  #: gradients are clipped to it; 0 is no clipping
    batch_size: int = 1  #: instance images a step, and as many prior images
    train_text_encoder: bool = False
    prior_weight: float = 1.0  #: lambda of Eq. 2; at 0 no prior images are drawn
    prior_images: int = 1000
    prior_scheduler: str = "ddpm"  #: the plain ancestral sampler
    prior_steps: int = 250
    prior_guidance: float = 1.0  #: none; guided prior images teach a narrower class
    noun: str = "correct"  #: "correct", "wrong" or "none"
    wrong_noun_live: str = "teapot"  #: what a live subject is called if the noun is wrong
    wrong_noun_object: str = "dog"  #: what an object is called if the noun is wrong

    def __post_init__(self) -> None:
        if self.noun not in NOUNS:
            raise UserError(f"noun is '{self.noun}'; known: {', '.join(NOUNS)}")
        if self.noun == "none" and self.prior_weight:
            raise UserError(
                "noun is 'none', so there is no class to preserve: set prior_weight to 0, "
                f"not {self.prior_weight}"
            )
        self.prior_sampler()

    def prior_sampler(self) -> Sampler:
        """How prior images are drawn. Raises UserError for an unknown scheduler."""
        return Sampler(self.prior_scheduler, self.prior_steps, self.prior_guidance)

    def fit(
        self, subject: Subject, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Generate:
        """Fine-tune `backbone` on `subject`. Raises UserError if there is no identifier."""
        from methods.training import Optimisation, fixed_conditions, train

        terms = self.terms(subject, backbone, seed=seed)
        encode: Encode = backbone.encode_prompts
        trained: list[Module] = [backbone.unet, backbone.text_encoder]
        if not self.train_text_encoder:
            trained.remove(backbone.text_encoder)
            encode = fixed_conditions(backbone, [p for term in terms for p in term.prompts])
        for module in trained:
            module.train().requires_grad_(True)
        train(
            backbone,
            terms,
            [parameter for module in trained for parameter in module.parameters()],
            encode=encode,
            optimisation=Optimisation(
                self.steps, self.learning_rate, self.weight_decay, self.max_grad_norm
            ),
            progress=progress,
        )
        backbone.freeze()

        def generate(requests: Sequence[Request]) -> Tensor:
            texts = [self.text(request, subject) for request in requests]
            return backbone.sample(texts, [request.noise_seed for request in requests])

        return generate

    def terms(self, subject: Subject, backbone: Backbone, *, seed: int) -> list[Term]:
        """The instance term and, if `prior_weight` is not 0, the prior term of Eq. 2."""
        from methods.training import Term, instance_images, seeded

        phrase, noun = self.phrase(subject), self.class_noun(subject)
        instance = Term(
            *backbone.latent_moments(instance_images(subject, backbone.resolution)),
            prompts=[f"a {phrase}"],
            generator=seeded(seed, subject.name, "instance"),
            name="instance",
            batch_size=self.batch_size,
        )
        if not self.prior_weight:
            return [instance]
        sampler = self.prior_sampler()
        prior = Term(
            *backbone.prior_moments(noun, self.prior_images, sampler=sampler, seed=seed),
            prompts=[f"a {noun}"],
            generator=seeded(seed, subject.name, "prior"),
            name="prior",
            batch_size=self.batch_size,
            weight=self.prior_weight,
        )
        return [instance, prior]

    def class_noun(self, subject: Subject) -> str:
        """The noun the subject is called in training; empty if it is called none."""
        wrong = self.wrong_noun_live if subject.live else self.wrong_noun_object
        return {"correct": subject.class_noun, "wrong": wrong, "none": ""}[self.noun]

    def phrase(self, subject: Subject) -> str:
        """What stands for the subject in a prompt, e.g. `sks dog`."""
        if self.identifier is None:
            raise UserError("the setting 'identifier' is missing: a rare token, e.g. 'sks'")
        return f"{self.identifier} {self.class_noun(subject)}".strip()

    def text(self, request: Request, subject: Subject) -> str:
        """The prompt of a request; the prior prompt is "a [class noun]" for every method."""
        prior = request.prompt.kind == PRIOR
        return request.prompt.text(subject.class_noun if prior else self.phrase(subject))


DREAMBOOTH = DreamBooth()
