"""Whether the backbone knows what it is asked to draw, looked up before anything trains.

A misspelt class noun passes every other check, and ends in a bad score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from benchmark.api import KnownWords, UserError
from benchmark.config.suite import Suite
from benchmark.data.dataset import definition_file, shipped_nouns
from benchmark.data.manifest import some
from benchmark.store.names import meant
from benchmark.store.records import Job

FEW = 80  #: words that are fewer are listed where one is refused


def words_of(suite: Suite) -> KnownWords | None:
    """What the suite's backbone knows; None if its kind does not say, or its files are not here."""
    look_up = getattr(suite.backbone.load_kind(), "known_words", None)
    return look_up(suite.backbone.model) if look_up else None


def check_vocabulary(suite: Suite, jobs: Iterable[Job]) -> list[str]:
    """What is odd about class nouns that are to be drawn: that the backbone reads them in pieces.

    Raises UserError for a word, also of a prompt, that a backbone of a closed vocabulary was not
    taught. Asked are those kinds of backbones that have `known_words`.
    """
    drawn = [job for job in jobs if job.fit.backbone is not None]
    known = words_of(suite) if drawn else None
    if known is None:
        return []
    model, file = suite.backbone.model, definition_file(suite.data.dataset)
    nouns = {job.fit.class_noun: job.subject for job in reversed(drawn)}
    odd = _odd_nouns(nouns, known)
    said = [f"{noun} of subject '{nouns[own]}' ({file})" for own, noun in odd.items()]
    if not known.closed:
        return [f"{one}, which '{model}' reads in pieces: is it spelled right?" for one in said]
    templates = dict.fromkeys(prompt.template for job in drawn for prompt in job.prompts)
    lacking = {
        word: text for text in templates for word in words_in(text) if word not in known.words
    }
    said += [
        f"'{word}'{meant(word, known.words)} of prompt '{template}'"
        for word, template in lacking.items()
    ]
    if said:
        others = dict.fromkeys(job.subject for job in drawn if job.fit.class_noun not in odd)
        leave = f", leave subjects out (--subjects {','.join(others)})" if odd and others else ""
        raise UserError(
            f"backbone '{model}' was taught {len(known.words)} words, which lack {some(said)}. "
            f"Choose other words{leave}, or another --backbone or --suite. "
            f"`python -m benchmark list words` shows them{_listed(known, [*odd, *lacking])}"
        )
    return []


def _listed(known: KnownWords, wanted: Iterable[str]) -> str:
    """The words if they are few, first those that are spelled most like one that is `wanted`."""
    if len(known.words) >= FEW:
        return ""
    words = sorted(known.words)
    close = [
        near for text in wanted for one in words_in(text) for near in get_close_matches(one, words)
    ]
    return f": {', '.join(dict.fromkeys([*close, *words]))}"


def _odd_nouns(nouns: Mapping[str, str], known: KnownWords) -> dict[str, str]:
    """The class nouns with a word that is not known -> how to say so."""
    shipped = list(shipped_nouns())
    familiar = known.words if known.closed else {*known.words, *words_in(" ".join(shipped))}
    candidates = [noun for noun in shipped if not known.closed or {*words_in(noun)} <= known.words]
    return {
        noun: f"class noun '{noun}'{meant(noun, candidates)}"
        for noun in nouns
        if not {*words_in(noun)} <= familiar
    }


def words_in(text: str) -> list[str]:
    """Its words, in lower case."""
    return re.findall(r"\w+", text.lower())
