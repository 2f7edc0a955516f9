"""A checkpoint that any trainer left: nothing is trained, its weights draw.

    python -m benchmark checkpoints out/my-lora --subject dog --token sks

plans one of these for each checkpoint of a folder: `checkpoint[step=500]`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge
from pydantic import Field

from benchmark.api import (
    CHECKPOINT,
    LORA_FILES,
    TEXT_TO_IMAGE,
    WORDS,
    Backbone,
    Draws,
    PriorImages,
    Request,
    Role,
    Subject,
    Tools,
    UserError,
    Weights,
)
from benchmark.models.trained_files import TrainedFiles, trained_files

if TYPE_CHECKING:
    from torch import Tensor

Text = Annotated[str, Field(pattern=r"\S")]


@dataclass(frozen=True)
class Checkpoint:
    """LoRA, peft's adapters, whole weights or a learned word, as diffusers and peft read them.

    Adapters are merged into the layers that they lie on, by the scale that their files say. What
    has no place in the model is an error.
    """

    version: ClassVar[str] = "1"
    role: ClassVar[Role] = "method"
    variant_of: ClassVar[str | None] = None
    draws: ClassVar[Draws] = "prompts"

    description: str = "no training: draws by a checkpoint of any trainer (see `checkpoints`)"
    file: Text | None = None  #: or folder
    digest: Text | None = None  #: of its content, as `TrainedFiles.digest`
    step: Annotated[int, Ge(0)] | None = None  #: how far it was trained
    epoch: Annotated[int, Ge(0)] | None = None  #: the same, where the trainer counts epochs
    identifier: Text | None = None  #: what stood for the subject in training; None: the suite's
    #: What stands for the subject in prompts; None: the identifier and the class noun, and of a
    #: word that was learned alone, that word.
    phrase: Text | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What its files need of a backbone."""
        needs = {TEXT_TO_IMAGE, CHECKPOINT}
        if self.file is not None:
            needs |= {LORA_FILES} if self._files.lora else set()
            needs |= {WORDS} if self._files.words else set()
        return frozenset(needs)

    @property
    def _files(self) -> TrainedFiles:
        """Raises UserError if no file is set, or it is not known."""
        if self.file is None or self.digest is None:
            raise UserError("a checkpoint has a file and its digest: `checkpoints` sets them")
        return _read(self.file, self.digest)

    def prior(self, subject: Subject) -> PriorImages | None:
        """None. Raises UserError if there is no file, or the phrase has not the learned word."""
        self._phrase(subject)
        return None

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is drawn."""
        phrase = self._phrase(subject)
        return [request.text(subject.class_noun, phrase) for request in requests]

    def words(self, subject: Subject) -> list[str]:
        """The identifier, if its vectors are in the files."""
        return [self._word] if self._files.words else []

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise UserError if the files are of another model."""
        from methods.imports import check_fit

        check_fit(self._files, backbone)

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Put the files' weights on `backbone`. Raises UserError if they are not as planned."""
        from methods.imports import put_on, read_word
        from methods.words import with_word

        files = self._files
        if files.digest() != self.digest:
            raise UserError(f"{files.path} has changed since this was planned: start again")
        weights = put_on(files, backbone)
        if not files.words:
            return weights
        new = backbone.new_word(self._word, init=subject.class_noun)
        return with_word(read_word(files, new), weights)

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images by these `weights`, which are put in place."""
        from methods.drawing import draw, put_in_place
        from methods.imports import live
        from methods.words import without_word, word_of

        changed, there = without_word(weights), live(backbone)
        put_in_place(changed, {name: there[name] for name in changed.keys() & there.keys()})
        words = [word_of(weights, w, backbone.device) for w in self.words(subject)]
        return draw(backbone, self.texts(subject, requests), requests, words=words)

    def _phrase(self, subject: Subject) -> str:
        """With the identifier where the files' learned word stands. Raises UserError."""
        files, word = self._files, self._word
        alone = files.words and not (files.lora or files.adapters or files.parts)
        phrase = self.phrase or (word if alone else f"{word} {subject.class_noun}")
        for placeholder in files.placeholders:
            phrase = phrase.replace(placeholder, word)
        if files.words and word not in phrase.split():
            called = " or ".join([*files.placeholders, word])
            raise UserError(f"phrase '{self.phrase}' has not the learned word, {called}, in it")
        return phrase

    @property
    def _word(self) -> str:
        if self.identifier is None:
            raise UserError("the setting 'identifier' is missing: a rare token, e.g. 'sks'")
        return self.identifier


@functools.cache  # a trainer may remove what is done
def _read(file: str, digest: str) -> TrainedFiles:
    return trained_files(Path(file))


CHECKPOINT_OF_A_TRAINER = Checkpoint()
