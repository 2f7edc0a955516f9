"""A LatentDiffusion that says EDITING: images are inverted, and drawn again beside their edits.

inverted = backbone.invert(clean, "a dog", sampler=Sampler("ddim", 50, 3.0))
edit = Edit(inverted, ["a dog in the snow"], cross_replace=0.8, self_replace=0.4)
images = backbone.sample(backbone.encode(edit.texts), [0], start=edit)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.api import Edit, ImagePrompt, Sampler, Start
from benchmark.models.backbones.latent_diffusion import LatentDiffusion, denoiser_of
from benchmark.models.backbones.latent_stage import LatentCondition, Moments
from benchmark.models.diffusion.alignment import padded_places
from benchmark.models.diffusion.attention_control import Control, controlled
from benchmark.models.diffusion.drawing import in_batches
from benchmark.models.diffusion.inversion import AfterStep, Inverted, NullText, invert
from benchmark.models.finite import check_finite


@dataclass(eq=False)
class EditingDiffusion(LatentDiffusion):
    """As `benchmark.api.Backbone` says of EDITING."""

    @torch.no_grad()
    def invert(
        self, clean: Moments, text: str, *, sampler: Sampler, null_text_steps: int = 0
    ) -> Inverted:
        """As `benchmark.api.Backbone` says: the mean of its latents, in float32.

        Raises UserError for what cannot be inverted, and for noise that is not finite.
        """
        if len(clean) != 1:
            raise ValueError(f"one image is inverted, not {len(clean)}")
        [stage], condition = self.stages, self.encode([text])
        path = invert(clean.mean, stage.predictor(condition), sampler, self.scheduler)
        check_finite(f"the noise of an image under '{text}'", path[-1], "set precision to fp32")
        learned = None
        if null_text_steps and self.calls.guided(sampler):
            null_text = NullText(sampler, self.scheduler, null_text_steps)
            learned = null_text.learn(path, stage.predictor, condition, self.encode([""]))
        return Inverted(path[-1], text, condition, sampler, learned)

    @torch.no_grad()
    def sample(
        self,
        condition: LatentCondition,
        seeds: Sequence[int],
        *,
        unconditional: LatentCondition | None = None,
        sampler: Sampler | None = None,
        start: Start | Edit | None = None,
        image_prompt: ImagePrompt | None = None,
    ) -> Tensor:
        """As `LatentDiffusion`. An edit is drawn by its image's sampler; its seeds decide nothing.

        Raises ValueError for an edit with another sampler, or an image prompt.
        """
        if not isinstance(start, Edit):
            return super().sample(
                condition,
                seeds,
                unconditional=unconditional,
                sampler=sampler,
                start=start,
                image_prompt=image_prompt,
            )
        check_edit(start, len(condition), sampler, image_prompt)
        blank = self.encode([""]) if unconditional is None else unconditional

        def drawn(rows: slice) -> Tensor:
            edit = replace(start, texts=start.texts[rows])
            return self._decode(self._edited(condition[rows], blank, edit))

        return in_batches(len(condition), seeds, self.resolution, drawn)

    def _edited(
        self, condition: LatentCondition, unconditional: LatentCondition, edit: Edit
    ) -> Tensor:
        """Latents of the edits, whose inverted image is drawn beside them."""
        image = edit.inverted
        assert isinstance(image, Inverted)
        rows = image.condition.join(condition)
        given = self._given(rows, image.begin(unconditional), [0] * len(rows), image.sampler)
        length = self.readers[0].tokenizer.model_max_length
        ours, *theirs = self.readers[0].marked([image.text, *edit.texts])
        control = Control(
            [padded_places(ours, one, length) for one in theirs],
            round(edit.cross_replace * image.sampler.steps),
            round(edit.self_replace * image.sampler.steps),
        )
        given |= {
            "latents": image.noise[[0] * len(rows)],
            "callback_on_step_end": AfterStep(control, image.null_texts),
            "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
        }
        _, denoiser = denoiser_of(self.pipeline)
        with controlled(denoiser, control):
            return self._called(self.pipeline, given, image.sampler)[1:]


def check_edit(
    edit: Edit, texts: int, sampler: Sampler | None, image_prompt: ImagePrompt | None
) -> None:
    """Raise ValueError unless there is a text a row, and nothing beside the inverted image."""
    if len(edit.texts) != texts:
        raise ValueError(f"{texts} rows of texts, but {len(edit.texts)} texts to align")
    if sampler is not None:
        raise ValueError("an edit is drawn by the sampler that its image was inverted for")
    if image_prompt is not None:
        raise ValueError("an edit is drawn without an image prompt")
