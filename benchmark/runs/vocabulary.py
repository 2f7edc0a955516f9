"""Whether the backbone knows what it is asked to draw, looked up before anything trains.

A misspelt class noun passes every other check, and ends in a bad score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from benchmark.api import KnownWords, UserError
from benchmark.config.suite import Suite
from benchmark.data.dataset import shipped_nouns
from benchmark.data.manifest import some
from benchmark.store.names import meant
from benchmark.store.records import Job


def check_vocabulary(suite: Suite, jobs: Iterable[Job]) -> list[str]:
    """What is odd about class nouns that are to be drawn: that the backbone reads them in pieces.

    Raises UserError for a word, also of a prompt, that a backbone of a closed vocabulary was not
    taught. Asked are those kinds of backbones that have `known_words`.
    """
    kind, model = suite.backbone.load_kind(), suite.backbone.model
    drawn = [job for job in jobs if job.fit.backbone is not None]
    known: KnownWords | None = None
    if drawn and (look_up := getattr(kind, "known_words", None)):
        known = look_up(model)
    if known is None:
        return []
    nouns = {job.fit.class_noun: job.subject for job in reversed(drawn)}
    odd = list(_odd_nouns(nouns, known))
    if not known.closed:
        return [f"{said}, which '{model}' reads in pieces: is it spelled right?" for said in odd]
    templates = dict.fromkeys(prompt.template for job in drawn for prompt in job.prompts)
    odd += [
        f"'{word}'{meant(word, known.words)} of prompt '{template}'"
        for template in templates
        for word in _words(template)
        if word not in known.words
    ]
    if odd:
        raise UserError(
            f"backbone '{model}' was taught {len(known.words)} words, which lack {some(odd)}. "
            "Choose other words, or another --backbone or --suite"
        )
    return []


def _odd_nouns(nouns: dict[str, str], known: KnownWords) -> Iterator[str]:
    """The class nouns with a word that is not known, and whose they are."""
    shipped = list(shipped_nouns())
    familiar = known.words if known.closed else {*known.words, *_words(" ".join(shipped))}
    candidates = [noun for noun in shipped if not known.closed or {*_words(noun)} <= known.words]
    for noun, subject in nouns.items():
        if not {*_words(noun)} <= familiar:
            yield f"class noun '{noun}'{meant(noun, candidates)} of subject '{subject}'"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
