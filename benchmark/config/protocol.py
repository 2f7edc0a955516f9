"""A metric protocol: what a score means, declared in one TOML file.

    load_protocol("paper").label                # "paper-1": stands in every score row
    load_protocol("my_protocol.toml")           # your own; start from benchmark/config/protocols/

Scores compare only under one protocol: encoders and their revisions, preprocessing, reference
images, caption, aggregation and scale.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from benchmark.api import PIXELS, REFERENCES, TEXTS, Subject, UserError
from benchmark.data.manifest import Table, Text, read_known, toml_names
from benchmark.store.names import composed

_PROTOCOLS = Path(__file__).parent / "protocols"
_NAME = r"^\w[\w.+-]*$"


class MetricChoice(Table):
    """One score of a protocol: which metric, through which encoder, and on which scale."""

    metric: str | None = None  #: the installed metric, or module:ATTRIBUTE; else the table's name
    encoder: str | None = None  #: by its name in the protocol; else the metric's own choice
    #: Its name in tables; else the metric's own.
    label: Text | None = Field(default=None, min_length=1)
    factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    minimum: float | None = Field(default=None, allow_inf_nan=False)

    def scaled(self, value: float) -> float:
        """From a raw score to the protocol's: factor * max(minimum, value), image by image."""
        return self.factor * (value if self.minimum is None else max(self.minimum, value))


class View(Table):
    """What an encoder sees in place of a whole image: the subject alone, where it was found.

    The subject's images have the user's own masks, if there are any; else the protocol's segmenter
    looks for the class noun, as it does in every other image.
    """

    background: Literal["black", "white"]  #: what everything but the subject becomes
    #: To the subject's box, padded to a square with the background: the subject in the middle.
    crop: bool = False
    references: bool = True  #: whether they are seen so, too; else they are seen whole
    #: A share of the image's width: a box of a smaller area than that length squared, or with a
    #: side below a quarter of it, was not found.
    smallest: float = Field(default=0.0, ge=0, lt=1)
    #: An image in which the subject is not found has the embedding 0, whose cosine to any other is
    #: 0, and is counted; or it has no score.
    not_found: Literal["zero", "unscored"]


class Protocol(Table):
    """Everything that a score's meaning hangs on besides the images."""

    name: Text = Field(pattern=_NAME)
    version: Text  #: rises when a number under this protocol changes
    description: str
    references: Literal["all", "one"]  #: each image against all of the subject's, or against one
    reference: dict[str, str] = {}  #: with "one": subject -> file name; if not named, its first
    #: The text that an image is compared with: the prompt with the class noun in the subject's
    #: place (`a dog in the snow`), or with the identifier too (`a sks dog in the snow`).
    caption: Literal["class-noun", "identifier-and-class-noun"]
    aggregation: Literal["subjects"]  #: the mean over a subject's images, then over subjects
    metrics: dict[Text, MetricChoice]  #: the scores that it defines, by name
    #: By names of your choice. Each has a `kind`, and may have a `view`, one of `views`; its other
    #: keys are for the kind to check.
    encoders: dict[str, dict[str, Any]]
    views: dict[str, View] = {}  #: by names of your choice
    segmenter: dict[str, Any] | None = None  #: for the views: a table as a suite's assets have it

    @field_validator("encoders")
    @classmethod
    def _encoders_have_plain_names(cls, encoders: dict[str, Any]) -> dict[str, Any]:
        # A metric's needs name encoders, and what it needs beside them.
        for name in encoders:
            if not re.fullmatch(_NAME, name) or name in (PIXELS, TEXTS, REFERENCES):
                raise ValueError(f"an encoder cannot be called '{name}': choose another name")
        return encoders

    @model_validator(mode="after")
    def _reference_is_meant(self) -> Self:
        if self.reference and self.references == "all":
            raise ValueError(
                "[reference] names single images, and references is 'all': set references = 'one', "
                "or leave [reference] out"
            )
        return self

    @model_validator(mode="after")
    def _views_are_known(self) -> Self:
        for name, table in self.encoders.items():
            view = table.get("view")
            if "view" in table and not (isinstance(view, str) and view in self.views):
                raise ValueError(
                    f"encoders.{name}.view is {view!r}; views are declared as "
                    f"[views.NAME], and there are: {', '.join(self.views) or 'none'}"
                )
        if self.views and self.segmenter is None:
            raise ValueError("views need a segmenter that finds the subject: declare [segmenter]")
        return self

    @property
    def label(self) -> str:
        """Name and version, e.g. `paper-1`."""
        return f"{self.name}-{self.version}"

    def scaled(self, metric: str, value: float) -> float:
        """`value` on this protocol's scale; metrics that it does not define stay as they are."""
        return self.metrics.get(metric, MetricChoice()).scaled(value)

    @property
    def names_identifier(self) -> bool:
        """Whether captions have the identifier."""
        return self.caption == "identifier-and-class-noun"

    def reference_indices(self, subject: Subject) -> list[int]:
        """Which of the subject's images count as references.

        Raises UserError if the one that is named for the subject is none of its images.
        """
        if self.references == "all":
            return list(range(len(subject.images)))
        if subject.name not in self.reference:
            return [0]
        names = [composed(path.name) for path in subject.images]
        chosen = composed(self.reference[subject.name])
        if chosen not in names:
            raise UserError(
                f"protocol '{self.label}' compares subject '{subject.name}' with '{chosen}' alone, "
                f"but its images are {', '.join(names)}: correct reference.{subject.name}"
            )
        return [names.index(chosen)]

    def phrase(self, class_noun: str, identifier: str | None) -> str:
        """What stands for the subject in a caption; the identifier only if `names_identifier`."""
        return f"{identifier} {class_noun}" if self.names_identifier else class_noun


class KeptProtocol(Table):
    """What is read of a run's protocol to report it; the whole of it was checked before."""

    model_config = ConfigDict(extra="ignore")

    metrics: dict[str, Any] = {}


def protocol_names() -> list[str]:
    """The protocols that come with the package, sorted."""
    return toml_names(_PROTOCOLS)


def load_protocol(name_or_path: str) -> Protocol:
    """One of our protocols by name, or the protocol in a TOML file. Raises UserError."""
    return read_known(name_or_path, _PROTOCOLS, Protocol)
