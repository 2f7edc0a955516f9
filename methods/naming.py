"""What a subject is called beside its identifier, in what is learned and in what is drawn.

DREAMBOOTH.phrase(subject)  # "sks dog"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from benchmark.api import Subject
from methods.shared_settings import Personalisation


@dataclass(frozen=True)
class Called(Personalisation):
    """Beside the identifier stands a noun: the subject's class, a wrong one, or none."""

    noun: Literal["correct", "wrong", "none"] = "correct"
    #: What a live subject, or an object, is called if the noun is wrong.
    wrong_noun_live: Annotated[str, Field(pattern=r"\S")] = "teapot"
    wrong_noun_object: Annotated[str, Field(pattern=r"\S")] = "dog"

    def class_noun(self, subject: Subject) -> str:
        """The noun the subject is called in training; empty if it is called none."""
        wrong = self.wrong_noun_live if subject.live else self.wrong_noun_object
        return {"correct": subject.class_noun, "wrong": wrong, "none": ""}[self.noun]

    def phrase(self, subject: Subject) -> str:
        """What stands for the subject in a prompt, e.g. `sks dog`."""
        return f"{self.word} {self.class_noun(subject)}".strip()

    def prompt(self, subject: Subject) -> str:
        """Under which the subject is learned, e.g. `a sks dog`."""
        return f"a {self.phrase(subject)}"

    def prior_prompt(self, subject: Subject) -> str:
        """Under which its class is preserved, e.g. `a dog`."""
        return f"a {self.class_noun(subject)}"
