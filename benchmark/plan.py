"""The plan of a grid: which jobs, in which order, how many images, about how long.

plan(load_suite("pocket"), ["dreambooth", "untuned"], subjects=["dog-biscuit"]).jobs
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from benchmark import plugins
from benchmark.data import Dataset, verify
from benchmark.model_files import identify
from benchmark.protocol import Protocol
from benchmark.records import (
    PROMPT_KINDS,
    SUBJECT_IMAGES,
    Job,
    JobRecord,
    Prompt,
    Subject,
    UserError,
)
from benchmark.sampling import Sampler
from benchmark.suite import Suite

#: `all` leaves these out: they compare identifiers, not methods.
NOT_IN_ALL = "identifier-*"


@dataclass(frozen=True)
class Plan:
    """A grid's jobs in the order of the scores, and the suite with the selection put in."""

    suite: Suite
    methods: tuple[str, ...]
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: tuple[Job, ...]
    images: dict[str, int]  #: job key -> images to make
    left_out: tuple[str, ...]  #: subjects for which none of the chosen prompts is meant
    configuration: str  #: 16 hex digits over all that decides the scores


def plan(
    suite: Suite,
    methods: Sequence[str],
    *,
    subjects: Sequence[str] = (),
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    images_per_prompt: int | None = None,
) -> Plan:
    """Lay out the grid: every method on every subject with every seed.

    `methods`: names, `module:ATTRIBUTE`, patterns like `identifier-*`, or `all` for every
    installed one but the identifiers' ablation. `subjects`, `prompts`
    (kinds, templates, or numbers counted from 1 in the subject's list) and `seeds`: the suite's
    if empty. Checks the subjects' images. Raises UserError naming what is not known.
    """
    configured = {name: suite.method(name) for name in method_names(suite, methods)}
    settings = {name: suite.settings(name) for name in configured}
    prompts = prompts or suite.evaluation.prompts
    suite = _resolved(suite, settings, prompts, images_per_prompt)
    dataset = suite.data.load()
    chosen = choose_subjects(dataset, subjects or suite.data.subjects)
    asked = {subject.name: choose_prompts(dataset, subject, prompts) for subject in chosen}
    kept = [subject for subject in chosen if asked[subject.name]]
    if not kept:
        raise UserError(f"prompts {', '.join(prompts)}: not meant for any of the chosen subjects")
    _check_subject_images(settings, kept)
    _check_counts(configured, kept)
    verify(dataset, kept)
    suite = suite.model_copy(
        update={"data": suite.data.model_copy(update={"subjects": [s.name for s in kept]})}
    )
    seeds = tuple(dict.fromkeys(seeds)) or (suite.evaluation.seed,)
    shared = _shared(suite)
    jobs, images = [], {}
    for name, method in configured.items():
        own = {"method": name, "method_version": method.version, "settings": settings[name]}
        for subject in kept:
            for seed in seeds:
                job = _job(subject, seed, prompts=asked[subject.name], shared=shared | own)
                jobs.append(job)
                requests = job.requests(prompted=method.prompted, references=len(subject.images))
                images[job.key] = len(requests)
    return Plan(
        suite=suite,
        methods=tuple(configured),
        subjects=tuple(subject.name for subject in kept),
        seeds=seeds,
        jobs=tuple(jobs),
        images=images,
        left_out=tuple(s.name for s in chosen if s not in kept),
        configuration=_configuration(suite, jobs),
    )


def _check_counts(methods: dict[str, plugins.Method], subjects: Sequence[Subject]) -> None:
    """Refuse real images to be compared with each other where there is one only."""
    for name, method in methods.items():
        alone = [s.name for s in subjects if not method.prompted and len(s.images) < 2]
        if alone:
            raise UserError(
                f"method '{name}' compares a subject's images with each other, and there is one of "
                f"{', '.join(alone)}: add another, or choose other methods or subjects"
            )


