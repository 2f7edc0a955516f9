"""A metric protocol: what a score means, declared in one TOML file.

    load_protocol("paper").label                # "paper-1": stands in every score row
    load_protocol("my_protocol.toml")           # one of your own; start from benchmark/config/protocols/

Scores compare only under one protocol: encoders and their revisions, preprocessing, reference
images, caption, aggregation and scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from benchmark.api import Subject, UserError
from benchmark.data.manifest import Table, read_toml

_PROTOCOLS = Path(__file__).parent / "protocols"
#: Which encoder each of our metrics looks through.
_ENCODER_OF = {
    "dino": "dino",
    "dino_nearest": "dino",
    "dinov2": "dinov2",
    "clip_i": "clip",
    "clip_t": "clip",
    "pres": "dino",
    "div": "lpips",
    "prior_div": "lpips",
}


class Scale(Table):
    """From a raw score to the protocol's: factor * max(minimum, score), image by image."""

    factor: float = Field(default=1.0, gt=0)
    minimum: float | None = None

    def __call__(self, score: float) -> float:
        return self.factor * (score if self.minimum is None else max(self.minimum, score))


class Protocol(Table):
    """Everything that a score's meaning hangs on besides the images."""

    name: str = Field(pattern=r"^[\w.+-]+$")
    version: str  #: rises when a number under this protocol changes
    description: str
    references: Literal["all", "one"]  #: each image against all of the subject's, or against one
    reference: dict[str, str] = {}  #: with "one": subject -> file name; else its first image
    #: What CLIP-T compares an image with: the prompt with the class noun in the subject's place
    #: (`a dog in the snow`), or with the identifier too (`a sks dog in the snow`).
    caption: Literal["class-noun", "as-given"]
    aggregation: Literal["subjects"]  #: the mean over a subject's images, then over subjects
    metrics: dict[str, Scale]  #: the metrics that it defines, by name
    encoders: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _every_metric_has_its_encoder(self) -> Protocol:
        for metric in self.metrics:
            encoder = _ENCODER_OF.get(metric)
            if encoder and encoder not in self.encoders:
                raise ValueError(f"metric '{metric}' needs a table encoders.{encoder}")
        return self

    @property
    def label(self) -> str:
        """Name and version, e.g. `paper-1`."""
        return f"{self.name}-{self.version}"

    def scaled(self, metric: str, score: float) -> float:
        """`score` on this protocol's scale; metrics that it does not define stay as they are."""
        return self.metrics.get(metric, Scale())(score)

    def reference_indices(self, subject: Subject) -> list[int]:
        """Which of the subject's images count as references."""
        if self.references == "all":
            return list(range(len(subject.images)))
        names = [path.name for path in subject.images]
        chosen = self.reference.get(subject.name)
        return [names.index(chosen) if chosen in names else 0]

    def phrase(self, class_noun: str, identifier: str) -> str:
        """What stands for the subject in the captions of CLIP-T."""
        return class_noun if self.caption == "class-noun" else f"{identifier} {class_noun}"


def protocol_names() -> list[str]:
    """The protocols that come with the package, sorted."""
    return sorted(file.stem for file in _PROTOCOLS.glob("*.toml"))


def load_protocol(name_or_path: str) -> Protocol:
    """One of our protocols by name, or the protocol in a TOML file. Raises UserError."""
    if name_or_path in protocol_names():
        return read_toml(_PROTOCOLS / f"{name_or_path}.toml", Protocol)
    path = Path(name_or_path).expanduser()
    if path.suffix != ".toml":
        raise UserError(
            f"unknown protocol '{name_or_path}'; known: {', '.join(protocol_names())}; "
            "or give a file of your own that ends in .toml"
        )
    return read_toml(path, Protocol)
