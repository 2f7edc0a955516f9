"""Whether the backbone is here and methods fit it, asked before anything is trained or drawn."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.api import Backbone, UserError
from benchmark.config.suite import BackboneChoice, Suite
from benchmark.models.precision import resolve_precision
from benchmark.runs.agenda import Work
from benchmark.store.records import Job


def is_here(backbone: BackboneChoice) -> bool | None:
    """Whether its files are on this machine; None: its kind cannot tell without fetching them."""
    asked = getattr(backbone.load_kind(), "is_here", None)
    return None if asked is None else bool(asked(backbone.model))


def check_backbones(suite: Suite, left: Sequence[Work]) -> None:
    """Refuse methods that do not fit the backbone, whose files have to be here.

    Asked are those that have `check_backbone`, about a backbone without numbers; where its kind
    makes none, each job finds out by itself. Raises UserError naming the method.
    """
    jobs = [work.task for work in left if work.draws and isinstance(work.task, Job)]
    asked = {job.method: method for job in jobs if _asks(method := suite.method(job.method))}
    if not asked or (backbone := _hollow(suite)) is None:
        return
    for name, method in asked.items():
        try:
            method.check_backbone(backbone)  # type: ignore[attr-defined]
        except UserError as error:
            raise UserError(f"method '{name}': {error}") from error


def _asks(method: object) -> bool:
    return hasattr(method, "check_backbone")


def _hollow(suite: Suite) -> Backbone | None:
    """The backbone on torch's "meta" device; None for a single file, whose parts say no shapes."""
    from benchmark.models.loading import OneFile

    choice = suite.backbone
    hollow = getattr(choice.load_kind(), "hollow", None)
    if hollow is None:
        return None
    try:
        found: Backbone = hollow(
            choice.model,
            sampler=suite.sampler.sampler(),
            precision=resolve_precision(choice.precision, "cpu"),
            resolution=choice.resolution,
            modules_on="meta",
        )
    except OneFile:
        return None
    return found
