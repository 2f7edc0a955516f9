"""A checkpoint that any trainer left: nothing is trained, its weights draw.

    python -m benchmark checkpoints out/my-lora --subject dog --token sks

plans one of these for each checkpoint of a folder: `checkpoint[step=500]`.
"""

from __future__ import annotations

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
    Request,
    Role,
    Subject,
    Tools,
    UserError,
    Weights,
)
from benchmark.models.files.trained_files import TrainedFiles, planned_files

if TYPE_CHECKING:
    from torch import Tensor

Text = Annotated[str, Field(pattern=r"\S")]


@dataclass(frozen=True)
class Checkpoint:
    """LoRA, peft's adapters, whole weights or a learned word; what has no place is an error.

    Adapters are merged into the layers that they lie on, by the scale that their files say.
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
    phrase: Text | None = None  #: for the subject in prompts; as `TrainedFiles.spoken`

    @property
    def needs(self) -> frozenset[str]:
        """What its files need of a backbone; without any, what most do."""
        files = TrainedFiles(Path(), lora=Path()) if self.file is None else self._files
        more = {LORA_FILES: files.lora, WORDS: files.words}
        return frozenset({TEXT_TO_IMAGE, CHECKPOINT, *(need for need, of in more.items() if of)})

    @property
    def _files(self) -> TrainedFiles:
        if self.file is None or self.digest is None or self.identifier is None:
            raise UserError("file, digest and identifier have to be set: `checkpoints` does so")
        return planned_files(self.file, self.digest)

    def prior(self, subject: Subject) -> None:
        """None. Raises UserError if there is no file, or the phrase has not the learned word."""
        self.texts(subject, [])

    def texts(self, subject: Subject, requests: Sequence[Request]) -> list[str]:
        """What is drawn."""
        phrase = self._files.spoken(self.phrase, self.identifier or "", subject.class_noun)
        return [request.text(subject.class_noun, phrase) for request in requests]

    def words(self, subject: Subject) -> list[str]:
        """The identifier, if its vectors are in the files."""
        return [self.identifier or ""] if self._files.words else []

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise UserError if the files are of another model."""
        from methods.imports import check_fit

        check_fit(self._files, backbone)

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Put the files' weights on `backbone`. Raises UserError if they are not as planned."""
        from methods.imports import put_on

        files = self._files
        weights = put_on(files, backbone, self.words(subject))
        if files.digest() != self.digest:  # once they are read
            raise UserError(f"{files.path} has changed since this was planned: start again")
        return weights

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Backbone,
        tools: Tools,
    ) -> Tensor:
        """Images by these `weights`, which are put in place."""
        from methods.drawing import draw
        from methods.imports import put_back

        words = put_back(weights, backbone, self.words(subject))
        return draw(backbone, self.texts(subject, requests), requests, words=words)


CHECKPOINT_OF_A_TRAINER = Checkpoint()
