"""Whether every text is read to its end, asked before anything is trained or drawn.

A text encoder reads so many tokens, and the libraries cut what comes after them: two prompts that
differ there would be one. And whether every word that is to be learned can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.api import PRIOR_PROMPT, Method, UserError
from benchmark.config.suite import Suite
from benchmark.runs.agenda import Work
from benchmark.runs.score import Assessment
from benchmark.store.records import Job, Prior


def check_prompts(suite: Suite, left: Sequence[Work]) -> None:
    """Refuse what the backbone cannot read of what methods learn and draw. Raises UserError.

    The backbone's files have to be here. Asked are those methods and kinds of backbones that have
    `texts` and `check_texts`, `words` and `check_words`.
    """
    subjects = {subject.name: subject for subject in suite.data.load().subjects}
    texts: dict[str, None] = {}
    words: dict[str, None] = {}
    for task in (work.task for work in left if work.draws):
        if isinstance(task, Prior):
            texts[PRIOR_PROMPT.text(task.class_noun)] = None
        elif task.fit.backbone is not None:
            method, subject = suite.method(task.method), subjects[task.subject]
            texts |= dict.fromkeys(_listed("texts", task, method, subject, task.requests))
            words |= dict.fromkeys(_listed("words", task, method, subject))
    kind, model = suite.backbone.load_kind(), suite.backbone.model
    for check, listed in (("check_words", words), ("check_texts", texts)):
        if listed and hasattr(kind, check):
            getattr(kind, check)(model, list(listed))


def _listed(what: str, job: Job, method: Method, *about: Any) -> list[str]:
    """What a method's `what` lists, if it has that. Raises UserError if it is no text."""
    if not hasattr(method, what):
        return []
    of = f"{what} of method '{job.method}' for subject '{job.subject}'"
    try:
        listed = list(getattr(method, what)(*about))
    except Exception as error:  # whatever a plugin raises, before anything is trained
        raise UserError(f"{of} raises {type(error).__name__}: {error}") from error
    for text in listed:
        if not isinstance(text, str):
            raise UserError(f"{of} has {text!r}, which is no text")
    return listed


def check_captions(assessment: Assessment, jobs: Iterable[Job]) -> None:
    """Refuse what an encoder of the protocol cannot read of the captions. Raises UserError.

    And class nouns that its segmenter does not know.
    """
    from benchmark.scoring.scorer import check_texts
    from benchmark.scoring.views import check_nouns

    protocol, identifier = assessment.protocol, assessment.identifier
    captions: dict[str, None] = {}
    nouns: dict[str, None] = {}
    for job in jobs:
        nouns[job.fit.class_noun] = None
        phrase = protocol.phrase(job.fit.class_noun, identifier)
        prompts = (*job.prompts, *([PRIOR_PROMPT] if job.prior_prompt_images else []))
        captions |= dict.fromkeys(prompt.text(phrase) for prompt in prompts)
    if nouns:
        check_nouns(protocol, list(nouns), assessment.encoders)
        assessment.check_gallery()
    if not captions:
        return
    try:
        check_texts(
            protocol, list(captions), metrics=assessment.metrics, directory=assessment.encoders
        )
    except UserError as error:
        raise UserError(f"protocol '{protocol.label}': {error}") from error
