"""A suite: one TOML file that holds data, backbone, sampler, protocol and per-method settings.

python -m benchmark run --suite pocket          # one of benchmark/config/suites/
python -m benchmark run --suite my_suite.toml   # one of your own; start from a run's suite.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from benchmark.api import SUBJECT_IMAGES, Method, Subject, UserError
from benchmark.config import registry as plugins
from benchmark.config.protocol import Protocol, load_protocol
from benchmark.data.dataset import Dataset, load_dataset, locate_images
from benchmark.data.manifest import Table, read_toml

_SUITES = Path(__file__).parent / "suites"


class DataChoice(Table):
    """Which subjects: a dataset by name or path, and a part of it."""

    dataset: str
    folder: str | None = None  #: where its images lie, if not where the dataset says
    split: str | None = None
    subjects: list[str] = []  #: empty: all of the split

    def load(self) -> Dataset:
        """The dataset, with all subjects of the split. Raises UserError."""
        return load_dataset(self.dataset, split=self.split, folder=self.folder)


class BackboneChoice(Table):
    """Which model is personalised. `auto`: bf16 where the device is quick at it, else fp32."""

    kind: str = "diffusers"
    model: str
    identifier: str
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    #: Height and width of what is learned and drawn, in pixels; without it, the model's own.
    resolution: int | None = Field(default=None, gt=0, multiple_of=8)

    def options(self) -> dict[str, Any]:
        """What the backbone's loader is told beside the model: resolution only if it is given."""
        return self.model_dump(include={"precision", "resolution"}, exclude_none=True)


class SamplerChoice(Table):
    """How evaluation images are drawn."""

    scheduler: str = "ddim"
    steps: int = Field(gt=0)
    guidance: float = Field(ge=0)


class Evaluation(Table):
    """Which prompts, and how many images: for each, and for the prior prompt (PRES, PRIOR_DIV)."""

    prompts: list[str] = []  #: kinds, templates or numbers from 1; empty: all of a subject's
    images_per_prompt: int = Field(ge=1)
    prior_prompt_images: int = Field(ge=0)
    seed: int = Field(default=0, ge=0)


class Estimate(Table):
    """Measured seconds, for the time a plan prints before any job has finished."""

    train_step_seconds: float = Field(ge=0)
    image_seconds: float = Field(ge=0)  #: to sample and score one image


def _loaded(protocol: Any) -> Any:
    return load_protocol(protocol) if isinstance(protocol, str) else protocol


class Suite(Table):
    """Everything that is the same for every method, and each method's settings."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str
    #: A protocol's name, a file's, or its own table.
    protocol: Annotated[Protocol, BeforeValidator(_loaded)]
    encoders: str | None = None  #: where the protocol's encoders lie; else in the caches
    data: DataChoice
    backbone: BackboneChoice
    sampler: SamplerChoice
    evaluation: Evaluation
    methods: dict[str, dict[str, Any]] = {}
    estimate: Estimate | None = None

    def method(self, name: str) -> Method:
        """The method called `name` with this suite's settings for it. Raises UserError.

        A method whose setting `identifier` is None by default gets the suite's; a variant,
        `name[key=value]`, has the settings of `name` but for those.
        """
        method = plugins.load_method(plugins.variant(name)[0])
        settings = self._given(name)
        settings.pop(SUBJECT_IMAGES, None)
        if plugins.settings_of(method).get("identifier", "") is None:
            settings.setdefault("identifier", self.backbone.identifier)
        return plugins.configure(name, method, settings)

    def settings(self, name: str) -> dict[str, Any]:
        """All settings of `self.method(name)`, and `subject_images` if given. Raises UserError."""
        method = self.method(name)
        settings = plugins.settings_of(method)
        if SUBJECT_IMAGES not in self._given(name):
            return settings
        count = self._given(name)[SUBJECT_IMAGES]
        if not method.prompted:
            raise UserError(
                f"method '{name}' learns from no images: it has no setting '{SUBJECT_IMAGES}'"
            )
        if type(count) is not int or count < 1:
            raise UserError(
                f"setting '{SUBJECT_IMAGES}' of method '{name}' is {count!r}, "
                "but should be a whole number from 1"
            )
        return settings | {SUBJECT_IMAGES: count}

    def _given(self, name: str) -> dict[str, Any]:
        base, changed = plugins.variant(name)
        return self.methods.get(name, self.methods.get(base, {}) | changed).copy()

    def with_images(self, folder: Path | None) -> Suite:
        """This suite on what lies at `folder`: a copy of its images, or other subjects.

        The suite's choice of subjects is dropped if they are others. None changes nothing. Raises
        UserError.
        """
        if folder is None:
            return self
        dataset, root = locate_images(folder, self.data.dataset)
        update: dict[str, Any] = {"dataset": dataset, "folder": str(root)}
        if dataset != self.data.dataset:
            update["subjects"] = []
        return self.model_copy(update={"data": self.data.model_copy(update=update)})

    def on(self, model: str | None = None, precision: str | None = None) -> Suite:
        """This suite on another backbone or in another precision; None keeps the suite's own.

        Another backbone takes other times: the suite's estimate goes.
        """
        changed = {"model": model, "precision": precision}
        update: dict[str, Any] = {
            "backbone": self.backbone.model_copy(
                update={key: value for key, value in changed.items() if value is not None}
            )
        }
        if model not in (None, self.backbone.model):
            update["estimate"] = None
        return self.model_copy(update=update)

    def under(self, protocol: str | None, *, encoders: Path | None = None) -> Suite:
        """This suite under another protocol (a name or a file), its encoders in a folder."""
        update: dict[str, Any] = {}
        if protocol:
            update["protocol"] = load_protocol(protocol)
        if encoders:
            update["encoders"] = str(encoders)
        return self.model_copy(update=update)

    def encoder_tables(self) -> dict[str, dict[str, Any]]:
        """The protocol's encoders, each with the `directory` to look in if there is one."""
        place = {} if self.encoders is None else {"directory": self.encoders}
        return {name: table | place for name, table in self.protocol.encoders.items()}

    def caption_phrase(self, subject: Subject) -> str:
        """What stands for `subject` in the captions that CLIP-T compares with."""
        return self.protocol.phrase(subject.class_noun, self.backbone.identifier)

    def dump_toml(self) -> str:
        """The suite as TOML; reading it again gives an equal suite."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def suite_names() -> list[str]:
    """The suites that come with the package, sorted."""
    return sorted(file.stem for file in _SUITES.glob("*.toml"))


def load_suite(name_or_path: str) -> Suite:
    """One of our suites by name, or the suite in a TOML file. Raises UserError."""
    if name_or_path in suite_names():
        return read_toml(_SUITES / f"{name_or_path}.toml", Suite)
    path = Path(name_or_path).expanduser()
    if path.suffix != ".toml":
        raise UserError(
            f"unknown suite '{name_or_path}'; known: {', '.join(suite_names())}; "
            "or give a file of your own that ends in .toml"
        )
    return read_toml(path, Suite)
