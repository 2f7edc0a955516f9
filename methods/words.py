"""A learned word among the weights of a method that learns others, too: "word.text_encoder"."""

from __future__ import annotations

from torch import device

from benchmark.api import Weights, Word

_WORD = "word."


def with_word(word: Word, weights: Weights) -> Weights:
    """`weights`, and the vectors of `word`."""
    return {f"{_WORD}{name}": v.detach() for name, v in word.vectors.items()} | {**weights}


def without_word(weights: Weights) -> Weights:
    """What `with_word` was given."""
    return {name: weight for name, weight in weights.items() if not name.startswith(_WORD)}


def word_of(weights: Weights, text: str, place: device) -> Word:
    """The word, called `text`, at `place`."""
    vectors = {
        k.removeprefix(_WORD): v.to(place) for k, v in weights.items() if k.startswith(_WORD)
    }
    return Word(text, vectors)
