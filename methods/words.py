"""A word that is learned, and where it stands among other weights: "word.text_encoder"."""

from __future__ import annotations

from torch import device

from benchmark.api import Backbone, Weights, Word
from benchmark.models.memory.aside import aside
from methods.training import Loss, Optimisation, Progress, train

_WORD = "word."


def learn_word(
    word: Word,
    loss: Loss,
    optimisation: Optimisation,
    backbone: Backbone,
    progress: Progress,
    *,
    narrow: bool = False,
) -> Word:
    """`word` after a training of its vectors alone, by a `loss` whose texts are encoded with it.

    No weight of `backbone` moves. `narrow`: a denoiser's weights lie in the precision that is
    computed with.
    """
    used = [loss.stage.denoiser, *backbone.text_encoders.values()]
    with aside(backbone, used, narrow=narrow):
        train(loss, list(word.vectors.values()), optimisation, backbone.precision, progress)
    return Word(word.text, {name: vector.detach() for name, vector in word.vectors.items()})


def with_word(word: Word, weights: Weights) -> Weights:
    """`weights`, and the vectors of `word`."""
    return {f"{_WORD}{name}": v.detach() for name, v in word.vectors.items()} | {**weights}


def without_word(weights: Weights) -> Weights:
    """What `with_word` was given."""
    return {name: weight for name, weight in weights.items() if not name.startswith(_WORD)}


def word_of(weights: Weights, text: str, place: device) -> Word:
    """The word, called `text`, at `place`. Raises ValueError if `weights` have none."""
    vectors = {
        k.removeprefix(_WORD): v.to(place) for k, v in weights.items() if k.startswith(_WORD)
    }
    if not vectors:
        raise ValueError(f"these weights have no vectors of the word '{text}'")
    return Word(text, vectors)
