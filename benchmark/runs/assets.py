"""Which jobs use which of the suite's assets, and masks: asked before anything runs.

A user's own masks go before the segmenter's; what finds the subject in drawn scenes is always that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.api import ASSET, MASKS, SEGMENTER, Method, Subject, UserError
from benchmark.config.protocol import Protocol
from benchmark.config.suite import Suite
from benchmark.data.masks import masks_digest
from benchmark.models.assets import assets
from benchmark.models.assets.asset_files import MissingFiles
from benchmark.models.files.kinship import same_model
from benchmark.runs.problems import Problems
from benchmark.scoring.encoder_tables import completed, protocol_tables
from benchmark.scoring.kinds import kind_of as encoder_kind
from benchmark.store.records import Fit, Job


class NoHollow(UserError):
    """An asset's kind has nothing to stand in its place where tensors are without numbers."""


def identified(
    suite: Suite, methods: Mapping[str, Method], subjects: Sequence[Subject]
) -> dict[str, str]:
    """Role -> which exact asset the suite declares, of the roles that `methods` want filled.

    Raises UserError if one is not declared, if its files are not here, if it does not know the
    class noun of a subject, or if it is one of the protocol's encoders; of all roles at once.
    """
    wanting: dict[str, list[tuple[str, Subject]]] = {}
    for name, method in methods.items():
        for subject in subjects:
            for role in wanted(method, subject):
                wanting.setdefault(role, []).append((name, subject))
    found, problems = dict[str, str](), Problems()
    for role, jobs in sorted(wanting.items()):
        with problems.noted():
            table = _declared(suite, role, *jobs[0])
            found[role] = assets.identify(role, table)
            assets.check_nouns(role, table, list(dict.fromkeys(s.class_noun for _, s in jobs)))
    problems.check()
    used = {role: jobs[0][0] for role, jobs in wanting.items()}
    check_no_encoder(suite.assets, used, suite.protocol, suite.encoders)
    return found


def check_declared(declared: Mapping[str, Mapping[str, Any]], jobs: Iterable[Job]) -> None:
    """Refuse assets of finished `jobs` that are not those of the run's suite, as it is by now.

    Another suite went on in the run since. Raises UserError.
    """
    for job in jobs:
        for role, used in job.fit.assets.items():
            now = assets.identify(role, declared[role]) if role in declared else "none"
            if now != used:
                raise UserError(
                    f"{job.label} was made with {role} '{used}', and the run's suite.toml declares "
                    f"{now}, so whether that is an encoder of the protocol cannot be told: bring "
                    "the suite back under which it was made"
                )


def check_no_encoder(
    declared: Mapping[str, Mapping[str, Any]],
    used: Mapping[str, str],
    protocol: Protocol,
    encoders: str | None,
) -> None:
    """Refuse an asset that scores what is made with it: its method would score its own work.

    `declared`: role -> the suite's table; `used`: role -> a method that uses it. Encoders whose
    files are not here are passed over: they score nothing until they are. Raises UserError.
    """
    for role, method in used.items():
        files = assets.kind_of(role, declared[role]).files(declared[role])
        for name, table in completed(protocol_tables(protocol, encoders)).items():
            try:
                encoder = encoder_kind(name, table).files(name, table)
            except MissingFiles:
                continue
            if same_model(files, encoder):
                raise UserError(
                    f"{assets.where(role)} of method '{method}' is the same model as "
                    f"encoders.{name} of protocol '{protocol.label}', which would score its own "
                    f"work: declare another {role}, choose another --protocol, or leave the "
                    "method out"
                )


def check_files(suite: Suite, jobs: Iterable[Job]) -> None:
    """Refuse files of assets of `jobs` that are broken. Raises UserError naming one.

    Asked are those kinds of assets that have `check`.
    """
    for role in sorted({role for job in jobs for role in job.fit.assets}):
        kind = assets.kind_of(role, suite.assets[role])
        if kind.check is not None:
            kind.check(suite.assets[role])


def check_adapters(suite: Suite, jobs: Iterable[Job]) -> None:
    """Refuse assets of `jobs` whose weights do not fit the backbone. Raises UserError.

    The backbone's files have to be here. Asked are those kinds of assets that have `shapes`.
    """
    roles = {role for job in jobs if job.fit.backbone for role in job.fit.assets}
    backbone: Any = suite.backbone.load_kind()
    for role in sorted(roles):
        kind = assets.kind_of(role, suite.assets[role])
        if kind.shapes is None or not hasattr(backbone, "check_adapter"):
            continue
        try:
            backbone.check_adapter(suite.backbone.model, kind.shapes(suite.assets[role]))
        except UserError as error:
            raise UserError(
                f"{assets.where(role)}: '{suite.assets[role]['model']}' does not fit backbone "
                f"'{suite.backbone.model}': {error}: choose one that was trained on this backbone"
            ) from error


def _declared(suite: Suite, role: str, method: str, subject: Subject) -> dict[str, Any]:
    """The suite's table for `role`. Raises UserError: there is none, and `method` wants it."""
    if role in suite.assets:
        return suite.assets[role]
    raise UserError(
        f"method '{method}' needs the asset '{role}' for subject '{subject.name}', and the suite "
        f"declares none: give the suite an [{assets.where(role)}] (docs/methods.md), or leave the "
        "method out"
    )


def wanted(method: Method, subject: Subject) -> set[str]:
    """The roles that a job of `method` on `subject` wants filled."""
    roles = {need.removeprefix(ASSET) for need in method.needs if need.startswith(ASSET)}
    if MASKS in method.needs and not subject.masks:
        roles.add(SEGMENTER.removeprefix(ASSET))
    return roles


def masks_of(method: Method, subject: Subject) -> str | None:
    """What `Fit.masks` says: the subject's own masks, of a method that uses any."""
    return masks_digest(subject) if MASKS in method.needs else None


def check_planned_masks(method: Method, subject: Subject, fit: Fit) -> None:
    """Refuse masks that are not the planned ones: their files were changed meanwhile."""
    if masks_of(method, subject) != fit.masks:
        raise UserError(
            f"the masks of subject '{subject.name}' are not those that were planned with: run the "
            "same command again, with another --out"
        )


def hollow(suite: Suite, fit: Fit) -> dict[str, Any]:
    """Role -> what stands in the place of the asset where tensors are without numbers.

    Raises NoHollow if the kind of one of those that `fit` uses has no such thing.
    """
    found = {}
    for role in fit.assets:
        kind = assets.kind_of(role, suite.assets[role])
        if kind.hollow is None:
            raise NoHollow(f"the {role}, whose kind has no `hollow`")
        found[role] = kind.hollow(suite.assets[role])
    return found


def load(suite: Suite, role: str, planned: str, device: str) -> Any:
    """The asset in `role`, which is the `planned` one. Raises UserError if its files changed."""
    table = suite.assets[role]
    found = assets.kind_of(role, table).load(table, device)
    # Once it is loaded: its files may have changed until then.
    if (now := assets.identify(role, table)) != planned:
        raise UserError(
            f"planned was {role} '{planned}', and loaded was '{now}': run the same command again, "
            "with another --out"
        )
    return found
