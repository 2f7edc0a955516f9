"""Which jobs look at masks, and by which segmenter: asked before anything runs.

A user's own masks go before the segmenter's; what finds the subject in drawn scenes is always that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.api import MASKS, SEGMENTER, Method, Subject, UserError
from benchmark.config.suite import Suite
from benchmark.data.masks import masks_digest
from benchmark.models import segmenters
from benchmark.store.records import Fit

if TYPE_CHECKING:
    from benchmark.api import Segmenter

#: Where `Fit.assets` names it.
ASSET = "segmenter"


def identified(
    suite: Suite, methods: Mapping[str, Method], subjects: Sequence[Subject]
) -> str | None:
    """Which segmenter the suite declares; None if none of `methods` wants one for `subjects`.

    Raises UserError if there is none, if its files are not here, or if it does not know a noun.
    """
    wanting = {
        name: [subject for subject in subjects if wants_segmenter(method, subject)]
        for name, method in methods.items()
    }
    name = next((name for name, whose in wanting.items() if whose), None)
    if name is None:
        return None
    if suite.segmenter is None:
        raise UserError(
            f"method '{name}' needs a segmenter for subject '{wanting[name][0].name}', and the "
            "suite declares none: give the suite a [segmenter], as in `pocket` and `dreambench`, "
            "or leave the method out"
        )
    found = segmenters.identify(suite.segmenter)
    nouns = {subject.class_noun: None for whose in wanting.values() for subject in whose}
    segmenters.check_nouns(suite.segmenter, list(nouns))
    return found


def wants_segmenter(method: Method, subject: Subject) -> bool:
    """Whether a job of `method` on `subject` asks the segmenter."""
    return SEGMENTER in method.needs or (MASKS in method.needs and not subject.masks)


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


def load(suite: Suite, fit: Fit, device: str) -> Segmenter:
    """The segmenter that `fit` was planned with. Raises UserError if its files changed since."""
    assert suite.segmenter is not None
    found = segmenters.kind_of(suite.segmenter).load(suite.segmenter, device)
    # Once it is loaded: its files may have changed until then.
    if (now := segmenters.identify(suite.segmenter)) != fit.assets[ASSET]:
        raise UserError(
            f"planned was segmenter '{fit.assets[ASSET]}', and loaded was '{now}': run the same "
            "command again, with another --out"
        )
    return found
