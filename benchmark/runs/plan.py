"""The plan of a grid: which jobs, in which order, how many images.

plan(load_suite("pocket"), ["dreambooth", "untuned"], subjects=["dog-biscuit"]).jobs
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.api import SUBJECT_IMAGES, Method, Metric, Prompt, Subject, UserError
from benchmark.config import registry as plugins
from benchmark.config.protocol import Protocol
from benchmark.config.suite import Suite
from benchmark.data.dataset import verify
from benchmark.models.identity import identify
from benchmark.models.sampling import Sampler
from benchmark.runs.selection import choose_prompts, choose_subjects, method_names
from benchmark.store.records import Job


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

    @property
    def directory(self) -> Path:
        """Where its run goes unless it is told otherwise."""
        return Path("runs") / f"{self.suite.name}-{self.configuration[:8]}"


def plan(
    suite: Suite,
    methods: Sequence[str],
    *,
    subjects: Sequence[str] = (),
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    images_per_prompt: int | None = None,
    controls: Sequence[str] = (),
) -> Plan:
    """Lay out the grid: every method on every subject with every seed.

    `methods`: names, `module:ATTRIBUTE`, patterns like `identifier-*`, or `all` for every
    installed one but the identifiers' ablation. `controls`: methods that come along where the
    subjects have images enough for them. `subjects`, `prompts` (kinds, templates, or numbers
    counted from 1 in the subject's list) and `seeds`: the suite's if empty. Checks the subjects'
    images. Raises UserError naming what is not known.
    """
    names = method_names(suite, methods)
    prompts = prompts or suite.evaluation.prompts
    dataset = suite.data.load()
    chosen = choose_subjects(dataset, subjects or suite.data.subjects)
    asked = {subject.name: choose_prompts(dataset, subject, prompts) for subject in chosen}
    kept = [subject for subject in chosen if asked[subject.name]]
    if not kept:
        raise UserError(f"prompts {', '.join(prompts)}: not meant for any of the chosen subjects")
    configured = {name: suite.method(name) for name in names}
    for name in controls:
        if not _alone(method := suite.method(name), kept):
            configured.setdefault(name, method)
    settings = {name: suite.settings(name) for name in configured}
    suite = _resolved(suite, settings, prompts, images_per_prompt)
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


def _check_counts(methods: dict[str, Method], subjects: Sequence[Subject]) -> None:
    """Refuse real images to be compared with each other where there is one only."""
    for name, method in methods.items():
        if alone := _alone(method, subjects):
            raise UserError(
                f"method '{name}' compares a subject's images with each other, and there is one of "
                f"{', '.join(alone)}: add another, or choose other methods or subjects"
            )


def _alone(method: Method, subjects: Sequence[Subject]) -> list[str]:
    """The subjects with too few images for a method that is those images themselves."""
    return [s.name for s in subjects if not method.prompted and len(s.images) < 2]


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


def load_metrics(protocol: Protocol) -> dict[str, Metric]:
    """The metrics that the protocol defines, and those of other packages, by name."""
    points = plugins.available("metrics")
    others = [
        name for name, p in points.items() if not p.value.startswith("benchmark.scoring.metrics:")
    ]
    return {name: plugins.load("metrics", name) for name in sorted({*protocol.metrics, *others})}
