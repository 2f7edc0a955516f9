"""A suite: one TOML file that holds data, backbone, sampler, protocol and per-method settings.

python -m benchmark run --suite pocket          # one of benchmark/config/suites/
python -m benchmark run --suite my_suite.toml   # one of your own; it may extend another

`benchmark/config/extends.py` says how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from benchmark.api import SEEDS, SUBJECT_IMAGES, BackboneKind, Method, Sampler, UserError
from benchmark.config.extends import over, read_extended
from benchmark.config.method_checks import settings_of
from benchmark.config.protocol import Protocol, load_protocol
from benchmark.config.registry import configure, load_kind, load_method, variant
from benchmark.config.tables import AblationTable, Objective
from benchmark.data.copies import locate_images
from benchmark.data.dataset import (
    Dataset,
    check_subjects,
    dataset_names,
    load_dataset,
    subject_names,
)
from benchmark.data.manifest import Names, Table, Text, check_toml, known_file, toml_names
from benchmark.store.names import composed
from benchmark.store.records import Model

_SUITES = Path(__file__).parent / "suites"

#: Of one prompt.
MOST_IMAGES = 10_000
#: What forward passes are computed in.
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class DataChoice(Table):
    """Which subjects: a dataset by name or path, and a part of it."""

    dataset: str
    folder: str | None = None  #: where its images lie, if not where the dataset says
    prompts: str | None = None  #: the dataset whose prompts it has if it lacks its own
    split: Text | None = None
    subjects: Names = []  #: those that are run if none are named; empty: all of the split

    def load(self) -> Dataset:
        """The dataset, with all subjects of the split. Raises UserError."""
        return load_dataset(
            self.dataset, split=self.split, folder=self.folder, prompts_of=self.prompts
        )

    def at(self, folder: Path | None) -> DataChoice:
        """What lies at `folder`: a copy of its images, or other subjects. None changes nothing.

        The choice of subjects is dropped if they are others; where these have no prompts, those of
        the dataset that ships stay. Raises UserError.
        """
        if folder is None:
            return self
        dataset, root = locate_images(folder, self.dataset)
        update: dict[str, Any] = {"dataset": dataset, "folder": str(root)}
        if dataset != self.dataset:
            update["subjects"] = []
            if self.dataset in dataset_names():
                update["prompts"] = self.dataset
        return self.model_copy(update=update)


class BackbonePart(Table):
    """What a suite may say otherwise of another model."""

    identifier: Text | None = Field(default=None, pattern=r"^\S(.*\S)?$")
    precision: Precision | None = None
    #: Height and width of what is learned and drawn, in pixels; without it, the model's own.
    resolution: int | None = Field(default=None, gt=0)


class BackboneChoice(BackbonePart):
    """Which model is personalised. `auto`: bf16 where the device is quick at it, else fp32."""

    kind: str = "diffusers"
    model: str
    identifier: Text = Field(pattern=r"^\S(.*\S)?$")
    precision: Precision = "auto"

    def load_kind(self) -> BackboneKind:
        """What is known of the model before it is loaded. Raises UserError."""
        return load_kind(self.kind)

    def identity(self) -> Model:
        """Which exact model, and in which size. Raises UserError if it is not here."""
        kind = self.load_kind()
        return Model(self.kind, kind.version, kind.identify(self.model), self.resolution)


class SamplerPart(Table):
    """Some of how evaluation images are drawn."""

    scheduler: str | None = None  #: one that the backbone knows
    steps: int | None = Field(default=None, gt=0)
    guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    #: Of a cascade, and of a model that is told its guidance: as `Sampler` has them.
    super_resolution_steps: int | None = Field(default=None, gt=0)
    super_resolution_guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    super_resolution_noise: float | None = Field(default=None, ge=0, le=1)
    true_guidance: float | None = Field(default=None, gt=1, allow_inf_nan=False)


class SamplerChoice(SamplerPart):
    """How evaluation images are drawn."""

    scheduler: str = "ddim"
    steps: int = Field(gt=0)
    guidance: float = Field(ge=0, allow_inf_nan=False)

    def sampler(self) -> Sampler:
        """What is chosen, as a backbone takes it."""
        return Sampler(**self.model_dump())


class Evaluation(Table):
    """Which prompts, and how many images: for each, and for the prior prompt (PRES, PRIOR_DIV)."""

    prompts: Names = []  #: kinds, templates, numbers from 1, or all; empty: all of a subject's
    images_per_prompt: int = Field(ge=1, le=MOST_IMAGES)
    prior_prompt_images: int = Field(ge=0, le=MOST_IMAGES)
    seed: int = Field(default=0, ge=0, lt=SEEDS.stop)


class Estimate(Table):
    """Measured seconds, for the time a plan prints before any job has finished."""

    train_step_seconds: float = Field(ge=0)
    train_images: int = Field(default=1, ge=1)  #: in that step, prior images among them
    image_seconds: float = Field(ge=0)  #: to sample and score one image


def _composed(settings: Any) -> Any:
    """`settings`, with every text in them in NFC."""
    if isinstance(settings, dict):
        return {key: _composed(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_composed(value) for value in settings]
    return composed(settings) if isinstance(settings, str) else settings


#: A method's settings.
Settings = Annotated[dict[str, Any], AfterValidator(_composed)]


class BackboneSettings(Table):
    """What a suite says otherwise where it runs on another backbone than its own."""

    backbone: BackbonePart | None = None
    sampler: SamplerPart | None = None
    groups: dict[str, Names] = {}
    methods: dict[str, Settings] = {}
    estimate: Estimate | None = None


def _loaded(protocol: Any) -> Any:
    return load_protocol(protocol) if isinstance(protocol, str) else protocol


class Suite(Table):
    """Everything that is the same for every method, and each method's settings."""

    name: Text = Field(pattern=r"^\w[\w.-]*$")
    description: str
    #: A protocol's name, a file's, or its own table.
    protocol: Annotated[Protocol, BeforeValidator(_loaded)]
    encoders: str | None = None  #: where the protocol's encoders lie; else in the caches
    data: DataChoice
    backbone: BackboneChoice
    sampler: SamplerChoice
    evaluation: Evaluation
    #: By the model's name; what extends this suite with that model starts from it, too.
    backbones: dict[str, BackboneSettings] = {}
    controls: Names = []  #: methods that come along as measures
    groups: dict[str, Names] = {}  #: names and patterns, for `--methods GROUP`
    methods: dict[str, Settings] = {}
    #: Of those methods that need one. Has a `kind`; its other keys are for the kind to check.
    assets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    estimate: Estimate | None = None
    tables: list[AblationTable] = []
    objective: Objective | None = None

    def method(self, name: str) -> Method:
        """The method called `name` with this suite's settings for it. Raises UserError.

        A method whose setting `identifier` is None by default gets the suite's; a variant,
        `name[key=value]`, has the settings of `name` but for those.
        """
        method = load_method(variant(name)[0])
        settings = self._given(name, method)
        settings.pop(SUBJECT_IMAGES, None)
        if settings_of(method).get("identifier", "") is None:
            settings.setdefault("identifier", self.backbone.identifier)
        return configure(name, method, settings)

    def settings(self, name: str) -> dict[str, Any]:
        """All settings of `self.method(name)`, and `subject_images` if given. Raises UserError."""
        method = self.method(name)
        settings, given = settings_of(method), self._given(name, method)
        if SUBJECT_IMAGES not in given:
            return settings
        count = given[SUBJECT_IMAGES]
        if method.draws == "references" or method.role == "lower bound":
            raise UserError(
                f"method '{name}' learns from no images: it has no setting '{SUBJECT_IMAGES}'; it "
                f"has: {', '.join(settings) or 'none'}"
            )
        if type(count) is not int or count < 1:
            raise UserError(
                f"setting '{SUBJECT_IMAGES}' of method '{name}' is {count!r}: it should be a whole "
                "number from 1"
            )
        return settings | {SUBJECT_IMAGES: count}

    def _given(self, name: str, method: Method) -> dict[str, Any]:
        """What this suite says of a method: of the plugin, then of the row, then its name."""
        base, changed = variant(name)
        own = self.methods.get(base, {}) | self.methods.get(name, {})
        return self._inherited(method) | own | changed

    def _inherited(self, method: Method) -> dict[str, Any]:
        """What the suite says of the method that this one varies, but for what it varies."""
        if method.variant_of is None:
            return {}
        varied = load_method(method.variant_of)
        given = self._inherited(varied) | self.methods.get(method.variant_of, {})
        own, theirs = settings_of(method), settings_of(varied)
        return {
            key: value
            for key, value in given.items()
            if key == SUBJECT_IMAGES or (key in own and own[key] == theirs[key])
        }

    def with_images(self, folder: Path | None) -> Suite:
        """This suite on what lies at `folder`, as `DataChoice.at`. Raises UserError."""
        if folder is None:
            return self
        return self.model_copy(update={"data": self.data.at(folder)})

    def on(self, model: str | None = None, precision: str | None = None) -> Suite:
        """This suite on another backbone or in another precision; None keeps the suite's own.

        On another backbone what `backbones` says of it holds. Its times are others: the suite's
        estimate goes.
        """
        changed = {"model": model, "precision": precision}
        own = {"backbone": {key: value for key, value in changed.items() if value is not None}}
        return Suite.model_validate(over(self.model_dump(exclude_unset=True), own))

    def under(self, protocol: str | None, *, encoders: Path | None = None) -> Suite:
        """This suite under another protocol (a name or a file), its encoders in a folder."""
        update: dict[str, Any] = {}
        if protocol:
            update["protocol"] = load_protocol(protocol)
        if encoders:
            update["encoders"] = str(encoders)
        return self.model_copy(update=update)


class KeptSuite(Table):
    """What is read of a run's suite.toml to report it; the whole of it was checked before."""

    model_config = ConfigDict(extra="ignore")

    name: Text
    description: str = ""
    data: dict[str, Any] = {}
    groups: dict[str, list[Text]] = {}
    objective: Objective | None = None


def suite_names() -> list[str]:
    """The suites that come with the package, sorted."""
    return toml_names(_SUITES)


def load_suite(name_or_path: str) -> Suite:
    """One of our suites by name, or the suite in a TOML file. Raises UserError."""
    content, source = read_extended(known_file(name_or_path, _SUITES, "suite"), _SUITES)
    suite = check_toml(content, Suite, source)
    _check_subjects(suite.data, source)
    return suite


def _check_subjects(data: DataChoice, source: str) -> None:
    """Refuse subjects that the dataset, if it is where the suite says, does not have."""
    if not data.subjects:
        return
    try:
        known = subject_names(data.dataset, split=data.split)
    except UserError:  # `--data` may say where it is; if not, the plan says what is wrong
        return
    try:
        check_subjects(data.subjects, known)
    except UserError as error:
        raise UserError(f"{source}: data.subjects: {error}") from error
