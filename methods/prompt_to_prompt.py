"""Prompt-to-Prompt (Hertz et al., 2208.01626): a real image of the subject, edited by the prompt.

python -m benchmark run --methods prompt-to-prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from benchmark.api import (
    EDITING,
    PRIOR,
    PRIOR_PROMPT,
    TEXT_TO_IMAGE,
    Backbone,
    Edit,
    Request,
    Sampler,
    Subject,
    Tools,
    Weights,
)
from methods.one_image import OneImage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PromptToPrompt(OneImage):
    """One of the subject's images is inverted under `a class`, and drawn again under the prompt.

    It is reconstructed beside its edits. In the first steps these have the reconstruction's
    cross-attention to the words that they share with it, and in fewer its self-attention. Nothing
    is left to chance, so all images of a prompt are the same one.

    Null texts (Mokady et al., 2211.09794) make the reconstruction hold under guidance.
    """

    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE, EDITING})

    description: str = "zero-shot: one of the subject's images edited by the prompt, one a prompt"
    steps: Annotated[int, Ge(2)] = 50  #: of DDIM, to the noise and back
    cross_replace: Annotated[float, Ge(0), Le(1)] = 0.8  #: for this share of the steps
    self_replace: Annotated[float, Ge(0), Le(1)] = 0.4
    null_text_steps: Annotated[int, Ge(0)] = 0  #: for each step; their authors take 10

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What the image is inverted under, and what is drawn for each request."""
        prompts = [PRIOR_PROMPT, *(request.prompt for request in requests)]
        return [prompt.text(subject.class_noun) for prompt in prompts]

    def inversion(self, sampler: Sampler) -> Sampler:
        """The sampler for which the image is inverted, where the suite's is `sampler`."""
        return replace(sampler, scheduler="ddim", steps=self.steps)

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """The edits, each drawn once; what the prior prompt asks for is left to the model."""
        import torch

        from methods.drawing import draw

        source, *texts = self.texts(subject, requests)
        prior = [n for n, request in enumerate(requests) if request.prompt.kind == PRIOR]
        untuned = draw(backbone, [texts[n] for n in prior], [requests[n] for n in prior])
        drawn = dict(zip(prior, untuned, strict=True))
        first = {texts[n]: requests[n] for n in range(len(requests)) if n not in drawn}
        if first:
            edit = self.edit(source, list(first), backbone, tools)
            edits = draw(backbone, list(first), list(first.values()), beside={"start": edit})
            of_text = dict(zip(first, edits, strict=True))
            drawn |= {n: of_text[texts[n]] for n in range(len(requests)) if n not in drawn}
        copies = sum(requests[n].index > 0 for n in range(len(requests)) if n not in prior)
        tools.count("copies, as an edit is drawn once a prompt", copies)
        return torch.stack([drawn[n] for n in range(len(requests))])

    def edit(self, source: str, texts: list[str], backbone: Any, tools: Tools) -> Edit:
        """The image inverted under `source`, to be drawn again under `texts`."""
        stage = backbone.stages[0]
        image = stage.prepare(tools.images(stage.resolution)[self.image - 1 : self.image])
        sampler = self.inversion(backbone.sampler)
        inverted = backbone.invert(
            image, source, sampler=sampler, null_text_steps=self.null_text_steps
        )
        return Edit(inverted, texts, self.cross_replace, self.self_replace)


PROMPT_TO_PROMPT = PromptToPrompt()
