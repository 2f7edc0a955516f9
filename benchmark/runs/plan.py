"""The plan of a grid: which jobs there are, and which prior images they need.

plan(load_suite("pocket"), ["my_module:METHOD"], subjects=["dog"]).jobs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.api import (
    SEEDS,
    SUBJECT_IMAGES,
    SUPER_RESOLUTION,
    Method,
    Prompt,
    Sampler,
    Subject,
    UserError,
    of_backbone,
)
from benchmark.config.method_checks import settings_of
from benchmark.config.registry import load_method, variant
from benchmark.config.suite import Evaluation, Suite
from benchmark.data.dataset import choose_subjects, verify
from benchmark.data.manifest import check_toml
from benchmark.models.diffusion.sampling import check_guidance
from benchmark.models.families import families_that_can
from benchmark.models.precision import resolve_device, resolve_precision
from benchmark.runs.assets import identified
from benchmark.runs.layout import Base, Row, Selection, asked_prior, lay_out
from benchmark.runs.problems import Problems
from benchmark.runs.provisions import in_short
from benchmark.runs.score import Assessment
from benchmark.runs.selection import (
    called_by_name,
    choose_prompts,
    method_names,
    passed_over,
    spelled_prompts,
    unserved,
)
from benchmark.store.names import folder_name
from benchmark.store.records import Job, Model, Prior, digest


@dataclass(frozen=True)
class Grid:
    """The jobs that are asked for, in the order of methods, subjects and seeds."""

    suite: Suite  #: with the selection and every setting put in
    jobs: tuple[Job, ...]
    priors: Mapping[str, Prior]  #: by key: those that the jobs' fits name
    device: str  #: on which everything is computed: "cpu", "cuda"
    prompts: Mapping[str, tuple[Prompt, ...]]  #: subject -> all prompts of the dataset, in order
    left_out: tuple[str, ...]  #: subjects for which none of the chosen prompts is meant
    #: Chosen kind or number of prompts -> which of the other subjects have none of it.
    passed_over: Mapping[str, Sequence[str]]
    #: Methods of the chosen groups that the backbone cannot serve -> what it lacks.
    unserved: Mapping[str, Sequence[str]]
    settled: Mapping[str, Any]  #: what no later run in its directory may change, by dotted name
    directory: Path  #: where its run goes unless it is told otherwise

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(job.method for job in self.jobs))

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(job.subject for job in self.jobs))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(job.seed for job in self.jobs))


def plan(
    suite: Suite,
    methods: Sequence[str],
    *,
    subjects: Sequence[str] = (),
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    images_per_prompt: int | None = None,
    controls: Sequence[str] = (),
) -> Grid:
    """Lay out the grid: every method on every subject with every seed.

    `methods`: names, `module:ATTRIBUTE`, patterns like `my-method-*`, or the suite's groups; of
    patterns and groups, those that the backbone can serve.
    `controls`: methods that come along where the subjects have images enough for them. `subjects`,
    `prompts` (kinds, templates, or numbers counted from 1 in the subject's list) and `seeds`: the
    suite's if empty. Checks the subjects' images, and that everything can be drawn as it is asked
    for. Raises UserError naming what cannot, why, and the way out.
    """
    names, left = _served(suite, methods)
    numbers = tuple(dict.fromkeys(seeds)) or (suite.evaluation.seed,)
    asked = spelled_prompts(suite, suite.data.load(), prompts) if prompts else []
    evaluation = _evaluation(suite, asked, images_per_prompt, numbers)
    chosen = _select(suite, subjects or suite.data.subjects, evaluation.prompts)
    rows = _rows(suite, names, controls, chosen.subjects)
    _check_counts(rows, chosen.subjects)
    _check_identifiers(rows, chosen.subjects)
    device = resolve_device("auto")
    base = _base(suite, device)
    _check_backbone(suite, rows, chosen.subjects)
    assets = _check_files(suite, rows, chosen)
    for subject in chosen.subjects:
        suite.protocol.reference_indices(subject)  # refuses a wrong file of references
    rows = [replace(row, assets=assets) for row in rows]
    settled = _settled(suite, base)
    # Not over the selection: what is asked for later goes on in the same directory.
    name = f"{folder_name(suite.name)}-{digest([settled, suite.methods])[:8]}"
    suite = _filled_in(suite, rows, chosen, evaluation)
    jobs, priors = lay_out(suite, rows, chosen, numbers, base)
    return Grid(
        suite=suite,
        jobs=jobs,
        priors=priors,
        device=device,
        prompts={s.name: chosen.dataset.prompts_for(s) for s in chosen.subjects},
        left_out=chosen.left_out,
        passed_over=passed_over(chosen.dataset, chosen.subjects, evaluation.prompts),
        unserved=left,
        settled=settled,
        directory=Path("runs") / name,
    )


def _served(suite: Suite, asked: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The methods of `asked`, but for those of groups and patterns that the backbone cannot serve.

    And what it lacks for these. Raises UserError if none is left.
    """
    names, by_name = method_names(suite, asked), called_by_name(suite, asked)
    left = unserved(suite, [name for name in names if name not in by_name])
    found = [name for name in names if name not in left]
    if not found:
        lacks = "; ".join(f"'{name}' needs {', '.join(needs)}" for name, needs in left.items())
        raise UserError(
            f"backbone '{suite.backbone.model}' serves no method of {', '.join(asked)}: {lacks}: "
            "choose another --backbone, or other methods"
        )
    return found, left


def _evaluation(
    suite: Suite, prompts: Sequence[str], images_per_prompt: int | None, seeds: Sequence[int]
) -> Evaluation:
    """The suite's, with what is asked for put in and checked. Raises UserError."""
    for seed in seeds:
        if seed not in SEEDS:
            raise UserError(f"seed {seed} is none: seeds are whole numbers from 0 to 2^63 - 1")
    changed: dict[str, Any] = {"prompts": list(dict.fromkeys(prompts))} if prompts else {}
    if images_per_prompt is not None:
        changed["images_per_prompt"] = images_per_prompt
    return check_toml(suite.evaluation.model_dump() | changed, Evaluation, "the evaluation")


def _rows(
    suite: Suite, names: Sequence[str], controls: Sequence[str], subjects: Sequence[Subject]
) -> list[Row]:
    """The methods called `names`, and those controls that these subjects have images for."""
    rows = {name: _row(suite, name) for name in (*names, *controls)}
    return [row for name, row in rows.items() if name in names or not _alone(row.method, subjects)]


def _row(suite: Suite, name: str) -> Row:
    return Row(name, suite.method(name), suite.settings(name))


def _filled_in(
    suite: Suite, rows: Sequence[Row], chosen: Selection, evaluation: Evaluation
) -> Suite:
    """`suite` with the selection and every setting put in."""
    settings = {
        row.name: {key: value for key, value in row.settings.items() if value is not None}
        for row in rows
    }
    subjects = [subject.name for subject in chosen.subjects]
    return suite.model_copy(
        update={
            "evaluation": evaluation,
            "data": suite.data.model_copy(update={"subjects": subjects}),
            "methods": settings,
        }
    )


def _base(suite: Suite, device: str) -> Base:
    precision = resolve_precision(suite.backbone.precision, device)
    return Base(suite.backbone.identity(), precision, suite.sampler.sampler())


def _settled(suite: Suite, base: Base) -> dict[str, Any]:
    return settled_by(base.backbone, base.precision, base.sampler) | {
        "backbone.identifier": suite.backbone.identifier,
        "data.dataset": suite.data.load().name,
        "data.split": suite.data.split,
    }


def settled_by(model: Model, precision: str, sampler: Sampler | None) -> dict[str, Any]:
    """What of `Plan.settled` is decided by what a job starts from, `sampler` if it draws."""
    return {
        "backbone": model.id,
        "backbone.kind": model.kind,
        "backbone.version": model.version,
        "backbone.resolution": model.resolution,
        "backbone.precision": precision,
        **{f"sampler.{k}": v for k, v in (sampler.said() if sampler else {}).items()},
    }


def _select(suite: Suite, names: Sequence[str], prompts: Sequence[str]) -> Selection:
    dataset = suite.data.load()
    chosen = choose_subjects(dataset, names)
    asked = {subject.name: choose_prompts(dataset, subject, prompts) for subject in chosen}
    kept = tuple(subject for subject in chosen if asked[subject.name])
    if not kept and not prompts:
        kinds = " and ".join("[live]" if live else "[object]" for live in {s.live for s in chosen})
        raise UserError(
            f"dataset '{dataset.name}' has no prompts for the chosen subjects: write {kinds} into "
            "its prompts.toml, or give --prompts"
        )
    if not kept:
        raise UserError(f"prompts {', '.join(prompts)}: not meant for any of the chosen subjects")
    return Selection(dataset, kept, asked, tuple(s.name for s in chosen if s not in kept))


def _check_files(suite: Suite, rows: Sequence[Row], chosen: Selection) -> dict[str, str]:
    """Role -> which exact asset the rows use. Refuse images and assets that are not as they should.

    Raises UserError telling all that is wrong, and if anything is, of encoders too: else a run
    tells of them by itself.
    """
    problems, assets = Problems(), dict[str, str]()
    with problems.noted():
        verify(chosen.dataset, chosen.subjects)
    with problems.noted():
        assets = identified(suite, {row.name: row.method for row in rows}, chosen.subjects)
    if problems.found:
        with problems.noted():
            _ = Assessment.of(suite).scoring
    with in_short(suite):
        problems.check()
    return assets


def _check_backbone(suite: Suite, rows: Sequence[Row], subjects: Sequence[Subject]) -> None:
    """Refuse methods that the backbone cannot serve, sizes that it cannot draw, odd samplers."""
    kind, model = suite.backbone.load_kind(), suite.backbone.model
    capabilities = kind.capabilities(model)
    for row in rows:
        lacking = sorted(of_backbone(row.method.needs) - capabilities)
        if lacking:
            settings = _settings_that_need(row, lacking)
            raise UserError(
                f"method '{row.name}' needs {', '.join(lacking)}, and backbone '{model}' has "
                f"{', '.join(sorted(capabilities)) or 'nothing'}: {_another_backbone(row)}, or "
                f"leave {' or '.join(settings) or 'the method'} out"
            )
    if check_resolution := getattr(kind, "check_resolution", None):
        check_resolution(model, suite.backbone.resolution)
    sampler = suite.sampler.sampler()
    enlarges = [name for name in sampler.said() if name.startswith("super_resolution")]
    if enlarges and SUPER_RESOLUTION not in capabilities:
        raise UserError(
            f"the suite's [sampler] has {', '.join(enlarges)}, and backbone '{model}' is no "
            "cascade: leave them out, or choose one"
        )
    _check_samplers(suite, rows, subjects)


def _check_samplers(suite: Suite, rows: Sequence[Row], subjects: Sequence[Subject]) -> None:
    """Refuse samplers by which the backbone does not draw, or turns no image into noise."""
    kind, model, own = suite.backbone.load_kind(), suite.backbone.model, suite.sampler.sampler()
    capabilities = kind.capabilities(model)
    samplers = {"the suite's [sampler]": {own}}
    for row in rows:
        if hasattr(row.method, "inversion") and hasattr(kind, "check_inversion"):
            with _named(f"method '{row.name}'"):
                kind.check_inversion(model, row.method.inversion(own))
        asked = [prior for s in subjects if (prior := asked_prior(row, s)) is not None]
        samplers[f"the prior images of method '{row.name}'"] = {prior.sampler for prior in asked}
    for whose, chosen in samplers.items():
        for sampler in chosen:
            with _named(whose):
                check_guidance(sampler, capabilities)
                kind.check_sampler(model, sampler)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Within, a UserError says first what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def _another_backbone(row: Row) -> str:
    """The way out for a method that the backbone cannot serve: which families can."""
    able = families_that_can(of_backbone(row.method.needs))
    return "choose another --backbone" + (f", a model of {able}" if able else "")


def _settings_that_need(row: Row, lacking: Sequence[str]) -> list[str]:
    """The settings without which a method would need less of what is lacking."""
    plain = settings_of(load_method(variant(row.name)[0]))
    found = []
    for name, value in settings_of(row.method).items():
        if value != plain[name]:
            with suppress(UserError):  # another setting makes no sense without it
                without = replace(row.method, **{name: plain[name]})  # type: ignore[type-var]
                if not without.needs >= {*lacking}:
                    found.append(f"its setting {name}")
    return found


def _check_counts(rows: Sequence[Row], subjects: Sequence[Subject]) -> None:
    """Refuse what a subject has too few images for."""
    for row in rows:
        if alone := _alone(row.method, subjects):
            raise UserError(
                f"method '{row.name}' compares a subject's images with each other, and there is "
                f"one of {', '.join(alone)}: add another, or choose other methods or subjects"
            )
        for subject in subjects:
            if row.settings.get(SUBJECT_IMAGES, 1) > len(subject.images):
                raise UserError(
                    f"method '{row.name}' asks for {row.settings[SUBJECT_IMAGES]} images of "
                    f"subject '{subject.name}', which has {len(subject.images)}: ask for fewer, or "
                    "leave the subject out"
                )


def _check_identifiers(rows: Sequence[Row], subjects: Sequence[Subject]) -> None:
    """Refuse an identifier that the class has too: what is learned of it would be the class's."""
    for row in rows:
        identifier = str(row.settings.get("identifier") or "").casefold()
        for subject in subjects:
            if identifier in subject.class_noun.casefold().split():
                raise UserError(
                    f"class_noun '{subject.class_noun}' of subject '{subject.name}' holds the "
                    f"identifier '{identifier}' of method '{row.name}': take it out, or choose "
                    "another identifier"
                )


def _alone(method: Method, subjects: Sequence[Subject]) -> list[str]:
    """The subjects with too few images for a method that is those images themselves."""
    return [s.name for s in subjects if method.draws == "references" and len(s.images) < 2]