def _shared(suite: Suite) -> dict[str, Any]:
    """What all jobs of a run have in common."""
    return {
        "backbone": _backbone_identity(suite),
        "sampler": asdict(Sampler(**suite.sampler.model_dump())),
        "encoders": identify(suite.encoder_tables()),
        "images_per_prompt": suite.evaluation.images_per_prompt,
        "prior_prompt_images": suite.evaluation.prior_prompt_images,
        "protocol": suite.protocol.label,
    }


def _job(
    subject: Subject, seed: int, *, prompts: tuple[Prompt, ...], shared: dict[str, Any]
) -> Job:
    return Job(
        subject=subject.name,
        class_noun=subject.class_noun,
        live=subject.live,
        images_digest=subject.digest,
        prompts=prompts,
        seed=seed,
        **shared,
    )


def _check_subject_images(settings: dict[str, dict[str, Any]], subjects: Sequence[Subject]) -> None:
    for name, given in settings.items():
        for subject in subjects:
            if given.get(SUBJECT_IMAGES, 1) > len(subject.images):
                raise UserError(
                    f"method '{name}' asks for {given[SUBJECT_IMAGES]} images of subject "
                    f"'{subject.name}', which has {len(subject.images)}: ask for fewer, or leave "
                    "the subject out"
                )


def method_names(suite: Suite, names: Sequence[str]) -> list[str]:
    """`names` with `all` and patterns like `identifier-*` spelled out.

    Raises UserError for a table of no known method, and for a pattern that fits none.
    """
    installed = list(plugins.available("methods"))
    for name in suite.methods:
        base, _ = plugins.variant(name)
        if base not in installed and ":" not in name:
            raise UserError(
                f"suite '{suite.name}' has settings for an unknown method '{name}'; "
                f"known: {', '.join(installed)}"
            )
    if not names:
        raise UserError(f"no method chosen; known: all, {', '.join(installed)}")
    found = []
    for name in names:
        if name == "all":
            found += [one for one in installed if not fnmatchcase(one, NOT_IN_ALL)]
        elif "*" in name and "[" not in name:
            fitting = [one for one in installed if fnmatchcase(one, name)]
            if not fitting:
                raise UserError(f"no method fits '{name}'; known: {', '.join(installed)}")
            found += fitting
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def choose_subjects(dataset: Dataset, names: Sequence[str]) -> list[Subject]:
    """The subjects called `names`, in the dataset's order; all of them if there are no names."""
    known = [subject.name for subject in dataset.subjects]
    for name in names:
        if name not in known:
            raise UserError(f"unknown subject '{name}'; known: {', '.join(known)}")
    return [s for s in dataset.subjects if not names or s.name in names]


def choose_prompts(
    dataset: Dataset, subject: Subject, choices: Sequence[str]
) -> tuple[Prompt, ...]:
    """Those of the subject's prompts that are chosen, in their order; all if nothing is.

    A choice is a kind, a template, or a number counted from 1. Raises UserError if it fits
    neither the live subjects' list nor the objects'.
    """
    lists = (dataset.prompts_live, dataset.prompts_object)
    for choice in choices:
        if not any(_chosen(choice, i, p) for prompts in lists for i, p in enumerate(prompts, 1)):
            templates = dict.fromkeys(p.template for prompts in lists for p in prompts)
            raise UserError(
                f"unknown prompt '{choice}'; known: {', '.join(PROMPT_KINDS)}; "
                f"1 to {max(map(len, lists))}; {'; '.join(templates)}"
            )
    return tuple(
        prompt
        for number, prompt in enumerate(dataset.prompts_for(subject), 1)
        if not choices or any(_chosen(choice, number, prompt) for choice in choices)
    )


def _chosen(choice: str, number: int, prompt: Prompt) -> bool:
    return choice in (str(number), prompt.kind, prompt.template)


