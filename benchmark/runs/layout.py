"""Which jobs a selection makes with each method, and which prior images they need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmark.api import (
    PRIOR,
    PROMPT_KINDS,
    SUBJECT_IMAGES,
    Method,
    PriorImages,
    Prompt,
    Sampler,
    Subject,
    UserError,
    of_backbone,
)
from benchmark.config.suite import Suite
from benchmark.data.dataset import Dataset, first_images
from benchmark.runs.assets import masks_of, wanted
from benchmark.store.records import Fit, Job, Model, Prior

MOST_PRIOR = 100_000  #: prior images in a set; the paper has 1,000


@dataclass(frozen=True)
class Base:
    """What methods start from: an exact model, the precision of its passes, and its sampler."""

    backbone: Model
    precision: str  #: as resolved on this machine
    sampler: Sampler


@dataclass(frozen=True)
class Row:
    """A method of the plan, with the settings that it has here."""

    name: str
    method: Method
    settings: dict[str, Any]
    assets: Mapping[str, str] = field(default_factory=dict)  #: role -> which exact one, of all rows


@dataclass(frozen=True)
class Selection:
    """The chosen part of a dataset."""

    dataset: Dataset
    subjects: tuple[Subject, ...]
    prompts: Mapping[str, tuple[Prompt, ...]]  #: subject -> those that are asked for
    left_out: tuple[str, ...]


def lay_out(
    suite: Suite,
    rows: Sequence[Row],
    chosen: Selection,
    seeds: Sequence[int],
    base: Base | None,
) -> tuple[tuple[Job, ...], dict[str, Prior]]:
    """The jobs, and the prior images that they need. `base` may be None if no row needs one."""
    jobs, priors = [], {}
    for row in rows:
        own = base if of_backbone(row.method.needs) else None
        for subject in chosen.subjects:
            for seed in seeds:
                prior = _prior(row, subject, seed, own)
                if prior is not None:
                    priors[prior.key] = prior
                fit = _fit(row, subject, seed, own, prior)
                jobs.append(_job(suite, row, subject, fit, chosen.prompts[subject.name]))
    return tuple(jobs), priors


def asked_prior(row: Row, subject: Subject) -> PriorImages | None:
    """The prior images that a method asks for. Raises UserError if that is no such thing."""
    if SUBJECT_IMAGES in row.settings:
        subject = first_images(subject, row.settings[SUBJECT_IMAGES])
    try:
        asked = row.method.prior(subject)
    except UserError as error:
        raise UserError(f"method '{row.name}' for subject '{subject.name}': {error}") from error
    except Exception as error:  # whatever a plugin raises, before anything is trained
        raise UserError(
            f"prior of method '{row.name}' for subject '{subject.name}' raises "
            f"{type(error).__name__}: {error}"
        ) from error
    if asked is not None and not _whole(asked):
        raise UserError(
            f"prior of method '{row.name}' for subject '{subject.name}' gives {asked!r}: it should "
            f"be PriorImages with a count from 1 to {MOST_PRIOR}, or None"
        )
    return asked


def _whole(asked: object) -> bool:
    if not isinstance(asked, PriorImages) or not isinstance(asked.sampler, Sampler):
        return False
    return isinstance(asked.count, int) and 1 <= asked.count <= MOST_PRIOR


def _prior(row: Row, subject: Subject, seed: int, base: Base | None) -> Prior | None:
    asked = asked_prior(row, subject)
    if asked is None or base is None:
        return None
    return Prior(
        backbone=base.backbone,
        precision=base.precision,
        class_noun=asked.class_noun,
        count=asked.count,
        sampler=asked.sampler,
        seed=seed,
    )


def _fit(row: Row, subject: Subject, seed: int, base: Base | None, prior: Prior | None) -> Fit:
    count = row.settings.get(SUBJECT_IMAGES)
    learned = subject if count is None else first_images(subject, count)
    return Fit(
        method=row.name.partition("[")[0],
        version=row.method.version,
        # A setting that says nothing decides nothing: one that is added later changes no key.
        settings={key: value for key, value in row.settings.items() if value is not None},
        backbone=None if base is None else base.backbone,
        precision=None if base is None else base.precision,
        subject=subject.name,
        class_noun=subject.class_noun,
        live=subject.live,
        images=learned.digest,
        prior=None if prior is None else prior.key,
        seed=seed,
        masks=masks_of(row.method, learned),
        assets={role: row.assets[role] for role in sorted(wanted(row.method, learned))},
    )


def _job(suite: Suite, row: Row, subject: Subject, fit: Fit, prompts: tuple[Prompt, ...]) -> Job:
    return Job(
        method=row.name,
        role=row.method.role,
        variant_of=row.method.variant_of,
        draws=row.method.draws,
        fit=fit,
        sampler=None if fit.backbone is None else suite.sampler.sampler(),
        references=len(subject.images),
        references_digest=subject.digest,
        prompts=prompts,
        images_per_prompt=suite.evaluation.images_per_prompt,
        prior_prompt_images=suite.evaluation.prior_prompt_images,
        unscored=_unscored(row),
        seen=_seen(row, subject),
    )


def _seen(row: Row, subject: Subject) -> tuple[int, ...] | None:
    """Which of the subject's images the method looks at; None: all. Raises UserError."""
    given = row.settings.get(SUBJECT_IMAGES, len(subject.images))
    chosen: Collection[int] = range(given)
    if hasattr(row.method, "seen"):
        chosen = row.method.seen(first_images(subject, given))
    if not isinstance(chosen, Collection) or any(type(index) is not int for index in chosen):
        raise UserError(
            f"seen of method '{row.name}' is {chosen!r}: it should be indices of images, from 0"
        )
    seen = tuple(sorted(set(chosen)))
    for index in seen:
        if index not in range(given):
            raise UserError(
                f"method '{row.name}' looks at image {index + 1} of '{subject.name}', which "
                f"has {given}: choose another, or leave the subject out"
            )
    return None if len(seen) == len(subject.images) else seen


def _unscored(row: Row) -> dict[str, str]:
    """Which prompt kinds a method leaves out, and why. Raises UserError if that is no reason."""
    found = dict(getattr(row.method, "unscored", {}))
    for kind, reason in found.items():
        if kind not in (*PROMPT_KINDS, PRIOR) or not isinstance(reason, str) or not reason.strip():
            raise UserError(
                f"unscored of method '{row.name}' has {kind!r}: {reason!r}; it should be a reason "
                f"by one of {', '.join((*PROMPT_KINDS, PRIOR))}"
            )
    return found
