"""Whether every text is read to its end, asked before anything is trained or drawn.

A text encoder reads so many tokens, and the libraries cut what comes after them: two prompts that
differ there would be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmark.api import PRIOR_PROMPT, Method, Subject, UserError
from benchmark.config.suite import Suite
from benchmark.runs.agenda import Work
from benchmark.runs.score import Assessment
from benchmark.store.records import Job, Prior


def check_prompts(suite: Suite, left: Sequence[Work]) -> None:
    """Refuse what the backbone cannot read of what methods learn and draw. Raises UserError.

    The backbone's files have to be here. Asked are those methods and kinds of backbones that have
    `texts` and `check_texts`.
    """
    check = getattr(suite.backbone.load_kind(), "check_texts", None)
    if check is None:
        return
    subjects = {subject.name: subject for subject in suite.data.load().subjects}
    texts: dict[str, None] = {}
    for task in (work.task for work in left if work.draws):
        if isinstance(task, Prior):
            texts[PRIOR_PROMPT.text(task.class_noun)] = None
        elif task.fit.backbone is not None:
            method = suite.method(task.method)
            texts |= dict.fromkeys(_texts(task, method, subjects[task.subject]))
    if texts:
        check(suite.backbone.model, list(texts))


def _texts(job: Job, method: Method, subject: Subject) -> list[str]:
    """What `method` has encoded in `job`, if it says so. Raises UserError if that is no text."""
    if not hasattr(method, "texts"):
        return []
    try:
        texts = list(method.texts(subject, job.requests))
    except Exception as error:  # whatever a plugin raises, before anything is trained
        raise UserError(
            f"texts of method '{job.method}' for subject '{subject.name}' raises "
            f"{type(error).__name__}: {error}"
        ) from error
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"texts of method '{job.method}' has {text!r}, which is no text")
    return texts


def check_captions(assessment: Assessment, jobs: Iterable[Job]) -> None:
    """Refuse what an encoder of the protocol cannot read of the captions. Raises UserError."""
    from benchmark.scoring.scorer import check_texts

    protocol, identifier = assessment.protocol, assessment.identifier
    captions: dict[str, None] = {}
    for job in jobs:
        phrase = protocol.phrase(job.fit.class_noun, identifier)
        prompts = (*job.prompts, *([PRIOR_PROMPT] if job.prior_prompt_images else []))
        captions |= dict.fromkeys(prompt.text(phrase) for prompt in prompts)
    if not captions:
        return
    try:
        check_texts(
            protocol, list(captions), metrics=assessment.metrics, directory=assessment.encoders
        )
    except UserError as error:
        raise UserError(f"protocol '{protocol.label}': {error}") from error