def _resolved(
    suite: Suite,
    settings: dict[str, dict[str, Any]],
    prompts: Sequence[str],
    images_per_prompt: int | None,
) -> Suite:
    evaluation: dict[str, Any] = {"prompts": list(prompts)}
    if images_per_prompt is not None:
        evaluation["images_per_prompt"] = images_per_prompt
    update = {
        "evaluation": suite.evaluation.model_copy(update=evaluation),
        "methods": {
            name: {key: value for key, value in given.items() if value is not None}
            for name, given in settings.items()
        },
    }
    return suite.model_copy(update=update)


def _backbone_identity(suite: Suite) -> str:
    """Model and revision, from `backbone_id` in the loader's module where there is one.

    At another resolution than its own a model draws other images, so that is told too.
    """
    revision = _beside_loader(suite, "backbone_id")
    model, resolution = suite.backbone.model, suite.backbone.resolution
    identity = revision(model) if revision else f"{suite.backbone.kind}:{model}"
    return identity if resolution is None else f"{identity} at {resolution} px"


def fetch_backbone(suite: Suite) -> None:
    """See to it that the weights are on this machine, by `fetch` in the loader's module if any.

    Raises UserError saying how to bring them.
    """
    fetch = _beside_loader(suite, "fetch")
    if fetch:
        fetch(suite.backbone.model)


def worker_memory(suite: Suite) -> int | None:
    """Bytes a worker takes on a CPU, by `worker_memory` in the loader's module; None without."""
    measure = _beside_loader(suite, "worker_memory")
    return measure(suite.backbone.model) if measure else None


def _beside_loader(suite: Suite, name: str) -> Any:
    loader = plugins.load("backbones", suite.backbone.kind)
    return getattr(inspect.getmodule(loader), name, None)


def _configuration(suite: Suite, jobs: Sequence[Job]) -> str:
    # Where images and encoders lie decides nothing: what they are is in the jobs.
    no_part: Any = {"description": True, "estimate": True, "encoders": True, "data": {"folder"}}
    content = {
        "suite": suite.model_dump(mode="json", exclude=no_part),
        "jobs": [job.key for job in jobs],
        "metrics": {name: m.version for name, m in load_metrics(suite.protocol).items()},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_metrics(protocol: Protocol) -> dict[str, plugins.Metric]:
    """The metrics that the protocol defines, and those of other packages, by name."""
    points = plugins.available("metrics")
    others = [name for name, p in points.items() if not p.value.startswith("benchmark.metrics:")]
    return {name: plugins.load("metrics", name) for name in sorted({*protocol.metrics, *others})}


class Forecast:
    """How long jobs take: as those of the same method took, else by the suite's `[estimate]`."""

    def __init__(self, grid: Plan) -> None:
        self._grid = grid
        self._taken: dict[str, list[float]] = {}

    def learn(self, job: Job, record: JobRecord) -> None:
        """Take a finished job into account."""
        seconds = record.train_seconds + record.sample_seconds + record.score_seconds
        self._taken.setdefault(job.method, []).append(seconds)

    def seconds(self, jobs: Sequence[Job]) -> float | None:
        """Seconds for all of `jobs`, one after the other; None if one of them is unknown."""
        each = [self._seconds(job) for job in jobs]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def _seconds(self, job: Job) -> float | None:
        taken, rates = self._taken.get(job.method), self._grid.suite.estimate
        if taken:
            return sum(taken) / len(taken)
        if rates is None:
            return None
        steps = job.settings.get("steps", 0)
        return steps * rates.train_step_seconds + self._grid.images[job.key] * rates.image_seconds

    def order(self, jobs: Sequence[Job]) -> list[Job]:
        """The order to run `jobs` in: long ones first, neighbours of different classes.

        So the workers end together, and seldom wait for each other's prior images of a class.
        """
        position = {name: i for i, name in enumerate(self._grid.methods)}
        seen: Counter[tuple[str, int, str]] = Counter()
        keys = {}
        for job in jobs:
            group = (job.method, job.seed, job.class_noun)
            seen[group] += 1
            keys[job.key] = (-(self._seconds(job) or 0.0), position[job.method], seen[group])
        return sorted(jobs, key=lambda job: keys[job.key])
