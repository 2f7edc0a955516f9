"""What a plugin author sees: the protocols and the records that they exchange. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.models.stable_diffusion import Backbone

#: Prompt kinds of DreamBench (paper, section 4.1), and the two that are no evaluation prompts:
#: `prior` is the prior prompt "a [class noun]" (paper, section 4.3), `real` marks a real image.
PROMPT_KINDS = ("recontextualization", "accessory", "property")
PRIOR, REAL = "prior", "real"

#: The setting that every method has unasked: it is trained on the subject's first so many images
#: (paper, Table 5), and scored against all of them. It is in a job's settings only if it is given.
SUBJECT_IMAGES = "subject_images"


class UserError(Exception):
    """Bad input. The command line prints it in one line and exits with code 2."""


@dataclass(frozen=True)
class Subject:
    """One subject of a dataset: a class noun and a handful of images of one individual."""

    name: str
    class_noun: str
    live: bool
    images: tuple[Path, ...]
    digest: str  #: SHA-256 over the images' SHA-256s, in order


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt, e.g. `a {} in the snow`; `{}` is where the subject phrase goes."""

    template: str
    kind: str

    def text(self, phrase: str) -> str:
        """`Prompt("a {} in the snow", ...).text("sks dog")` -> `a sks dog in the snow`."""
        return self.template.format(phrase)


PRIOR_PROMPT = Prompt("a {}", PRIOR)
REAL_PROMPT = Prompt("", REAL)


@dataclass(frozen=True)
class Request:
    """One image to make: a prompt, its index among the prompt's images, and its noise seed.

    The noise seed depends on subject, prompt, index and run seed, never on the method: methods
    share noise, so comparisons pair.
    """

    prompt: Prompt
    index: int
    noise_seed: int


def noise_seed(subject: str, template: str, index: int, seed: int) -> int:
    """A 63-bit seed from exactly (subject, prompt template, index, run seed)."""
    text = json.dumps([subject, template, index, seed])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


#: What a fit returns: requests in, images out, in their order: (3, height, width) float32 in [0, 1]
#: on the CPU, as one (n, 3, height, width) tensor or, where sizes differ, as a sequence of them.
Generate = Callable[[Sequence[Request]], "Tensor | Sequence[Tensor]"]


class Progress(Protocol):
    """What a fit calls as it goes on: `progress(done, steps)`, steps done of steps in all."""

    def __call__(
        self, done: int, steps: int, /, *, losses: Mapping[str, float] | None = None
    ) -> None:
        """Take note of the steps and, where `losses` are given, of how the training goes.

        `losses`: each loss term's mean since it was last told, by the term's name, e.g.
        `{"instance": 0.12, "prior": 0.08}`. They make the report's learning curves; tell them some
        40 times in a training. What is not finite is left out.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """A way to personalise a text-to-image model: a frozen dataclass whose fields are settings.

    `description` is a field too, but no setting. `version` rises when its numbers change.
    No field is called `subject_images`: the suite sees to that setting, for every method.
    A method that takes no prompts (`prompted = False`) is asked for one image per reference image.
    """

    version: ClassVar[str]
    prompted: ClassVar[bool]
    description: str

    def fit(
        self, subject: Subject, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Generate:
        """Learn `subject`, changing `backbone`'s weights in place as it likes.

        The suite puts the pristine weights back after the job. Raises what it likes: a failed
        job does not stop the grid. `progress(done, steps)` is called after each training step, if
        there are any; `progress(done, steps, losses={"instance": 0.12})` also tells its losses.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """A score per generated image from one (method, subject, seed) group's features.

    Where neither end of it is the better one, `higher_is_better` is None, and no gate looks at it.
    """

    version: ClassVar[str]
    description: str
    higher_is_better: bool | None

    def __call__(self, features: Any) -> dict[int, float]:
        """Map the index of each image the metric applies to onto its score. Never NaN."""
        ...
