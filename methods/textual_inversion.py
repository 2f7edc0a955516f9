"""Textual Inversion (Gal et al. 2022): one new word, everything else stays as it is.

python -m benchmark run --methods textual-inversion
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import PRIOR, Generate, Progress, Request, Subject, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.models.stable_diffusion import Backbone


@dataclass(frozen=True)
class TextualInversion:
    """One embedding vector is learned in the identifier's place, from the class noun's on.

    The defaults are those of the authors' Stable Diffusion configuration, which the DreamBooth
    paper used. Prompts carry the identifier alone, as in Textual Inversion's own evaluation:
    `a [V] in the snow`.
    """

    version: ClassVar[str] = "1"
    prompted: ClassVar[bool] = True

    description: str = "one new word is learned, the model is frozen"
    identifier: str | None = None  #: None: the suite's; it has to be a single token
    steps: int = 6100
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    batch_size: int = 2
    templates: list[str] = field(default_factory=lambda: ["a {}", "a photo of a {}"])

    def fit(
        self, subject: Subject, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Generate:
        """Learn the vector of `subject`; no weight of `backbone` moves. Raises UserError."""
        from torch import nn

        from methods.training import Optimisation, Term, instance_images, seeded, train

        token = self.token(backbone)
        vector = nn.Parameter(backbone.token_embedding(subject.class_noun))
        learned: dict[int, Tensor] = {token: vector}
        term = Term(
            *backbone.latent_moments(instance_images(subject, backbone.resolution)),
            prompts=[template.format(self.identifier) for template in self.templates],
            generator=seeded(seed, subject.name, "instance"),
            name="instance",
            batch_size=self.batch_size,
        )
        train(
            backbone,
            [term],
            [vector],
            encode=lambda texts: backbone.encode_prompts(texts, replace=learned),
            optimisation=Optimisation(self.steps, self.learning_rate, self.weight_decay),
            progress=progress,
        )

        def generate(requests: Sequence[Request]) -> Tensor:
            texts = [self.text(request, subject) for request in requests]
            seeds = [request.noise_seed for request in requests]
            return backbone.sample(texts, seeds, replace=learned)

        return generate

    def token(self, backbone: Backbone) -> int:
        """The id of the identifier's one token. Raises UserError if there is not exactly one."""
        if self.identifier is None:
            raise UserError("the setting 'identifier' is missing: a rare token, e.g. 'sks'")
        ids = backbone.token_ids(self.identifier)
        if len(ids) != 1:
            raise UserError(
                f"identifier '{self.identifier}' is {len(ids)} tokens of '{backbone.id}', but one "
                "vector is learned: choose a word that is a single token"
            )
        return ids[0]

    def text(self, request: Request, subject: Subject) -> str:
        """The prompt of a request; the prior prompt is "a [class noun]" for every method."""
        if request.prompt.kind == PRIOR:
            return request.prompt.text(subject.class_noun)
        return request.prompt.text(str(self.identifier))


TEXTUAL_INVERSION = TextualInversion()
